"""What the commands about key providers share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ioflt.cli.passphrase import OWN_OPTION, ask
from ioflt.errors import UsageError

if TYPE_CHECKING:
    from ioflt.crypto.secret import Secret
    from ioflt.datastore.seen import Protected, Use
    from ioflt.keys.native.file import ProviderFile
    from ioflt.keys.native.store import NativeStore
    from ioflt.keys.providers import Providers
    from ioflt.wire.keyd.providers import About


def open_store() -> NativeStore:
    """The directory of this machine's, or user's, providers."""
    from ioflt import paths
    from ioflt.keys.native.store import NativeStore

    return NativeStore(paths.find().own().ensure().providers)


@contextlib.contextmanager
def open_providers() -> Iterator[Providers]:
    """The providers of this machine or user, for who has their files, or by keyd."""
    from ioflt import paths
    from ioflt.cli.session import connect_keys

    where = paths.find()
    if where.joined:
        from ioflt.keys.keyd_providers import KeydProviders

        with connect_keys() as keys:
            yield KeydProviders(keys)
    else:
        from ioflt.keys.own_providers import OwnProviders

        yield OwnProviders(where.ensure().providers)


def opened_by(provider: ProviderFile) -> list[str]:
    """Its slots, as `provider list` names them."""
    from ioflt.keys.native.file import label_of

    return [label_of(slot) for slot in provider.slots]


def own_passphrase(stack: contextlib.ExitStack, about: About, file: str | None) -> Secret | None:
    """The provider's own passphrase, where one was named or nothing else opens it; wiped with `stack`.

    Raises UsageError for a provider of another kind than native.
    """
    from ioflt.keys.native.file import KIND, SECRET_LABELS

    if about.kind not in ("", KIND):
        raise UsageError(
            f"the provider {about.name} is not a native one: it has no slots, and no key to keep"
        )
    slots = slots_of(about)
    if file is None and not (slots and all(slot in SECRET_LABELS for slot in slots)):
        return None
    return stack.enter_context(ask(file, f"Passphrase of the provider {about.name}", option=OWN_OPTION))


def slots_of(about: About) -> list[str]:
    """The slots of a native provider, as `provider list` names them."""
    slots = about.facts.get("slots")
    return list(slots) if isinstance(slots, tuple) else []


def tell_keyd() -> None:
    """A keyd that runs reads the files again; what it changed itself it has read."""
    from ioflt import paths
    from ioflt.keys.client import KeyClient
    from ioflt.transport.unix import NotListening

    if paths.find().joined:
        return
    with contextlib.suppress(NotListening), KeyClient(start=False) as keys:
        keys.reload()


def from_now_on(lost: Protected | Use) -> str:
    """What becomes of a VM, or of a datastore itself, whose last key goes."""
    if lost.is_datastore:
        return "no VM is made in it from now on"
    return "locked from now on; what of it is open goes on until it is closed"
