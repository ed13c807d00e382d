"""Keys on key servers, for those who operate them: found, revoked, destroyed, by keyd's own connections.

Who asks need not have what opens the servers. No key goes out. What happens to one is told before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from ioflt.audit.event import Event, modified
from ioflt.errors import KeyCorrupt, KeyNotFound, UsageError
from ioflt.keyd.keks import Keks
from ioflt.keyd.recorder import Recorder, event, key_thing
from ioflt.keys.kmip.criterion import criterion
from ioflt.keys.kmip.file import KIND
from ioflt.keys.kmip.keys import MAX_LOCATED, KmipKeys
from ioflt.keys.kmip.provider import KmipProvider
from ioflt.keys.kmip.store import KmipStore
from ioflt.keys.native.store import NativeStore
from ioflt.types import MAX_KEY_ID, KeyRef
from ioflt.wire.keyd.requests import Criterion
from ioflt.wire.keyd.values import Revocation
from ioflt.wire.kmip.enumerations import RevocationReasonCode, State

#: States in which servers refuse to destroy a key.
_IN_FORCE: Final = (State.ACTIVE,)

#: Says in an event for whom it is.
Whose = Callable[[Event], Event]


class ServerKeys:
    """Of the kmip providers of a keyd. Every call may raise NotFoundError, UsageError for a provider without
    key servers, KeyUnavailableError (ProviderLocked while keyd is locked), GoesOut.
    """

    def __init__(self, store: NativeStore, keks: Keks, recorder: Recorder) -> None:
        self._directory = store
        self._kmip = KmipStore(store.directory)
        self._keks = keks
        self._recorder = recorder

    def locate(self, provider: str, criteria: Sequence[Criterion]) -> list[str]:
        """Ids of the symmetric keys that are all of that, at most MAX_LOCATED."""
        wanted = [criterion(one.name, one.text) for one in criteria]
        found = self._servers(provider).call(lambda keys: keys.locate(wanted))[:MAX_LOCATED]
        if not all(0 < len(key_id) <= MAX_KEY_ID for key_id in found):
            raise KeyCorrupt(f"the key server of {provider} names a key without a usable id")
        return found

    def revoke(self, key: KeyRef, reason: Revocation, whose: Whose) -> None:
        """End the key's use for new data; one that others know has been known to them from now on."""
        code = RevocationReasonCode[reason.upper().replace("-", "_")]
        since = int(time.time()) if code == RevocationReasonCode.KEY_COMPROMISE else None
        servers = self._servers(key.provider)
        told = event(
            "key revoke", key_thing(key), changes=[modified("key.state", None, f"revoked, {reason}")]
        )
        with self._recorder.around(whose(told)):
            servers.call(lambda keys: keys.revoke(key.key_id, code, since))

    def destroy(self, key: KeyRef, whose: Whose) -> None:
        """Destroy the key on its servers, which refuse it while it is active. What is cached stays so."""
        servers = self._servers(key.provider)
        with self._recorder.around(whose(_destroyed("key destroy", key))):
            servers.call(lambda keys: keys.destroy(key.key_id))
        self._keks.ask([key])  # so a copy sealed to this host goes, too

    def erase(self, key: KeyRef, whose: Whose) -> bool:
        """Revoke and destroy the key of a VM that is erased, and forget it; also one that is gone already.

        False for a key that is derived from its provider's one key, and is not destroyed without that: it is
        removed from this host.
        """
        if self._directory.kind(key.provider) != KIND:
            with self._recorder.around(whose(event("key remove", key_thing(key)))):
                self._keks.remove(key)
            return False
        servers = self._servers(key.provider)
        with self._recorder.around(whose(_destroyed("vm erase: --destroy-key", key))):
            servers.call(lambda keys: _end(keys, key.key_id))
        self._keks.forget(key)
        return True

    def _servers(self, name: str) -> KmipProvider:
        """Those of a provider, which are going to be waited for."""
        self._kmip.load(name)  # says what is wrong with a name that a person typed
        provider = self._keks.provider(name)
        if not isinstance(provider, KmipProvider):
            raise UsageError(f"the provider {name} has no key servers")
        return provider


def _destroyed(operation: str, key: KeyRef) -> Event:
    return event(operation, key_thing(key), changes=[modified("key.state", None, "destroyed")])


async def _end(keys: KmipKeys, key_id: str) -> None:
    try:
        if await keys.state(key_id) in _IN_FORCE:
            await keys.revoke(key_id, RevocationReasonCode.CESSATION_OF_OPERATION)
        await keys.destroy(key_id)
    except KeyNotFound:  # the servers know it no more
        return
