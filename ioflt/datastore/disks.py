"""The content of a virtual disk in a home: descriptor, extents, grains."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ioflt.datastore import files
from ioflt.datastore.openfile import OpenFile
from ioflt.datastore.tree import Side
from ioflt.errors import CorruptDataError, MalformedError, UnsupportedError
from ioflt.format.vmdk import descriptor, grains, sparse
from ioflt.format.vmdk.descriptor import NO_PARENT, Extent
from ioflt.format.vmdk.stream import Piece


class Disk:
    """The disk whose descriptor is the file `name` of the directory `top_fd`.

    `capacity` is in bytes; `streamed` tells that the file is streamOptimized itself.
    """

    def __init__(self, side: Side, top_fd: int, name: str) -> None:
        """Raises MalformedError "no such file"; UnsupportedError "has a parent", "unknown disk format";
        those of the VMDK parsers.
        """
        self.name = name
        self._side = side
        self._top = top_fd
        with self._open(name) as file:
            first = bytes(file.read(0, sparse.PROBE_SIZE))
            if descriptor.is_descriptor(first):
                first = bytes(file.read(0, descriptor.MAX_SIZE + 1))
            self.streamed = first[:4] == sparse.MAGIC and sparse.parse(first).stream_optimized
            text = sparse.descriptor_of(first)
            if text is None:
                raise UnsupportedError(
                    "unknown disk format", "no VMDK; qemu-img convert through a mount makes one of it"
                )
            self._embedded = first[:4] == sparse.MAGIC
            self._descriptor = descriptor.parse(text, None if self._embedded else name)
            if self._descriptor.parent_cid != NO_PARENT or self._descriptor.parent_file_name_hint:
                raise UnsupportedError(
                    "has a parent", "the state after a snapshot, which only an export to a directory carries"
                )
        self.capacity = self._descriptor.sectors * 512

    def pieces(self) -> Iterator[Piece]:
        """(offset, bytes) of all data, in order; what is between is zeros. Not for a `streamed` disk.

        Raises MalformedError "extent truncated"; UnsupportedError "unknown extent type"; those of `grains`.
        """
        start = 0
        for extent in self._descriptor.extents:
            for offset, data in self._extent(extent):
                yield start + offset, data
            start += extent.sectors * 512

    @contextmanager
    def _open(self, name: str) -> Iterator[OpenFile]:
        try:
            file = self._side.open(self._top, name)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):  # ELOOP: a symlink
                raise MalformedError("no such file", os.strerror(error.errno), file=name) from error
            raise
        try:
            with naming(name):
                yield file
        finally:
            file.close()

    def _extent(self, extent: Extent) -> Iterator[Piece]:
        if extent.file_name is None:  # ZERO
            return
        name = self.name if self._embedded else extent.file_name
        with self._open(name) as file:
            if extent.kind in ("FLAT", "VMFS") and not self._embedded:
                yield from _flat(file, extent.offset * 512, extent.sectors * 512)
            elif extent.kind == "SPARSE":
                header = sparse.parse(bytes(file.read(0, sparse.HEADER_SIZE)))
                if header.capacity != extent.sectors:
                    raise MalformedError("capacity differs", f"{header.capacity}, {extent.sectors} sectors")
                yield from grains.pieces(lambda offset, length: bytes(file.read(offset, length)), header)
            else:
                raise UnsupportedError(
                    "unknown extent type", f"{extent.kind}, which only an export to a directory carries"
                )


def _flat(file: OpenFile, start: int, length: int) -> Iterator[Piece]:
    end = start + length
    if file.length < end:
        raise MalformedError("extent truncated", f"{file.length} bytes, {end} needed")
    offset = start
    while offset < end:
        try:
            offset = file.seek(offset, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        stop = min(end, file.seek(offset, os.SEEK_HOLE)) if offset < end else end
        while offset < stop:
            data = bytes(file.read(offset, min(files.COPY_CHUNK, stop - offset)))
            if not data:
                raise MalformedError("extent truncated", "it became shorter meanwhile")
            yield offset - start, data
            offset += len(data)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Corrupt data found in the block is told of with the file's name."""
    try:
        yield
    except CorruptDataError as error:
        error.file = error.file or name
        raise
