"""The content of a virtual disk in a home: descriptor, extents, snapshot chain resolved."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from types import TracebackType
from typing import Final, NamedTuple, cast

from ioflt.datastore import layers
from ioflt.datastore.files import COPY_CHUNK
from ioflt.datastore.layers import Extent, Files, Flat
from ioflt.datastore.tree import Side
from ioflt.errors import CorruptDataError, MalformedError, UsageError
from ioflt.format.mapping import Image, Kind, Packed
from ioflt.format.vmdk.stream import Piece
from ioflt.types import Area

#: Images kept for one disk, each with up to 2 MiB of tables.
_MAX_IMAGES: Final = 64


class _Part(NamedTuple):
    """Bytes of the disk, and where they are: `place` in the file of `extent`, or `at` in that extent."""

    start: int
    length: int
    kind: Kind
    extent: Extent | None = None
    place: int = 0
    at: int = 0


class Disk:
    """The disk whose descriptor, or image, is the file `path` below `top_fd`. A context manager.

    For one thread at a time. `capacity` is in bytes, `files` the paths of all that it is made of, parents
    included; `streamed` tells that it is one streamOptimized file. `unread`: by path, what else its images
    have that is no part of the disk, in words.
    """

    def __init__(self, side: Side, top_fd: int, path: str, *, where: str = "", alone: bool = False) -> None:
        """`where` stands before paths in errors. `alone`: only a VMDK without a parent.

        Raises MalformedError "no such file", "extent truncated", "capacity differs"; StorageError;
        those of `layers.chain` and the parsers.
        """
        self.path = path
        self._files = Files(side, top_fd, where)
        self._images: OrderedDict[Extent, Image] = OrderedDict()
        self._unpacked: tuple[Extent | None, int, bytes] = (None, 0, b"")
        try:
            self._layers = layers.chain(self._files, path, alone=alone)
            self._starts = [[extent.start for extent in layer.extents] for layer in self._layers]
            for layer in self._layers[:_MAX_IMAGES]:
                for extent in layer.extents[:_MAX_IMAGES]:
                    if extent.path is not None:
                        self._image(extent)
        except BaseException:  # nobody else closes them
            self._files.close()
            raise
        self.capacity = self._layers[0].capacity
        self.format = self._layers[0].format
        self.streamed = self._layers[0].streamed
        self.unread = {layer.path: layer.unread for layer in self._layers if layer.unread}
        self.files = tuple(dict.fromkeys(name for layer in self._layers for name in layer.files))

    def read(self, offset: int, length: int) -> bytes | bytearray | memoryview:
        """Exactly these bytes. Raises UsageError for what is not inside the capacity, and as `areas`."""
        self._check(offset, length)
        parts = self._parts(0, offset, length)
        first = next(parts, None)
        if first is None:
            return b""
        if first.length == length:
            return bytes(length) if first.kind is Kind.ZEROS else self._bytes(first)
        made = bytearray(length)
        for part in chain((first,), parts):
            if part.kind is not Kind.ZEROS:
                at = part.start - offset
                made[at : at + part.length] = self._bytes(part)
        return made

    def areas(self, offset: int = 0, length: int | None = None) -> Iterator[Area]:
        """What may hold other bytes than zeros: what the images have of it, without the holes of flat files.

        Raises UsageError for what is not inside the capacity; MalformedError for tables that are met on the
        way, KeyUnavailableError, StorageError.
        """
        length = self.capacity - offset if length is None else length
        self._check(offset, length)
        start = end = offset
        for part in self._parts(0, offset, length, holes=True):
            if part.kind is Kind.ZEROS:
                continue
            if part.start > end:
                if end > start:
                    yield Area(start, end - start)
                start = part.start
            end = part.start + part.length
        if end > start:
            yield Area(start, end - start)

    def pieces(self) -> Iterator[Piece]:
        """(offset, bytes) of all areas, in order."""
        for area in self.areas():
            for offset in range(area.start, area.end, COPY_CHUNK):
                yield offset, bytes(self.read(offset, min(COPY_CHUNK, area.end - offset)))

    def close(self) -> None:
        self._files.close()

    def __enter__(self) -> Disk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, offset: int, length: int) -> None:
        self._files.require_open()
        if offset < 0 or length < 0 or offset + length > self.capacity:
            raise UsageError(f"{length} bytes at {offset} of a disk of {self.capacity}", file=self.path)

    def _parts(self, level: int, offset: int, length: int, *, holes: bool = False) -> Iterator[_Part]:
        """What covers these bytes of the disk, as the images from that one of the chain on have it.

        `holes`: those of flat files are looked for. No part is ABSENT.
        """
        if level == len(self._layers):
            yield _Part(offset, length, Kind.ZEROS)
            return
        layer, starts = self._layers[level], self._starts[level]
        end = offset + length
        stop = min(end, layer.capacity)
        while offset < stop:
            extent = layer.extents[bisect_right(starts, offset) - 1]
            upto = min(stop, extent.start + extent.length)
            if extent.path is None:
                yield _Part(offset, upto - offset, Kind.ZEROS)
            else:
                yield from self._inside(level, extent, offset, upto, holes=holes)
            offset = upto
        if offset < end:  # a parent that is shorter than its child
            yield _Part(offset, end - offset, Kind.ZEROS)

    def _inside(self, level: int, extent: Extent, offset: int, end: int, *, holes: bool) -> Iterator[_Part]:
        base, path = extent.start, cast("str", extent.path)
        image = self._image(extent)
        runs = image.allocated if holes and isinstance(image, Flat) else image.runs
        with naming(self._files.shown(path)):
            for start, length, kind, place in runs(offset - base, end - offset):
                if kind is Kind.ABSENT:
                    yield from self._parts(level + 1, base + start, length, holes=holes)
                else:
                    yield _Part(base + start, length, kind, extent, place, start)

    def _bytes(self, part: _Part) -> bytes | bytearray | memoryview:
        extent = cast("Extent", part.extent)
        path = cast("str", extent.path)
        if part.kind is Kind.PACKED:
            return self._unpack(extent, part)
        data = self._files.read(path, part.place, part.length)
        if len(data) != part.length:
            short = f"{part.length} bytes at {part.place}"
            raise MalformedError("truncated", short, file=self._files.shown(path))
        return data

    def _unpack(self, extent: Extent, part: _Part) -> bytes:
        """The unit that was unpacked last is kept: reads may be smaller than it."""
        known, start, data = self._unpacked
        if known is not extent or not start <= part.at < start + len(data):
            with naming(self._files.shown(cast("str", extent.path))):
                start, data = cast("Packed", self._image(extent)).unpack(part.at)
            self._unpacked = (extent, start, data)
        return data[part.at - start : part.at - start + part.length]

    def _image(self, extent: Extent) -> Image:
        image = self._images.get(extent)
        if image is None:
            path = cast("str", extent.path)
            with naming(self._files.shown(path)):
                image = extent.make(self._files, path)
            self._images[extent] = image
            if len(self._images) > _MAX_IMAGES:
                self._images.popitem(last=False)
        else:
            self._images.move_to_end(extent)
        return image


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Corrupt data found in the block is told of with the file's name."""
    try:
        yield
    except CorruptDataError as error:
        error.file = error.file or name
        raise
