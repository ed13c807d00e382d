"""Where the disk's bytes lie in a qcow2 image: L1 table → L2 tables → clusters."""

from __future__ import annotations

import sys
import zlib
from array import array
from collections.abc import Iterator, Sequence

from ioflt.errors import MalformedError
from ioflt.format.mapping import Directory, Kind, Pages, Read, Run, exactly
from ioflt.format.qcow2 import header as head
from ioflt.format.qcow2.header import COPIED, OFFSET_MASK

_COMPRESSED = 1 << 62
_ZERO = 1


class Reader:
    """An `Image` over the bytes that `read` gives. Internal snapshots are passed over."""

    def __init__(self, read: Read) -> None:
        """Raises those of `header.parse`."""
        self._read = read
        self.header = header = head.load(read)
        self.capacity = header.size
        self._cluster = header.cluster
        self._bits = header.cluster_bits
        self._reserved = (0x1FE if header.version > 2 else 0x1FF) | 0x3F << 56
        self._entries = head.l1_entries(header.size, header.cluster_bits)
        self._l1 = Pages(self._load_l1, self._entries)
        self._tables = Directory(
            self._l1,
            self._load,
            self._decode,
            unit=self._cluster,
            per_table=self._cluster // 8,
            capacity=header.size,
            entry_size=8,
        )

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """Raises MalformedError "truncated", "bad L1 entry", "bad L2 entry" for what is met on the way."""
        return self._tables.runs(offset, length)

    def tables(self) -> int:
        """How many tables of clusters are named, each as often as it is. Raises as `runs`."""
        return sum(1 for number in range(self._entries) if self._l1[number])

    def clusters(self) -> int:
        """How many clusters tables name, each as often as it is. Raises as `runs`, but for entries."""
        named = 0
        for number in range(self._entries):
            if entry := self._l1[number]:
                table = self._load(entry)
                named += len(table) - table.count(0) - table.count(_ZERO)
        return named

    def unpack(self, offset: int) -> tuple[int, bytes]:
        """The compressed cluster there. Raises MalformedError "bad compressed cluster"."""
        number = offset // self._cluster
        entry = self._tables.entry(number)
        split = 70 - self._bits
        place = entry & (1 << split) - 1
        sectors = (entry >> split & (1 << self._bits - 8) - 1) + 1
        packed = bytes(self._read(place, sectors * 512 - place % 512))
        unpacker = zlib.decompressobj(-15)
        try:
            data = unpacker.decompress(packed, self._cluster)
        except zlib.error as error:
            raise MalformedError("bad compressed cluster", f"at {place}: {error}") from None
        if len(data) != self._cluster:
            raise MalformedError("bad compressed cluster", f"at {place}: {len(data)} bytes")
        return number * self._cluster, data

    def _load_l1(self, first: int, count: int) -> Sequence[int]:
        l1 = _numbers(exactly(self._read, self.header.l1_offset + first * 8, count * 8))
        for entry in l1:
            if entry & ~(OFFSET_MASK | COPIED) or entry & OFFSET_MASK & (self._cluster - 1):
                raise MalformedError("bad L1 entry", f"{entry:#x}")
        return l1

    def _load(self, entry: int) -> Sequence[int]:
        return _numbers(exactly(self._read, entry & OFFSET_MASK, self._cluster))

    def _decode(self, entry: int) -> tuple[Kind, int]:
        if entry & _COMPRESSED:
            return Kind.PACKED, 0
        place = entry & OFFSET_MASK
        if entry & self._reserved or place & (self._cluster - 1):
            raise MalformedError("bad L2 entry", f"{entry:#x}")
        if entry & _ZERO:
            return Kind.ZEROS, 0
        return (Kind.DATA, place) if place else (Kind.ABSENT, 0)


def _numbers(data: bytes) -> array[int]:
    numbers = array("Q", data)
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers
