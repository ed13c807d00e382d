"""The content of a hosted sparse extent: grain directory → grain tables → grains, compressed or not.

A compressed extent is a streamOptimized file read at any place; as a stream it is read by `stream`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from ioflt.errors import MalformedError, UnsupportedError
from ioflt.format.mapping import Directory, Kind, Pages, Read, Run, exactly
from ioflt.format.vmdk import sparse
from ioflt.format.vmdk.sparse import GD_AT_END, HEADER_SIZE, SparseHeader
from ioflt.format.vmdk.stream import MARKER, MAX_CAPACITY, MAX_GRAIN, check_footer, inflate

_SECTOR: Final = 512
_MAX_ENTRIES: Final = 4096
_MAX_DIRECTORY: Final = 4 << 20  # entries
_FOOTER: Final = 2 * _SECTOR  # bytes from the end of a stream: footer, end of stream
_MARKERS: Final = 1 << 17


class Grains:
    """An `Image` over the bytes that `read` gives. What is not there is ABSENT, a grain of zeros ZEROS."""

    def __init__(self, read: Read, size: int) -> None:
        """`size`: of the extent, bytes. Raises those of `sparse.parse`; MalformedError "grain too large",
        "bad grain table size", "truncated", "footer wrong"; UnsupportedError "too large",
        "compressed without markers".
        """
        self._read = read
        self.header = header = sparse.parse(bytes(read(0, HEADER_SIZE)))
        _check(header)
        self.capacity = header.capacity * _SECTOR
        self._grain = header.grain_size * _SECTOR
        self._packed = Kind.PACKED if header.stream_optimized else Kind.DATA
        tables = -(-header.capacity // (header.grain_size * header.entries_per_table))
        if tables > _MAX_DIRECTORY:
            raise MalformedError("bad grain table size", f"{tables} tables")
        place = header.gd_offset
        if place == GD_AT_END:
            footer = exactly(read, max(0, size - _FOOTER), HEADER_SIZE)
            place = check_footer(footer, header)
        self._tables = Directory(
            Pages(lambda first, count: _numbers(read, place * _SECTOR + first * 4, count), tables),
            lambda table: _numbers(read, table * _SECTOR, header.entries_per_table),
            self._decode,
            unit=self._grain,
            per_table=header.entries_per_table,
            capacity=self.capacity,
            entry_size=4,
        )

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """Raises MalformedError "truncated" for tables that are met on the way."""
        return self._tables.runs(offset, length)

    def unpack(self, offset: int) -> tuple[int, bytes]:
        """The compressed grain there. Raises MalformedError "truncated", "grain table wrong",
        "grain too large", "bad grain data", "bad grain size".
        """
        number = offset // self._grain
        start = number * self._grain
        place = self._tables.entry(number) * _SECTOR
        sector, size = MARKER.unpack(exactly(self._read, place, MARKER.size))
        if sector * _SECTOR != start:
            raise MalformedError("grain table wrong", f"has another grain at sector {place // _SECTOR}")
        if size > self._grain + self._grain // 8 + 64:
            raise MalformedError("grain too large", f"{size} bytes compressed")
        data = inflate(exactly(self._read, place + MARKER.size, size), self._grain)
        if len(data) < min(self._grain, self.capacity - start):
            raise MalformedError("bad grain size", f"{len(data)} bytes at sector {sector}")
        return start, data

    def _decode(self, entry: int) -> tuple[Kind, int]:
        if entry > 1:
            return self._packed, entry * _SECTOR
        return (Kind.ZEROS if entry else Kind.ABSENT), 0


def _check(header: SparseHeader) -> None:
    if header.stream_optimized and not header.flags & _MARKERS:
        raise UnsupportedError("compressed without markers")
    if header.gd_offset == GD_AT_END and not header.stream_optimized:
        raise MalformedError("truncated", "no grain directory")
    if header.grain_size * _SECTOR > MAX_GRAIN:
        raise MalformedError("grain too large", f"{header.grain_size} sectors")
    if not 0 < header.entries_per_table <= _MAX_ENTRIES:
        raise MalformedError("bad grain table size", str(header.entries_per_table))
    if header.capacity * _SECTOR > MAX_CAPACITY:
        raise UnsupportedError("too large", f"a disk of {header.capacity} sectors")


def _numbers(read: Read, offset: int, count: int) -> Sequence[int]:
    return struct.unpack(f"<{count}I", exactly(read, offset, count * 4))
