"""The images that a virtual disk is made of: the disk, its parents, and the extents of each.

What names what is read from descriptors and headers, and whoever writes the datastore writes those. So a name
leads nowhere but into the home, through no symlink; and no format is guessed where a guest could choose it: a
flat extent is raw, a backing file is what its image says it is, and so is a file whose name says raw.
"""

from __future__ import annotations

import errno
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from ioflt import syscalls
from ioflt.datastore.openfile import MAX_LENGTH, OpenFile
from ioflt.datastore.standing import is_private
from ioflt.datastore.tree import Side
from ioflt.errors import CorruptDataError, MalformedError, StorageError, UnsupportedError, UsageError
from ioflt.format.mapping import Image, Kind, Run
from ioflt.format.qcow2 import header as qcow2
from ioflt.format.qcow2.reader import Reader
from ioflt.format.vmdk import cowd, descriptor, sesparse, sparse
from ioflt.format.vmdk.cowd import Cowd
from ioflt.format.vmdk.descriptor import NO_PARENT, Descriptor
from ioflt.format.vmdk.grains import Grains
from ioflt.format.vmdk.sesparse import SeSparse

#: Longest chain accepted: VMware's has 32 snapshots, one of daily increments lasts for eight months.
MAX_CHAIN: Final = 256

#: Files kept open for one disk; a chain or a disk in pieces of 2 GiB may have more.
_MAX_OPEN: Final = 64

_SECTOR: Final = 512
_RAW: Final = re.compile(
    r".*(\.raw|\.img|-flat\.vmdk|-f[0-9]{3,}\.vmdk)", re.ASCII | re.IGNORECASE | re.DOTALL
)
_GONE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)  # ELOOP: a symlink


class Files:
    """Reads the files below the directory `top_fd` by their paths. `where` stands before those in errors."""

    def __init__(self, side: Side, top_fd: int, where: str = "") -> None:
        self._side = side
        self._top = top_fd
        self._where = where
        self._open: OrderedDict[str, OpenFile] = OrderedDict()
        self._closed = False

    def shown(self, path: str) -> str:
        return os.path.join(self._where, path)

    def file(self, path: str) -> OpenFile:
        """The file, open at least until another is asked for.

        Raises MalformedError "no such file", StorageError, and what opening raises.
        """
        self.require_open()
        file = self._open.get(path)
        if file is not None:
            self._open.move_to_end(path)
            return file
        try:
            file = self._opened(path)
        except OSError as error:
            if error.errno in _GONE:
                raise MalformedError(
                    "no such file", os.strerror(error.errno), file=self.shown(path)
                ) from error
            raise StorageError("cannot open", error.errno or 0, file=self.shown(path)) from error
        self._open[path] = file
        if len(self._open) > _MAX_OPEN:
            self._open.popitem(last=False)[1].close()
        return file

    def read(self, path: str, offset: int, length: int) -> bytes | bytearray | memoryview:
        """Up to `length` bytes; fewer only at the end. What an image says may lie beyond all files."""
        file = self.file(path)
        if offset > MAX_LENGTH:
            return b""
        try:
            return file.read(offset, length)
        except OSError as error:
            raise StorageError("cannot read", error.errno or 0, file=self.shown(path)) from error
        except CorruptDataError as error:
            error.file = error.file or self.shown(path)
            raise

    def require_open(self) -> None:
        """Raises UsageError after `close`: the directory's descriptor may be another's by then."""
        if self._closed:
            raise UsageError("the disk is closed", file=self._where)

    def close(self) -> None:
        """May be called again."""
        self._closed = True
        while self._open:
            self._open.popitem()[1].close()

    def _opened(self, path: str) -> OpenFile:
        directory = os.path.dirname(path)
        if is_private(path.partition("/")[0]):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        fd = syscalls.open_beneath(self._top, directory or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            return self._side.open(fd, path)
        finally:
            os.close(fd)


class Flat:
    """The `length` bytes of a file from byte `base` on, as an `Image`; what it lacks at its end is zeros."""

    def __init__(self, files: Files, path: str, base: int, length: int) -> None:
        self._files, self._path, self._base = files, path, base
        self.capacity = length
        self._end = max(0, min(length, files.file(path).length - base))

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        end = offset + length
        stop = min(end, self._end)
        if offset < stop:
            yield Run(offset, stop - offset, Kind.DATA, self._base + offset)
        if stop < end:
            start = max(stop, offset)
            yield Run(start, end - start, Kind.ZEROS)

    def allocated(self, offset: int, length: int) -> Iterator[Run]:
        """The same with the file's holes as zeros: what to look at before reading it."""
        stop = min(offset + length, self._end)
        at = offset
        while at < stop:
            start = min(self._seek(at, os.SEEK_DATA), stop)
            if start > at:
                yield Run(at, start - at, Kind.ZEROS)
            at = min(self._seek(start, os.SEEK_HOLE), stop) if start < stop else stop
            if at > start:
                yield Run(start, at - start, Kind.DATA, self._base + start)
        if at < offset + length:
            yield Run(at, offset + length - at, Kind.ZEROS)

    def _seek(self, offset: int, whence: int) -> int:
        try:
            return self._files.file(self._path).seek(self._base + offset, whence) - self._base
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return self._end
            raise StorageError("cannot seek", error.errno or 0, file=self._files.shown(self._path)) from error


#: Makes the image of the file at that path.
Make: TypeAlias = Callable[[Files, str], Image]


@dataclass(frozen=True, slots=True, eq=False)
class Extent:
    """`length` bytes of the disk from `start` on. Zeros if it has no `path`."""

    start: int
    length: int
    path: str | None
    make: Make


@dataclass(frozen=True, slots=True)
class Parent:
    """What lies below; where, if that is told. `format` None: a VMDK, whose CID is to be `cid`."""

    path: str | None
    format: str | None
    cid: int | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """A disk without its parent. `files` are the paths that it is made of; `cid` is a VMDK's; `unread`: what
    else it has that is no part of the disk, in words.
    """

    path: str
    format: str
    extents: tuple[Extent, ...]
    parent: Parent | None
    files: tuple[str, ...]
    cid: int | None = None
    streamed: bool = False
    unread: str = ""

    @property
    def capacity(self) -> int:
        return self.extents[-1].start + self.extents[-1].length if self.extents else 0


def chain(files: Files, path: str, *, alone: bool = False) -> list[Layer]:
    """The disk at `path`, and its parents down to the first. `alone`: only a VMDK without any.

    Raises MalformedError "missing parent", "parents form a ring", "CID mismatch"; UnsupportedError
    "chain too long", "unknown disk format", "backing format missing", with `alone` "has a parent"; what the
    parsers raise.
    """
    layers = [_layer(files, path, None, alone=alone)]
    seen = {path}
    while (parent := layers[-1].parent) is not None:
        below = files.shown(layers[-1].path)
        if alone:
            raise UnsupportedError(
                "has a parent", "the state after a snapshot, which only an export to a directory carries"
            )
        if parent.path is None:
            raise MalformedError("missing parent", "a parent's CID without its name", file=below)
        if parent.path in seen:
            raise MalformedError("parents form a ring", parent.path, file=below)
        if len(layers) == MAX_CHAIN:
            raise UnsupportedError("chain too long", f"more than {MAX_CHAIN} images", file=below)
        seen.add(parent.path)
        try:
            layer = _layer(files, parent.path, parent.format or "vmdk")
        except MalformedError as error:
            if error.reason != "no such file" or error.file != files.shown(parent.path):
                raise
            raise MalformedError("missing parent", parent.path, file=below) from error
        if parent.cid is not None and layer.cid != parent.cid:
            known = f"{parent.path} has {layer.cid or 0:08x}, its child was made over {parent.cid:08x}"
            raise MalformedError("CID mismatch", known, file=below)
        layers.append(layer)
    return layers


def _layer(files: Files, path: str, expected: str | None, *, alone: bool = False) -> Layer:
    try:
        first = bytes(files.read(path, 0, sparse.PROBE_SIZE))
        kind = expected or _kind(path, first, files.file(path).length)
        if alone and kind != "vmdk":
            raise UnsupportedError(
                "unknown disk format", "no VMDK; qemu-img convert through a mount makes one of it"
            )
        if kind == "qcow2":
            return _qcow2(files, path)
        if kind == "vmdk":
            return _vmdk(files, path, first)
        size = -(-files.file(path).length // _SECTOR) * _SECTOR
        return Layer(path, "raw", (Extent(0, size, path, _flat(0, size)),), None, (path,))
    except CorruptDataError as error:
        error.file = error.file or files.shown(path)
        raise


def is_raw(path: str) -> bool:
    """Whether a file is raw by its name: what is in it a guest wrote, or may have."""
    return _RAW.fullmatch(path) is not None


def _kind(path: str, first: bytes, length: int) -> str:
    """What a file of that length is that somebody named."""
    if is_raw(path) or (descriptor.is_descriptor(first) and length > descriptor.MAX_SIZE):
        return "raw"
    if qcow2.is_qcow2(first):
        return "qcow2"
    if descriptor.is_descriptor(first) or first[:4] == sparse.MAGIC:
        return "vmdk"
    if first[:4] == cowd.MAGIC or first[:8] == sesparse.MAGIC:
        raise UnsupportedError("no disk of its own", "the extent of one, which its descriptor names")
    return "raw"


def _qcow2(files: Files, path: str) -> Layer:
    header = qcow2.load(_reading(files, path))
    parent = None
    if header.backing is not None:
        if header.backing_format is None:
            raise UnsupportedError("backing format missing", "qemu-img rebase -u -F tells it")
        place = os.path.normpath(os.path.join(os.path.dirname(path), header.backing))
        if place == ".." or place.startswith("../"):
            raise MalformedError("backing name not confined", "leads out of the VM's home")
        parent = Parent(place, header.backing_format)
    extent = Extent(0, header.size, path, lambda files, path: Reader(_reading(files, path)))
    counts = ((header.snapshots, "internal snapshots"), (header.bitmaps, "bitmaps"))
    unread = " and ".join(f"{count} {what}" for count, what in counts if count)
    return Layer(path, "qcow2", (extent,), parent, (path,), unread=unread)


def _vmdk(files: Files, path: str, first: bytes) -> Layer:
    if embedded := first[:4] == sparse.MAGIC:
        text, streamed = sparse.descriptor_of(first), sparse.parse(first).stream_optimized
    elif descriptor.is_descriptor(first):
        text, streamed = bytes(files.read(path, 0, descriptor.MAX_SIZE + 1)), False
    else:
        text = None
    if text is None:
        raise UnsupportedError("unknown disk format", "no VMDK's descriptor")
    parsed = descriptor.parse(text, None if embedded else os.path.basename(path))
    extents: list[Extent] = []
    start = 0
    for extent in parsed.extents:
        # what the extent is called that the descriptor is embedded in nobody reads: it is this file
        name = None if extent.file_name is None else path if embedded else _beside(path, extent.file_name)
        kind = "SPARSE" if embedded else extent.kind
        length = extent.sectors * _SECTOR
        extents.append(Extent(start, length, name, _maker(kind, extent.offset * _SECTOR, length)))
        start += length
    paths = dict.fromkeys((path, *(extent.path for extent in extents if extent.path is not None)))
    return Layer(path, "vmdk", tuple(extents), _parent(path, parsed), tuple(paths), parsed.cid, streamed)


def _parent(path: str, parsed: Descriptor) -> Parent | None:
    hint = parsed.parent_file_name_hint
    if hint is None and parsed.parent_cid == NO_PARENT:
        return None
    return Parent(None if hint is None else _beside(path, hint), None, parsed.parent_cid)


def _beside(path: str, name: str) -> str:
    return os.path.join(os.path.dirname(path), name)


def _maker(kind: str, base: int, length: int) -> Make:
    if kind in ("FLAT", "VMFS"):
        return _flat(base, length, whole=True)

    def make(files: Files, path: str) -> Image:
        read = _reading(files, path)
        image: Image
        if kind == "SESPARSE":
            image = SeSparse(read)
        elif bytes(read(0, 4)) == cowd.MAGIC:
            image = Cowd(read)
        else:
            image = Grains(read, files.file(path).length)
        if image.capacity != length:
            raise MalformedError("capacity differs", f"{image.capacity}, {length} bytes")
        return image

    return make


def _flat(base: int, length: int, *, whole: bool = False) -> Make:
    def make(files: Files, path: str) -> Image:
        if whole and (found := files.file(path).length) < base + length:
            raise MalformedError("extent truncated", f"{found} bytes, {base + length} needed")
        return Flat(files, path, base, length)

    return make


def _reading(files: Files, path: str) -> Callable[[int, int], bytes | bytearray | memoryview]:
    return lambda offset, length: files.read(path, offset, length)
