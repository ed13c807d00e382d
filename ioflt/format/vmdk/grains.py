"""The content of a hosted sparse extent: grain directory → grain tables → grains, none of them compressed."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final

from ioflt.errors import MalformedError, UnsupportedError
from ioflt.format.vmdk.sparse import GD_AT_END, SparseHeader
from ioflt.format.vmdk.stream import MAX_CAPACITY, MAX_GRAIN, Piece

_SECTOR: Final = 512
_MAX_ENTRIES: Final = 4096
_MAX_DIRECTORY: Final = 4 << 20  # entries


def pieces(read: Callable[[int, int], bytes], header: SparseHeader) -> Iterator[Piece]:
    """The grains that are there, in order; what is between them is zeros.

    `read(offset, length)` gives bytes of the extent, fewer only at its end. Raises MalformedError
    "grain too large", "bad grain table size", "truncated"; UnsupportedError "too large", "compressed".
    """
    if header.stream_optimized or header.gd_offset == GD_AT_END:
        raise UnsupportedError("compressed", "not a plain sparse extent")
    if header.grain_size * _SECTOR > MAX_GRAIN:
        raise MalformedError("grain too large", f"{header.grain_size} sectors")
    if not 0 < header.entries_per_table <= _MAX_ENTRIES:
        raise MalformedError("bad grain table size", str(header.entries_per_table))
    if header.capacity * _SECTOR > MAX_CAPACITY:
        raise UnsupportedError("too large", f"a disk of {header.capacity} sectors")
    grain, span = header.grain_size, header.grain_size * header.entries_per_table
    tables = -(-header.capacity // span)
    if tables > _MAX_DIRECTORY:
        raise MalformedError("bad grain table size", f"{tables} tables")
    directory = _numbers(read, header.gd_offset, tables)
    for number, table in enumerate(directory):
        if table == 0:
            continue
        for entry, place in enumerate(_numbers(read, table, header.entries_per_table)):
            start = number * span + entry * grain
            if place > 1 and start < header.capacity:  # 1: a grain of zeros
                size = min(grain, header.capacity - start) * _SECTOR
                yield start * _SECTOR, _exactly(read, place * _SECTOR, size)


def _numbers(read: Callable[[int, int], bytes], sector: int, count: int) -> tuple[int, ...]:
    return struct.unpack(f"<{count}I", _exactly(read, sector * _SECTOR, count * 4))


def _exactly(read: Callable[[int, int], bytes], offset: int, length: int) -> bytes:
    data = read(offset, length)
    if len(data) != length:
        raise MalformedError("truncated", f"{length} bytes at {offset}")
    return data
