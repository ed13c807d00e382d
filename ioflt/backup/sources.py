"""What a backup reads of a VM: disks as the guest sees them, or stored files as they are."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from ioflt.backup import copying, homefiles, transports
from ioflt.backup.copying import Frame
from ioflt.backup.disk import Area, VirtualDisk
from ioflt.backup.flat import FlatDisk
from ioflt.backup.homefiles import FoundDisk
from ioflt.backup.running import Running
from ioflt.backup.shelf import Shelf
from ioflt.datastore import atomic, cbt, regular, tree
from ioflt.datastore.container import Progress
from ioflt.datastore.home import Home
from ioflt.datastore.plain import PlainFile
from ioflt.datastore.standing import Treatment, is_private, stored_as
from ioflt.datastore.tree import HomeSide, HostSide, Side
from ioflt.datastore.volume import Volume
from ioflt.errors import ChangesUnknownError, NotFoundError, ReadOnlyError, UnsupportedError, UsageError
from ioflt.filters.backing import Backing
from ioflt.format.cbt import changeid
from ioflt.format.luks2.layout import DATA_OFFSET
from ioflt.format.luks2.tags import SUFFIX
from ioflt.format.manifest.model import File
from ioflt.format.record.record import HomeRecord
from ioflt.types import HomeState

#: What a manifest calls the reading of stored files as they are.
CIPHERTEXT: Final = "ciphertext"

#: Stored files from this size on have images, of which increments are made; smaller ones that are no
#: containers (a sealed VMX, a small clear file) are kept whole.
LARGE: Final = 1 << 20


class Source(Protocol):
    """`always`: what an increment holds in any case. `side` opens `files`. `notes`: what of the VM is not
    read, in words.
    """

    disks: list[FoundDisk]
    files: list[str]
    directories: list[str]
    links: dict[str, str]
    notes: list[str]
    side: Side
    transport: str
    always: tuple[Area, ...]

    def open(self, disk: FoundDisk) -> VirtualDisk:
        """The disk, for reading."""

    def tracked(self, disk: FoundDisk, since: str | None) -> Tracked:
        """What is tracked of its changes since that id, if anything is; nobody writes meanwhile."""

    def info(self, path: str) -> os.stat_result:
        """How a disk's file looks."""

    def keep(self, path: str, shelf: Shelf, draft: str, progress: Progress | None) -> File:
        """Copy one of `files` into the draft. Raises as `copying.copy`."""

    def frame(self) -> Frame:
        """All of the home that is no file."""


@dataclass(frozen=True, slots=True)
class Tracked:
    """`change_id` of now, None where nothing is tracked. `areas`: what changed since the id that was asked
    about; None where that is not known, `lost` if it could not be known from it any more.
    """

    change_id: str | None = None
    areas: list[Area] | None = None
    lost: bool = False


class _InHome:
    """What of a VM is read where it lies."""

    directories: list[str]
    links: dict[str, str]
    side: Side

    def __init__(self, home: Home) -> None:
        self._home = home

    def info(self, path: str) -> os.stat_result:
        with regular.named(self._home, path):
            return os.stat(path, dir_fd=self._home.fd, follow_symlinks=False)

    def keep(self, path: str, shelf: Shelf, draft: str, progress: Progress | None) -> File:
        return copying.copy(self._home, self.side, path, shelf, draft, progress)

    def frame(self) -> Frame:
        return copying.frame(self._home, self.directories, self.links)


class Plain(_InHome):
    """The VM as its guest sees it, by a transport mode. Raises as `homefiles.look`."""

    always: tuple[Area, ...] = ()

    def __init__(self, volume: Volume, home: Home, transport: str) -> None:
        super().__init__(home)
        self._volume = volume
        self._name = home.name
        found = homefiles.look(home)
        self.disks, self.files = found.disks, found.files
        self.directories, self.links = found.directories, found.links
        self.notes = found.notes
        self.side: Side = HomeSide(home)
        self.transport = transport

    def open(self, disk: FoundDisk) -> VirtualDisk:
        return transports.open_disk(self._volume, self._name, disk.path, self.transport)

    def tracked(self, disk: FoundDisk, since: str | None) -> Tracked:
        """Raises KeyUnavailableError, DeniedError, CorruptDataError, StorageError."""
        return self.changes(disk, self.take(disk), since)

    def take(self, disk: FoundDisk) -> str | None:
        """The change id of now, None where nothing is tracked. Raises as `tracked`."""
        try:
            return str(cbt.take(self._home, disk.path, held=True))
        except (NotFoundError, UnsupportedError, ReadOnlyError):
            return None

    def changes(self, disk: FoundDisk, now: str | None, since: str | None) -> Tracked:
        """What changed since an id; `now`: what was taken. Raises as `tracked`."""
        if now is None or since is None:
            return Tracked(now)
        try:
            found = cbt.query(self._home, disk.path, changeid.parse(since), held=True)
        except (ChangesUnknownError, UsageError):
            return Tracked(now, lost=True)
        return Tracked(now, [Area(start, length) for start, length in found])


class Live(_InHome):
    """The VM as it was at one moment of its run; `found`: what it has beside its disks' bytes.

    `taken`: change ids of before that moment, by the disks' paths. What was written in between is in the
    backup, and in the next increment as well.
    """

    always: tuple[Area, ...] = ()
    transport = "nbd"

    def __init__(self, home: Home, found: Plain, taken: dict[str, str | None], running: Running) -> None:
        super().__init__(home)
        self._found = found
        self._taken = taken
        self._running = running
        self.disks, self.files = found.disks, found.files
        self.directories, self.links = found.directories, found.links
        self.notes = found.notes
        self.side = found.side

    def open(self, disk: FoundDisk) -> VirtualDisk:
        return self._running.open(disk.path)

    def tracked(self, disk: FoundDisk, since: str | None) -> Tracked:
        """What changed up to now, and so up to the moment. Raises as that of `Plain`."""
        return self._found.changes(disk, self._taken[disk.path], since)


class Stored(_InHome):
    """The VM as it is stored: containers, sealed VMX, record, tags. No key is needed.

    Raises UnsupportedError "not a regular file", "symlink leads out"; StorageError.
    """

    transport = CIPHERTEXT
    always: tuple[Area, ...] = (Area(0, DATA_OFFSET),)

    def __init__(self, home: Home) -> None:
        super().__init__(home)
        self.side: Side = HostSide()
        self.disks: list[FoundDisk] = []
        self.files: list[str] = []
        self.directories: list[str] = []
        self.links: dict[str, str] = {}
        self.notes: list[str] = []
        with regular.named(home):
            for root, below, names, fd in regular.directories(home):
                for name in (*below, *names):
                    path = os.path.normpath(os.path.join(root, name))
                    with regular.named(home, path), suppress(FileNotFoundError):
                        self._sort(fd, path)
        self.disks.sort(key=lambda disk: disk.path)
        for paths in (self.files, self.directories):
            paths.sort()
        self.links = dict(sorted(self.links.items()))

    def _sort(self, parent_fd: int, path: str) -> None:
        name = os.path.basename(path)
        info = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        if is_private(path.partition("/")[0]):
            if path == atomic.RECORD or name.endswith(SUFFIX):
                self.files.append(path)  # else it is a draft of somebody's
        elif stat.S_ISDIR(info.st_mode):
            self.directories.append(path)
        elif stat.S_ISLNK(info.st_mode):
            self.links[path] = tree.inner_link(parent_fd, path)
        elif homefiles.is_fleece(name):
            return
        elif not stat.S_ISREG(info.st_mode):
            raise UnsupportedError("not a regular file")
        elif info.st_size >= LARGE and stored_as(path) is not Treatment.VMX:
            self.disks.append(FoundDisk(path, "container"))
        else:
            self.files.append(path)

    def record(self) -> HomeRecord:
        """The record by which it is restored; its key is not needed. Raises UsageError."""
        record = self._home.unverified().record
        if record is None:
            raise UsageError("has no record by which it could be restored")
        if record.state is HomeState.CLEAR:
            raise UsageError("is clear: there is no ciphertext of it")
        if record.operation is not None:
            raise UsageError("something that was begun on it was interrupted, and comes first")
        return record

    def tracked(self, disk: FoundDisk, since: str | None) -> Tracked:
        """That takes keys."""
        return Tracked()

    def open(self, disk: FoundDisk) -> VirtualDisk:
        with regular.named(self._home, disk.path):
            return StoredFile(regular.open_file(self._home, disk.path))


class StoredFile(FlatDisk):
    """A stored file as a disk. Owns `fd`."""

    def __init__(self, fd: int) -> None:
        self._plain = PlainFile(fd, Backing(fd, 0))
        super().__init__(self._plain)

    def close(self) -> None:
        self._plain.close()
