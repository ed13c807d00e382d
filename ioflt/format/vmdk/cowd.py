"""VMFS sparse extents ("COWD"): the deltas of snapshots on VMFS before seSparse.

Source: libyal/libvmdk's format description. Layout: SPEC.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from ioflt.errors import MalformedError, UnsupportedError
from ioflt.format.mapping import Directory, Kind, Pages, Read, Run, exactly
from ioflt.format.vmdk.stream import MAX_GRAIN

MAGIC: Final = b"COWD"

_SECTOR: Final = 512
_HEADER: Final = struct.Struct("<4s6I")
_HEADER_SECTORS: Final = 4
_ENTRIES: Final = 4096  # of a grain table
_MAX_DIRECTORY: Final = 4 << 20  # entries


class Cowd:
    """An `Image` over the bytes that `read` gives."""

    def __init__(self, read: Read) -> None:
        """Raises MalformedError "bad magic", "truncated", "bad grain size", "bad grain directory";
        UnsupportedError "unknown version".
        """
        head = bytes(read(0, _HEADER.size))
        if head[:4] != MAGIC:
            raise MalformedError("bad magic", "not COWD")
        if len(head) < _HEADER.size:
            raise MalformedError("truncated", f"header of {len(head)} bytes")
        _, version, _flags, capacity, grain, place, entries = _HEADER.unpack(head)
        if version != 1:
            raise UnsupportedError("unknown version", str(version))
        if grain == 0 or grain & (grain - 1) or grain * _SECTOR > MAX_GRAIN:
            raise MalformedError("bad grain size", f"{grain} sectors")
        tables = -(-capacity // (grain * _ENTRIES))
        if not tables <= entries <= _MAX_DIRECTORY or place < _HEADER_SECTORS:
            raise MalformedError("bad grain directory", f"{entries} entries at {place}, {tables} needed")
        self.capacity = capacity * _SECTOR
        self._tables = Directory(
            Pages(lambda first, count: _numbers(read, place * _SECTOR + first * 4, count), tables),
            lambda table: _numbers(read, table * _SECTOR, _ENTRIES),
            _decode,
            unit=grain * _SECTOR,
            per_table=_ENTRIES,
            capacity=self.capacity,
            entry_size=4,
        )

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """Raises MalformedError "truncated", "bad grain table entry" for tables that are met on the way."""
        return self._tables.runs(offset, length)


def _numbers(read: Read, offset: int, count: int) -> Sequence[int]:
    return struct.unpack(f"<{count}I", exactly(read, offset, count * 4))


def _decode(entry: int) -> tuple[Kind, int]:
    if entry == 0:
        return Kind.ABSENT, 0
    if entry < _HEADER_SECTORS:
        raise MalformedError("bad grain table entry", str(entry))
    return Kind.DATA, entry * _SECTOR
