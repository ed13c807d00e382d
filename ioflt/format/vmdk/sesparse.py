"""seSparse extents: the deltas of snapshots on VMFS 6. A directory of tables of 4 KiB grains, 64-bit entries.

Source: the fields that QEMU's `block/vmdk.c` names; there is no specification. Layout: SPEC.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from ioflt.errors import MalformedError, UnsupportedError
from ioflt.format.mapping import Directory, Kind, Pages, Read, Run, exactly
from ioflt.format.vmdk.stream import MAX_CAPACITY

MAGIC: Final = (0xCAFEBABE).to_bytes(8, "little")

_SECTOR: Final = 512
_GRAIN: Final = 8  # sectors
_TABLE: Final = 64  # sectors
_ENTRIES: Final = _TABLE * _SECTOR // 8
_VERSION: Final = 0x0000000200000001
_VOLATILE: Final = 0xCAFECAFE
# magic, version, capacity, grain size, table size, flags, 4 reserved; then offset and size, in sectors, of:
# volatile header, journal header, journal, grain directory, grain tables, free bitmap, back map, grains
_HEADER: Final = struct.Struct("<10Q16Q")
_STATE: Final = struct.Struct(
    "<4Q"
)  # of the volatile header: magic, free table, transaction, journal to replay


class SeSparse:
    """An `Image` over the bytes that `read` gives. Grains that were unmapped read as zeros."""

    def __init__(self, read: Read) -> None:
        """Raises MalformedError "bad magic", "truncated", "bad grain size", "bad grain directory",
        "bad volatile header", "marked dirty"; UnsupportedError "unknown version", "unknown flags",
        "too large".
        """
        head = bytes(read(0, _SECTOR))
        if head[:8] != MAGIC:
            raise MalformedError("bad magic", "not seSparse")
        if len(head) < _SECTOR:
            raise MalformedError("truncated", f"header of {len(head)} bytes")
        _, version, capacity, grain, table, flags, *more = _HEADER.unpack_from(head)
        if version != _VERSION:
            raise UnsupportedError("unknown version", f"{version:#x}")
        if (grain, table) != (_GRAIN, _TABLE):
            raise MalformedError("bad grain size", f"{grain} sectors, tables of {table}")
        if flags or any(more[:4]):
            raise UnsupportedError("unknown flags", f"{flags:#x}")
        if capacity * _SECTOR > MAX_CAPACITY:
            raise UnsupportedError("too large", f"a disk of {capacity} sectors")
        state, (directory, directory_size), tables, grains = more[4], more[10:12], more[12], more[18]
        needed = -(-capacity // (_GRAIN * _ENTRIES))
        if directory_size * _SECTOR < needed * 8:
            raise MalformedError("bad grain directory", f"{directory_size} sectors, {needed} entries needed")
        _check_state(read, state)
        self._read = read
        self._first_table = tables
        self._first_grain = grains
        self.capacity = capacity * _SECTOR
        self._tables = Directory(
            Pages(lambda first, count: _directory(read, directory * _SECTOR + first * 8, count), needed),
            self._load,
            self._decode,
            unit=_GRAIN * _SECTOR,
            per_table=_ENTRIES,
            capacity=self.capacity,
            entry_size=8,
        )

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """Raises MalformedError "truncated", "bad grain directory", "bad grain table entry" for what is met
        on the way.
        """
        return self._tables.runs(offset, length)

    def _load(self, entry: int) -> Sequence[int]:
        place = (self._first_table + (entry & 0xFFFFFFFF) * _TABLE) * _SECTOR
        return struct.unpack(f"<{_ENTRIES}Q", exactly(self._read, place, _ENTRIES * 8))

    def _decode(self, entry: int) -> tuple[Kind, int]:
        kind = entry >> 60
        if kind == 3:
            number = entry >> 48 & 0xFFF | (entry & 0xFFFFFFFFFFFF) << 12
            return Kind.DATA, (self._first_grain + number * _GRAIN) * _SECTOR
        if kind in (1, 2):  # unmapped, zeros
            return Kind.ZEROS, 0
        if entry:
            raise MalformedError("bad grain table entry", f"{entry:#x}")
        return Kind.ABSENT, 0


def _directory(read: Read, offset: int, count: int) -> Sequence[int]:
    entries = struct.unpack(f"<{count}Q", exactly(read, offset, count * 8))
    for entry in entries:
        if entry and entry >> 32 != 1 << 28:
            raise MalformedError("bad grain directory", f"entry {entry:#x}")
    return entries


def _check_state(read: Read, sector: int) -> None:
    magic, _free, _transaction, journal = _STATE.unpack(exactly(read, sector * _SECTOR, _STATE.size))
    if magic != _VOLATILE:
        raise MalformedError("bad volatile header", f"{magic:#x}")
    if journal:
        raise MalformedError("marked dirty", "its journal is to be replayed first")
