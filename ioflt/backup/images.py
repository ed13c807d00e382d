"""qcow2 images of a shelf: written in one pass, read back, and read as a disk through what they build on.

What an image holds is compared with what was read from the disk, over what the medium gives: its pages are
dropped from the cache before.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from types import TracebackType
from typing import Final, Protocol, Self

from ioflt import ahead
from ioflt.backup import sealing
from ioflt.backup.disk import Area, VirtualDisk, aligned, check_inside
from ioflt.backup.proved import Proved
from ioflt.backup.shelf import Shelf
from ioflt.datastore.container import Progress
from ioflt.datastore.openfile import OpenFile
from ioflt.datastore.writeout import WriteOut
from ioflt.errors import CorruptDataError, MalformedError
from ioflt.format.manifest.model import Manifest
from ioflt.format.mapping import Kind
from ioflt.format.qcow2.reader import Reader
from ioflt.format.qcow2.writer import CLUSTER, Writer

#: Bytes read from a disk at once.
STEP: Final = 1 << 20

_ZEROS: Final = bytes(CLUSTER)

#: Most images of a disk that build on each other: each is an open file, and a step down for QEMU and for us.
MAX_CHAIN: Final = 128


@dataclass(frozen=True, slots=True)
class Stored:
    """An image: bytes of its file, its digest, and that of what it holds."""

    size: int
    sha256: str
    content: str


class Content:
    """The digest of what an image holds: of each of its clusters the offset, and the bytes."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Whole clusters from `offset` on; the last one of a disk may be shorter."""
        view = memoryview(data)
        for start in range(0, len(view), CLUSTER):
            self._hash.update((offset + start).to_bytes(8, "little"))
            self._hash.update(view[start : start + CLUSTER])

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def clusters(areas: Iterable[Area], capacity: int) -> Iterator[Area]:
    """The areas, widened to whole clusters, those that then touch as one; none is longer than `STEP`."""
    for area in aligned(areas, CLUSTER, capacity):
        yield from _steps(area.start, area.end)


def write(
    shelf: Shelf,
    path: str,
    disk: VirtualDisk,
    areas: Iterable[Area],
    backing: str | None = None,
    progress: Progress | None = None,
) -> Stored:
    """Make the image at that path of what the disk has in the areas; without `backing` all else is zeros.

    Raises what reading the disk raises; StorageError; MalformedError "read back otherwise".
    """
    held = Content()

    def added(part: tuple[int, bytes | bytearray | memoryview]) -> list[tuple[int, memoryview]]:
        start, data = part
        found = [(start, memoryview(data))] if backing else list(pieces(start, data))
        for each in found:
            held.add(*each)
        return found

    with shelf.created(path) as file:
        writeout = WriteOut(file.fd)

        def put(position: int, data: bytes | bytearray | memoryview) -> None:
            with shelf.naming(path):
                file.write(position, data)
            writeout.add(len(data))

        writer = Writer(put, disk.capacity, backing=backing)
        with ahead.worked(added, _parts(disk, areas, progress)) as parts:
            for start, piece in chain.from_iterable(parts):
                writer.write(start, piece)
        writer.finish()
        _drop_cache(file)
    return read_back(shelf, path, held.hexdigest(), progress)


def _parts(
    disk: VirtualDisk, areas: Iterable[Area], progress: Progress | None
) -> Iterator[tuple[int, bytes | bytearray | memoryview]]:
    """What the disk has in these clusters, where it begins."""
    for area in clusters(areas, disk.capacity):
        data = disk.read(area.start, area.length)
        yield area.start, bytes(data) if isinstance(data, memoryview) else data  # the next one overwrites it
        if progress is not None:
            progress(area.length)


def read_back(shelf: Shelf, path: str, content: str, progress: Progress | None = None) -> Stored:
    """What an image is, as the medium has it. Raises MalformedError "read back otherwise" for other content
    than that.
    """
    with examined(shelf, path, progress) as image:
        if image.content() != content:
            raise MalformedError("read back otherwise", "what is stored is not what was written")
        return Stored(image.size, image.sha256, content)


def digest(shelf: Shelf, path: str, progress: Progress | None = None) -> str:
    """The SHA-256 of a stored file, as the medium has it."""
    whole = hashlib.sha256()
    with (
        shelf.opened(path) as file,
        shelf.naming(path),
        ahead.worked(whole.update, _read(file, progress)) as done,
    ):
        deque(done, maxlen=0)
    return whole.hexdigest()


def _read(file: OpenFile, progress: Progress | None) -> Iterator[bytes | bytearray | memoryview]:
    """All of it, from the medium."""
    _drop_cache(file)
    for offset in range(0, file.length, STEP):
        data = file.read(offset, STEP)
        yield data
        if progress is not None:
            progress(len(data))


@dataclass(frozen=True, slots=True)
class Examined:
    """An image as the medium has it; `content` gives the digest of what it holds, and raises CorruptDataError
    for what is no image of ours.
    """

    size: int
    sha256: str
    content: Callable[[], str]


@contextmanager
def examined(shelf: Shelf, path: str, progress: Progress | None = None) -> Iterator[Examined]:
    """Both digests of an image, made side by side: a thread hashes a step of the file while the caller's goes
    a step through what it holds. So no more is done for an image than it has bytes before its digest is
    known, and what is wrong with what it holds is said afterwards, by `content`.
    """
    whole = hashlib.sha256()
    with shelf.opened(path) as file, shelf.naming(path):
        holds = _Holds(file)
        with ahead.worked(whole.update, _read(file, progress)) as done:
            for _ in done:
                holds.step()
        yield Examined(file.length, whole.hexdigest(), holds.hexdigest)


class _Holds:
    """The digest of what an image holds, step by step."""

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        self._found = Content()
        self._steps = self._run()
        self._failed: CorruptDataError | None = None

    def step(self) -> bool:
        """Up to `STEP` bytes more, if there are any. Raises nothing."""
        try:
            return next(self._steps, False)
        except CorruptDataError as error:
            self._failed = error
            return False

    def hexdigest(self) -> str:
        """Of all that is left, too. Raises CorruptDataError for what is no image of ours."""
        while self.step():
            pass
        if self._failed is not None:
            raise self._failed
        return self._found.hexdigest()

    def _run(self) -> Iterator[bool]:
        file = self._file
        reader = Reader(file.read)
        _check_amount(reader, file.length)
        for run in reader.runs(0, reader.capacity):
            for offset in range(run.start, run.start + run.length, STEP):
                length = min(STEP, run.start + run.length - offset)
                if run.kind is Kind.DATA:
                    self._found.add(offset, _exactly(file, run.place + offset - run.start, length))
                elif run.kind is Kind.ZEROS:
                    self._found.add(offset, bytes(length))
                elif run.kind is Kind.PACKED:
                    raise MalformedError("compressed cluster", "no image of a backup has any")
                yield True


class Stream(Protocol):
    """What is read of an image: up to so many bytes, fewer only at the end."""

    def read(self, offset: int, length: int) -> bytes | bytearray | memoryview: ...


class Layers:
    """A `VirtualDisk` in images, the first of which counts most: what it has not is the next one's."""

    def __init__(self, layers: Sequence[tuple[Stream, Reader]]) -> None:
        self._layers = layers

    @property
    def capacity(self) -> int:
        return self._layers[0][1].capacity

    def read(self, offset: int, length: int) -> bytes:
        check_inside(self.capacity, offset, length)
        return b"".join(self._read(0, offset, length))

    def areas(self, offset: int = 0, length: int | None = None) -> Iterator[Area]:
        """As `VirtualDisk.areas`: what any of the images has."""
        return self._joined(offset, length, len(self._layers), zeros=False)

    def told(self, count: int) -> Iterator[Area]:
        """Of the first `count` images, the same with zeros that they have: all that hides what is below."""
        return self._joined(0, None, count, zeros=True)

    def _joined(self, offset: int, length: int | None, count: int, *, zeros: bool) -> Iterator[Area]:
        end = self.capacity if length is None else offset + length
        start = stop = offset
        for part in self._areas(0, count, offset, end - offset, zeros=zeros):
            if part.start > stop:
                if stop > start:
                    yield Area(start, stop - start)
                start = part.start
            stop = part.end
        if stop > start:
            yield Area(start, stop - start)

    def close(self) -> None:
        """The files are somebody else's."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, level: int, offset: int, length: int) -> Iterator[bytes]:
        if level == len(self._layers):
            yield bytes(length)
            return
        file, reader = self._layers[level]
        inside = max(0, min(length, reader.capacity - offset))
        for run in reader.runs(offset, inside) if inside else ():
            if run.kind is Kind.DATA:
                yield _exactly(file, run.place, run.length)
            elif run.kind is Kind.ABSENT:
                yield from self._read(level + 1, run.start, run.length)
            elif run.kind is Kind.ZEROS:
                yield bytes(run.length)
            else:
                raise MalformedError("compressed cluster", "no image of a backup has any")
        if inside < length:
            yield bytes(length - inside)

    def _areas(self, level: int, count: int, offset: int, length: int, *, zeros: bool) -> Iterator[Area]:
        if level == count:
            return
        _, reader = self._layers[level]
        inside = max(0, min(length, reader.capacity - offset))
        for run in reader.runs(offset, inside) if inside else ():
            if run.kind is Kind.ABSENT:
                yield from self._areas(level + 1, count, run.start, run.length, zeros=zeros)
            elif zeros or run.kind is not Kind.ZEROS:
                yield Area(run.start, run.length)
        if zeros and inside < length:  # the disk was shorter then
            yield Area(offset + inside, length - inside)


class Chain(Layers):
    """A disk as of a point: its image, and those it builds on."""

    def __init__(
        self,
        shelf: Shelf,
        manifests: list[Manifest],
        path: str,
        *,
        proved: int = 0,
        progress: Progress | None = None,
    ) -> None:
        """`manifests`: of the point and of those that the disk builds on, in order. The images of the first
        `proved` are read whole before, and give what the manifests tell, or nothing.

        Raises MalformedError "file missing", "changed", "more than it holds", those of qcow2; what
        opening files raises.
        """
        self._opened = ExitStack()
        layers: list[tuple[Stream, Reader]] = []
        try:
            for number, manifest in enumerate(manifests):
                disk = next(each for each in manifest.disks if each.path == path)
                where = f"{manifest.point}/{disk.image}"
                file: Stream
                file = opened = self._opened.enter_context(shelf.opened(where))
                with shelf.naming(where):
                    if number < proved:
                        file = Proved(opened, disk.sha256, progress)
                    reader = Reader(file.read)
                    _check_amount(reader, opened.length)
                    layers.append((file, reader))
        except BaseException:  # nobody else closes them
            self._opened.close()
            raise
        super().__init__(layers)

    def close(self) -> None:
        self._opened.close()


def _check_amount(reader: Reader, length: int) -> None:
    """An image of that many bytes has so much, as each cluster is one of its own, and each table: else a
    small one could be a disk that nobody has room or time for. Raises MalformedError "more than it holds".
    """
    if reader.header.cluster != CLUSTER:
        raise MalformedError("bad cluster size", f"{reader.header.cluster} bytes, no image of a backup's")
    tables = reader.tables() * CLUSTER
    if tables > length or tables + reader.clusters() * CLUSTER > length:
        raise MalformedError("more than it holds", f"an image of {length} bytes")


def chain_of(
    shelf: Shelf, manifest: Manifest, path: str, known: dict[str, Manifest], key: str | None = None
) -> list[Manifest]:
    """The manifests that a disk of the point builds on, itself first; `known` is added to. `key`: as
    `sealing.check`.

    Raises MalformedError "link missing", "chain too long", "of another VM"; AuthenticationError; and as
    `Shelf.document`.
    """
    found = [manifest]
    while True:
        disk = next((each for each in found[-1].disks if each.path == path), None)
        if disk is None:
            raise MalformedError("link missing", f"{found[-1].point} has no disk {path}", file=shelf.path)
        if disk.parent is None:
            return found
        if len(found) == MAX_CHAIN:
            raise MalformedError("chain too long", f"more than {MAX_CHAIN} points", file=shelf.path)
        if disk.parent not in known:
            if disk.parent not in shelf.points():
                told = f"the point {disk.parent}, on which {found[-1].point} builds"
                raise MalformedError("link missing", told, file=shelf.path)
            document = shelf.document(disk.parent)
            sealing.check(document, key)
            if document.manifest.home_id != manifest.home_id:
                raise MalformedError("of another VM", disk.parent, file=shelf.path)
            known[disk.parent] = document.manifest
        found.append(known[disk.parent])


def _steps(start: int, end: int) -> Iterator[Area]:
    for offset in range(start, end, STEP):
        yield Area(offset, min(STEP, end - offset))


def pieces(start: int, data: bytes | bytearray | memoryview) -> Iterator[tuple[int, memoryview]]:
    """What of these clusters is not zeros, where it begins."""
    view = memoryview(data)  # compared with anything it takes 14 ms for 1 MiB, bytes of it 0.5 ms
    begin = 0
    for offset in range(0, len(view), CLUSTER):
        if bytes(view[offset : offset + CLUSTER]) == _ZEROS[: len(view) - offset]:
            if offset > begin:
                yield start + begin, view[begin:offset]
            begin = offset + CLUSTER
    if begin < len(view):
        yield start + begin, view[begin:]


def _exactly(file: Stream, offset: int, length: int) -> bytes:
    data = file.read(offset, length)
    if len(data) != length:
        raise MalformedError("truncated", f"{length} bytes at {offset}")
    return bytes(data)


def _drop_cache(file: OpenFile) -> None:
    os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
