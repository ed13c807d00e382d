"""Keys without a daemon: the service of keyd in this process, for tests."""

from __future__ import annotations

import uuid
from pathlib import Path
from types import TracebackType

from ioflt.crypto.secret import Secret
from ioflt.keyd.service import Service
from ioflt.keys.directory import LOCAL
from ioflt.keys.files import replace
from ioflt.keys.native.file import ProviderFile
from ioflt.keys.native.slots import seal_keyfile
from ioflt.keys.native.store import NativeStore
from ioflt.keys.provider_file import write
from ioflt.paths import Paths


class LocalKeys(Service):
    """A `keys.service.KeyService` over a directory of its own; a second one over it has the same keys.

    Its provider `local` is opened by a key file and counts as backed up, whatever the host offers.
    """

    def __init__(self, directory: Path) -> None:
        """`directory` exists; state and sockets go below it."""
        where = Paths(directory / "state", directory / "run", False).ensure()
        store = NativeStore(where.providers)
        if LOCAL not in store.names():
            _make_local(store)
        super().__init__(where)

    def __enter__(self) -> LocalKeys:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _make_local(store: NativeStore) -> None:
    path = store.path(LOCAL)
    ident, kdk_id = str(uuid.uuid4()), str(uuid.uuid4())
    with Secret.random(32) as kdk:
        slot = seal_keyfile(ident, kdk_id, kdk, path)
        file = ProviderFile(name=LOCAL, uuid=ident, kdk_id=kdk_id, backed_up=True, slots=(slot,))
        replace(path, write(file))
