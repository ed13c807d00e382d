"""What the commands about key providers share."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ioflt.cli.passphrase import OWN_OPTION, ask

if TYPE_CHECKING:
    from ioflt.crypto.secret import Secret
    from ioflt.datastore.seen import Protected, Use
    from ioflt.keys.native.file import ProviderFile
    from ioflt.keys.native.store import NativeStore


def open_store() -> NativeStore:
    """The directory of this machine's, or user's, providers."""
    from ioflt import paths
    from ioflt.keys.native.store import NativeStore

    return NativeStore(paths.find().own().ensure().providers)


def opened_by(provider: ProviderFile) -> list[str]:
    """Its slots, as `provider list` names them."""
    from ioflt.keys.native.file import label_of

    return [label_of(slot) for slot in provider.slots]


def own_passphrase(
    stack: contextlib.ExitStack, store: NativeStore, name: str, file: str | None
) -> Secret | None:
    """The provider's own passphrase, where one was named or nothing else opens it; wiped with `stack`."""
    if file is None and not store.opens_by_passphrase_only(name):
        return None
    return stack.enter_context(ask(file, f"Passphrase of the provider {name}", option=OWN_OPTION))


def tell_keyd() -> None:
    """A keyd that runs reads the files again."""
    from ioflt.keys.client import KeyClient
    from ioflt.transport.unix import NotListening

    with contextlib.suppress(NotListening), KeyClient(start=False) as keys:
        keys.reload()


def from_now_on(lost: Protected | Use) -> str:
    """What becomes of a VM, or of a datastore itself, whose last key goes."""
    if lost.is_datastore:
        return "no VM is made in it from now on"
    return "locked from now on; what of it is open goes on until it is closed"
