"""The end of a KEK: destroyed on its key servers, or done without on this host where it cannot be."""

from __future__ import annotations

from ioflt import paths
from ioflt.errors import KeyNotFound
from ioflt.keys.client import KeyService
from ioflt.keys.directory import ProviderDirectory
from ioflt.keys.kmip.file import KIND
from ioflt.keys.kmip.keys import KmipKeys
from ioflt.keys.kmip.provider import KmipProvider
from ioflt.keys.kmip.store import KmipStore
from ioflt.types import KeyRef
from ioflt.wire.kmip.enumerations import RevocationReasonCode, State

#: States in which servers refuse to destroy a key.
_IN_FORCE = (State.ACTIVE,)


def destroy(key: KeyRef, service: KeyService) -> bool:
    """Revoke and destroy a key on its servers; keyd forgets it. Also one that was destroyed already.

    False for a key that is derived from its provider's one key, and is not destroyed without that: it is
    removed from this host. Raises KeyUnavailableError when the servers do not do it.
    """
    directory = paths.find().own().ensure().providers
    if ProviderDirectory(directory).kind(key.provider) != KIND:
        service.remove_key(key)
        return False
    store = KmipStore(directory)
    provider = KmipProvider(store.load(key.provider), store)
    try:
        provider.call(lambda keys: _destroy(keys, key.key_id))
    finally:
        provider.close()
    service.forget_key(key)
    return True


async def _destroy(keys: KmipKeys, key_id: str) -> None:
    try:
        if await keys.state(key_id) in _IN_FORCE:
            await keys.revoke(key_id, RevocationReasonCode.CESSATION_OF_OPERATION)
        await keys.destroy(key_id)
    except KeyNotFound:  # the servers know it no more
        return
