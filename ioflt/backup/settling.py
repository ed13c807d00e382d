"""The stored files of a VM that runs, as they are at one moment. No key is needed.

They are copied while the VM writes, and again what was written meanwhile, as its mounts tell, until that is
little. Then writes are held back, for as long as it takes to copy the rest, the first part of each container
(header and state) and the small files. So the guest waits for what it wrote last, not for its disks.

The copies are files without a name beside the destination's points: they are gone when this process is.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final, TypeAlias

from ioflt.backup import copying, increments
from ioflt.backup.copying import Frame
from ioflt.backup.disk import Area, VirtualDisk, aligned
from ioflt.backup.flat import FlatDisk
from ioflt.backup.homefiles import FoundDisk
from ioflt.backup.shelf import Shelf
from ioflt.backup.sources import CIPHERTEXT, LARGE, Stored, Tracked
from ioflt.backup.writers import Writers, held
from ioflt.datastore import regular
from ioflt.datastore.container import Progress
from ioflt.datastore.home import Home
from ioflt.datastore.openfile import OpenFile
from ioflt.datastore.plain import PlainFile
from ioflt.errors import BugError, BusyError, MalformedError
from ioflt.filters.backing import Backing
from ioflt.format.luks2.layout import DATA_OFFSET
from ioflt.format.manifest.model import Consistency, File
from ioflt.format.qcow2.writer import CLUSTER
from ioflt.format.record.record import HomeRecord

#: Bytes copied at once.
STEP: Final = 1 << 20

#: Bytes of disks, written and not copied yet, with which writes are held back at once: copied in 10 ms,
#: in 53 ms as single sectors of a disk of 1 GiB. Less is not to be had beside a writer: a pass takes as long.
FEW: Final = 8 << 20

#: Passes beside the writer after which as much as `MOST` is copied with writes held back, in 0.12 s,
#: or 0.32 s as single sectors. Where there is still more, as many passes again are tried, and then there
#: is no backup.
PASSES: Final = 8
MOST: Final = 32 << 20

#: Which areas of a disk are wanted at the least; None: all that it has.
Plan: TypeAlias = Callable[[FoundDisk, VirtualDisk], list[Area] | None]


class Settled(Stored):
    """A source, and a context manager. Nothing is read before `settle`."""

    transport = CIPHERTEXT
    consistency: Consistency = "crash-consistent"

    def __init__(self, home: Home, used: Writers) -> None:
        """`used`: all that may write to it. Raises as `Stored`."""
        super().__init__(home)
        self._used = used
        self._before = super().record()
        self._large: dict[str, _Large] = {}
        self._small: dict[str, tuple[os.stat_result, bytes]] = {}
        self._frame: Frame | None = None

    def close(self) -> None:
        """The copies are gone."""
        while self._large:
            self._large.popitem()[1].close()

    def __enter__(self) -> Settled:
        return self

    def __exit__(self, *_about: object) -> None:
        self.close()

    # Source

    def settle(self, shelf: Shelf, plan: Plan) -> None:
        """Raises BusyError where it is written faster than copied, PeerError where a mount ends meanwhile."""
        with regular.named(self._home):
            self._used.watch()
            for number in range(2 * PASSES):
                self._begin(shelf, plan)
                self._gather()
                if self._weight() > (FEW if number < PASSES else MOST):
                    self._copy_rest()
                elif self._finish(shelf, plan):
                    return
                else:
                    self._look()
            raise BusyError("in use, and written faster than it is copied")

    def open(self, disk: FoundDisk) -> VirtualDisk:
        large = self._large[disk.path]
        return FlatDisk(large.copy) if large.areas is None else _Partial(large.copy)

    def tracked(self, disk: FoundDisk, since: str | None) -> Tracked:
        """What its plan was, and what was written meanwhile."""
        large = self._large[disk.path]
        return Tracked() if large.areas is None else Tracked(areas=list(large.inside(large.areas)))

    def info(self, path: str) -> os.stat_result:
        return self._large[path].info

    def keep(self, path: str, shelf: Shelf, draft: str, progress: Progress | None) -> File:
        if path in self._large:
            large = self._large[path]
            return copying.store(large.copy, large.info, path, shelf, draft, progress)
        info, data = self._small[path]
        with _temporary(shelf) as file:
            file.write(0, data)
            return copying.store(file, info, path, shelf, draft, progress)

    def frame(self) -> Frame:
        if self._frame is None:
            raise BugError("asked before it was settled")
        return self._frame

    def record(self) -> HomeRecord:
        return self._before

    def check(self) -> None:
        """Nothing: what was to be seen was, before writes went on."""

    # Passes

    def _look(self) -> None:
        """What there is now."""
        found = Stored(self._home)
        self.disks, self.files = found.disks, found.files
        self.directories, self.links = found.directories, found.links

    def _now(self) -> dict[str, FoundDisk]:
        """By its path each large file; a file of tags is one, too."""
        large = {disk.path: disk for disk in self.disks}
        for path in self.files:
            with suppress(FileNotFoundError):  # seen missing, with writes held back, if it is
                info = os.stat(path, dir_fd=self._home.fd, follow_symlinks=False)
                if info.st_size >= LARGE:
                    large[path] = FoundDisk(path, "container")
        return large

    def _begin(self, shelf: Shelf, plan: Plan) -> None:
        """Copy the large files that are not copied yet; forget those that are gone."""
        now = self._now()
        for path in [
            path for path, each in self._large.items() if path not in now or not each.is_at(self._home)
        ]:
            self._large.pop(path).close()
        disks = {disk.path for disk in self.disks}
        for path, disk in now.items():
            if path not in self._large:
                try:
                    large = self._large[path] = _Large(self._home, path, shelf)
                except FileNotFoundError:  # gone meanwhile
                    continue
                source = large.source()
                large.areas = plan(disk, source) if path in disks else None
                large.copy_areas(source.areas() if large.areas is None else large.areas)

    def _gather(self) -> None:
        """Add what was written to what is to be copied."""
        by_key: dict[tuple[int, int], list[_Large]] = {}
        for large in self._large.values():
            by_key.setdefault(large.key, []).append(large)
        for device, inode, start, length in self._used.take_written():
            for large in by_key.get((device, inode), ()):
                large.rest.append(Area(start, length))

    def _weight(self) -> int:
        return sum(large.weight() for large in self._large.values())

    def _copy_rest(self) -> None:
        for large in self._large.values():
            large.copy_rest()
            os.fdatasync(large.fd)  # else it is the mounts that sync it, while writes wait

    def _unseen(self) -> int:
        """Bytes of large files that came since, without holes."""
        found = 0
        for path in self._now():
            if path not in self._large or not self._large[path].is_at(self._home):
                with suppress(FileNotFoundError):
                    found += os.stat(path, dir_fd=self._home.fd, follow_symlinks=False).st_blocks * 512
        return found

    def _finish(self, shelf: Shelf, plan: Plan) -> bool:
        """All that is left, at one moment; False where that is too much."""
        with held(self._used):
            for large in self._large.values():  # state before data: what it says of them is so already
                large.copy_again([Area(0, DATA_OFFSET)])
            self._gather()
            self._look()
            if self._weight() + self._unseen() > MOST:
                return False
            self._begin(shelf, plan)
            if self._now().keys() != self._large.keys():  # not by a mount: those wait
                return False
            for large in self._large.values():
                large.copy_rest()
                large.end()
            self._small = {path: self._read(path) for path in self.files if path not in self._large}
            self._frame = super().frame()
            if super().record() != self._before:
                raise BusyError("its keys were changed meanwhile")
            self._used.check()  # of what another mount wrote nobody told
        return True

    def _read(self, path: str) -> tuple[os.stat_result, bytes]:
        with regular.opened(self._home, path) as fd:
            info = os.fstat(fd)
            data = os.pread(fd, info.st_size, 0)
            if len(data) != info.st_size:
                raise MalformedError("truncated", "it became shorter meanwhile", file=path)
            return info, data


class _Large:
    """A stored file and its copy. `areas`: what of it the copy has at the least; None: all. `rest`: what is
    to be copied again.
    """

    def __init__(self, home: Home, path: str, shelf: Shelf) -> None:
        self.path = path
        self.fd = regular.open_file(home, path)
        self._plain = PlainFile(self.fd, Backing(self.fd, 0))
        self.info = os.fstat(self.fd)
        self.key = self.info.st_dev, self.info.st_ino
        self.areas: list[Area] | None = None
        self.rest: list[Area] = []
        try:
            self._stack = ExitStack()
            self.copy = self._stack.enter_context(_temporary(shelf))
        except BaseException:  # nobody else closes it
            self._plain.close()
            raise

    def close(self) -> None:
        self._stack.close()
        self._plain.close()

    def is_at(self, home: Home) -> bool:
        """Whether it still is the file of that path."""
        try:
            info = os.stat(self.path, dir_fd=home.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (info.st_dev, info.st_ino) == self.key

    def source(self) -> FlatDisk:
        """The file as a disk of the length that it has now."""
        return _Unsteady(self._plain)

    def inside(self, areas: list[Area]) -> Iterator[Area]:
        """What of them lies in the file, in order, those that touch as one."""
        end = -(-os.fstat(self.fd).st_size // 512) * 512
        return increments.merged(
            Area(each.start, min(each.end, end) - each.start) for each in areas if each.start < end
        )

    def weight(self) -> int:
        """Bytes of `rest`, without holes."""
        source = self.source()
        return sum(
            part.length for area in self.inside(self.rest) for part in source.areas(*_of(area, source))
        )

    def copy_rest(self) -> None:
        rest, self.rest = self.rest, []
        self.copy_again(rest)

    def copy_again(self, areas: list[Area]) -> None:
        """What of them lies in the file, as it is now."""
        inside = list(self.inside(areas))
        if self.areas is not None:  # an image has whole clusters: so has the copy, once it has any of one
            new = list(increments.without(aligned(inside, CLUSTER, self.source().capacity), self.areas))
            inside = list(increments.merged([*inside, *new]))
            self.areas = list(increments.merged([*self.areas, *inside]))
        self.copy_areas(inside)

    def copy_areas(self, areas: Iterator[Area] | list[Area]) -> None:
        """As they are now; what are holes are zeros of the copy, whatever that had."""
        source = self.source()
        copy = FlatDisk(self.copy)
        for area in areas:
            done = area.start
            for part in source.areas(*_of(area, source)):
                self._blank(copy, done, part.start)
                for offset in range(part.start, part.end, STEP):
                    length = min(STEP, part.end - offset)
                    self.copy.write(offset, source.read(offset, length))
                done = part.end
            self._blank(copy, done, area.end)

    def _blank(self, copy: FlatDisk, start: int, end: int) -> None:
        end = min(end, copy.capacity)
        for part in copy.areas(start, end - start) if start < end else ():
            for offset in range(part.start, part.end, STEP):
                self.copy.write(offset, bytes(min(STEP, part.end - offset)))

    def end(self) -> None:
        """Nobody writes now: length and looks are these."""
        self.info = os.fstat(self.fd)
        self.copy.truncate(self.info.st_size)


class _Partial(FlatDisk):
    """A copy that has what an increment needs, and is nothing by itself."""

    def areas(self, offset: int = 0, length: int | None = None) -> Iterator[Area]:
        if length is None:
            raise BusyError("what the increment builds on is not there any more")
        return super().areas(offset, length)


class _Unsteady(FlatDisk):
    """A file that may become shorter meanwhile: that part reads as zeros, and will be told of."""

    def read(self, offset: int, length: int) -> bytes:
        data = b""
        while len(data) < length:
            more = bytes(self._file.read(offset + len(data), length - len(data)))
            if not more:
                return data.ljust(length, b"\0")
            data += more
        return data


def _of(area: Area, disk: FlatDisk) -> tuple[int, int]:
    start = min(area.start, disk.capacity)
    return start, min(area.end, disk.capacity) - start


@contextmanager
def _temporary(shelf: Shelf) -> Iterator[OpenFile]:
    """A file of the destination that has no name."""
    with shelf.naming(""), tempfile.TemporaryFile(dir=f"/proc/self/fd/{shelf.fd}") as file:
        fd = os.dup(file.fileno())
    plain = PlainFile(fd, Backing(fd, 0))
    try:
        yield plain
    finally:
        plain.close()
