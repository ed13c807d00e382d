"""A qcow2 image made in one pass: clusters in the order of the disk, tables as they are complete.

The header comes last, so that what was not finished is no image. Version 3, clusters of 64 KiB, 16-bit
reference counts. In memory are the L1 table (8 bytes for 512 MiB of the disk) and one L2 table.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from ioflt.errors import BugError, UnsupportedError
from ioflt.format.qcow2 import header as head
from ioflt.format.qcow2.header import COPIED, Header

#: Bytes of a cluster: the unit of what is written.
CLUSTER: Final = 64 << 10

#: Largest disk, bytes: what an L1 table of QEMU's largest size can have.
MAX_SIZE: Final = head.MAX_L1 // 8 * (CLUSTER * CLUSTER // 8)

#: `put(position, data)` writes all of `data` at that byte of the file.
Put: TypeAlias = "Callable[[int, bytes | bytearray | memoryview], object]"

_BITS: Final = 16
_ENTRIES: Final = CLUSTER // 8  # of an L2 table
_COUNTS: Final = CLUSTER // 2  # of a block of reference counts
_ZEROS: Final = bytes(CLUSTER)
_ZERO: Final = 1


class Writer:
    """Any number of `write` and `zeros`, in the order of the disk, then `finish`."""

    def __init__(
        self,
        put: Put,
        capacity: int,
        *,
        backing: str | None = None,
        backing_format: Literal["qcow2", "raw", "vmdk"] = "qcow2",
    ) -> None:
        """`capacity` in bytes, a multiple of 512. With `backing`, a path relative to the image's directory,
        what is not written is that image's: then zeros hide it.

        Raises UnsupportedError "too large"; MalformedError "backing name not confined".
        """
        if capacity > MAX_SIZE:
            raise UnsupportedError("too large", f"a disk of {capacity} bytes")
        if capacity % 512 or capacity < 0:
            raise BugError("a capacity that is no multiple of 512")
        self._put = put
        self._capacity = capacity
        self._backing = None if backing is None else head.confine(backing)
        self._backing_format = None if backing is None else backing_format
        self._l1 = array("Q", bytes(8 * head.l1_entries(capacity, _BITS)))
        self._l2 = array("Q", bytes(CLUSTER))
        self._table = 0  # of which `_l2` is
        self._next = 1 + max(1, -(-len(self._l1) * 8 // CLUSTER))  # after header and L1 table: a free cluster
        self._end = 0  # of what was written, bytes of the disk

    @property
    def size(self) -> int:
        """Bytes of the file so far."""
        return self._next * CLUSTER

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Whole clusters of the disk (or up to its end) at `offset`, which is not before what came already.

        Clusters of zeros take no space.
        """
        view = memoryview(data).cast("B")
        self._advance(offset, len(view))
        done = 0
        while done < len(view):
            zeros, stop = self._alike(view, done)
            if zeros:
                self._mark_zeros(offset + done, stop - done)
            else:
                self._append(offset + done, view[done:stop])
            done = stop

    def zeros(self, offset: int, length: int) -> None:
        """The same for zeros."""
        self._advance(offset, length)
        self._mark_zeros(offset, length)

    def finish(self) -> int:
        """The rest of the tables, then the header; returns the file's size."""
        self._flush()
        l1_offset = CLUSTER
        self._put(l1_offset, _big_endian(self._l1).ljust(-(-len(self._l1) * 8 // CLUSTER) * CLUSTER, b"\0"))
        table, clusters = self._write_counts()
        header = Header(
            3, _BITS, self._capacity, len(self._l1), l1_offset, self._backing, self._backing_format
        )
        self._put(0, head.pack(header, table, clusters).ljust(CLUSTER, b"\0"))
        return self.size

    def _advance(self, offset: int, length: int) -> None:
        end = offset + length
        whole = offset % CLUSTER == 0 and (end % CLUSTER == 0 or end == self._capacity)
        if offset < self._end or end > self._capacity or not whole:
            raise BugError("written out of order, beyond the disk's capacity or not in clusters")
        self._end = end

    def _alike(self, view: memoryview, start: int) -> tuple[bool, int]:
        """Whether the cluster at `start` is of zeros, and where those end that are alike."""
        zeros = _is_zeros(view[start : start + CLUSTER])
        stop = start + CLUSTER
        while stop < len(view) and _is_zeros(view[stop : stop + CLUSTER]) == zeros:
            stop += CLUSTER
        return zeros, min(stop, len(view))

    def _append(self, offset: int, view: memoryview) -> None:
        self._put(self._next * CLUSTER, view)
        count, odd = divmod(len(view), CLUSTER)
        if odd:  # the disk ends in a cluster
            self._put(self._next * CLUSTER + len(view), bytes(CLUSTER - odd))
            count += 1
        first = self._next
        self._next += count
        for number in range(count):
            self._set(offset // CLUSTER + number, (first + number) * CLUSTER | COPIED)

    def _mark_zeros(self, offset: int, length: int) -> None:
        if self._backing is not None:
            for number in range(offset // CLUSTER, -(-(offset + length) // CLUSTER)):
                self._set(number, _ZERO)

    def _set(self, number: int, entry: int) -> None:
        table, index = divmod(number, _ENTRIES)
        if table != self._table:
            self._flush()
            self._table = table
        self._l2[index] = entry

    def _flush(self) -> None:
        """The L2 table in hand comes behind the clusters it names."""
        if any(self._l2):
            self._put(self._next * CLUSTER, _big_endian(self._l2))
            self._l1[self._table] = self._next * CLUSTER | COPIED
            self._next += 1
            self._l2 = array("Q", bytes(CLUSTER))

    def _write_counts(self) -> tuple[int, int]:
        """Reference counts: 1 of every cluster up to here, their own included. Where their table is."""
        used, blocks, clusters = self._next, 0, 0
        while blocks * _COUNTS < used + blocks + clusters:
            blocks = -(-(used + blocks + clusters) // _COUNTS)
            clusters = -(-blocks * 8 // CLUSTER)
        total = used + blocks + clusters
        table = array("Q", ((used + clusters + number) * CLUSTER for number in range(blocks)))
        self._put(used * CLUSTER, _big_endian(table).ljust(clusters * CLUSTER, b"\0"))
        for number in range(blocks):
            counts = b"\0\1" * min(_COUNTS, total - number * _COUNTS)
            self._put((used + clusters + number) * CLUSTER, counts.ljust(CLUSTER, b"\0"))
        self._next = total
        return used * CLUSTER, clusters


def _is_zeros(view: memoryview) -> bool:
    return bytes(view) == _ZEROS[: len(view)]


def _big_endian(numbers: array[int]) -> bytes:
    made = array("Q", numbers)
    if sys.byteorder == "little":
        made.byteswap()
    return made.tobytes()
