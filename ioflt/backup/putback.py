"""A VM put back from a point of ciphertext: its containers as they were, under the keys that they have.

No key is needed. Where this host knows that the VM came further since, somebody has to vouch for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ioflt.backup.filling import Filling
from ioflt.backup.shelf import Shelf
from ioflt.crypto.mac import sha256
from ioflt.datastore import atomic, registration, sightings
from ioflt.datastore.container import Progress
from ioflt.datastore.newhome import resumed_directory
from ioflt.datastore.standing import Refusal, is_private
from ioflt.datastore.tree import HostSide, Side
from ioflt.datastore.volume import Volume
from ioflt.errors import ExistsError, IofltError, MalformedError, StorageError
from ioflt.format.manifest import text
from ioflt.format.manifest.model import Manifest
from ioflt.format.record import record as form


def put_back(
    shelf: Shelf,
    manifest: Manifest,
    volume: Volume,
    name: str,
    progress: Progress | None = None,
    *,
    owners: bool = False,
) -> list[str]:
    """Make the VM `name` of a point of ciphertext; the paths of its files. `owners`: as `restore.restore`.

    Raises ExistsError, also where the same VM is somewhere else: two would have the same data keys and file
    ids. UsageError for the name, BusyError, CorruptDataError, StorageError.
    """
    home_id = _home_id(shelf, manifest)
    about = f"{manifest.vm}\0{manifest.point}\0{home_id}\0as it is stored"
    token = sha256(about.encode("utf-8", "surrogateescape")).hex()[:32]
    with resumed_directory(volume, name, token) as fd:
        beside = (os.path.join(volume.path, other) for other in volume.homes())
        for place in (*volume.memory.look(home_id).places, *beside):
            if sightings.is_copy(fd, place, home_id):
                raise ExistsError(f"the same VM is in {place}, and is not put back beside it", file=name)
        paths = Filling(shelf, manifest, _InDirectory(fd, volume, name), progress, owners=owners).run()
    return [path for path in paths if not is_private(path.partition("/")[0])]


def vouch(volume: Volume, name: str) -> str | None:
    """Accept that it is older than what this host has seen, if it is; why it opens for nobody, if so.

    Raises KeyUnavailableError, DeniedError, CorruptDataError, StorageError.
    """
    if volume.home(name).standing().refusal is Refusal.ROLLED_BACK:
        registration.register(volume, name, accept_rollback=True)
    return volume.home(name).standing().problem


def _home_id(shelf: Shelf, manifest: Manifest) -> str:
    where = f"{manifest.point}/{text.FILES}/{atomic.RECORD}"
    with shelf.opened(where) as file, shelf.naming(where):
        data = bytes(file.read(0, form.MAX_SIZE + 1))
        if sha256(data).hex() not in [each.sha256 for each in manifest.files if each.path == atomic.RECORD]:
            raise MalformedError(
                "changed", "its digest is not that of the manifest"
            )  # so it comes back as it is
        record = form.parse_home(data).record
    if record.home_id != manifest.home_id:
        raise MalformedError("record of another home", file=shelf.path)
    return record.home_id


class _InDirectory:
    """A directory in which files are stored as they come."""

    side: Side = HostSide()

    def __init__(self, fd: int, volume: Volume, name: str) -> None:
        self.fd = fd
        self._shown = os.path.join(volume.path, name)

    @contextmanager
    def named(self, path: str) -> Iterator[None]:
        where = os.path.join(self._shown, path)
        try:
            yield
        except OSError as error:
            raise StorageError("the datastore's file system failed", error.errno or 0, file=where) from error
        except IofltError as error:
            if error.file is None or not os.path.isabs(error.file):
                error.file = where
            raise

    def remove(self, parent_fd: int, name: str) -> None:
        os.unlink(name, dir_fd=parent_fd)
