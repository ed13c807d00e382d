"""Where the bytes of a virtual disk lie in its image: runs, found through a directory of tables.

Every sparse format is such a directory: VMDK's grain tables, qcow2's L2 tables. What an entry says is the
format's own; that neighbours become one run, and how many tables stay in memory, is here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Final, NamedTuple, Protocol, TypeAlias

from ioflt.errors import MalformedError

#: `read(offset, length)` gives bytes of the image, fewer only at its end.
Read: TypeAlias = Callable[[int, int], "bytes | bytearray | memoryview"]

#: Bytes of tables kept for one image: those of 16 GiB of a disk with qcow2's usual clusters, 32 with VMDK's.
_KEPT: Final = 2 << 20

#: Entries of a page of a directory, and how many pages of one are kept: 256 KiB, whatever an image claims.
_PAGE: Final = 4096
_PAGES: Final = 8


class Kind(Enum):
    """What the image has for a part of the disk."""

    DATA = "data"  #: its bytes, as they are
    PACKED = "packed"  #: a compressed unit
    ZEROS = "zeros"
    ABSENT = "absent"  #: nothing: the parent's bytes, or zeros where it has none


class Run(NamedTuple):
    """`length` bytes of the disk from `start` on. `place`: for DATA where they lie in the image, in bytes."""

    start: int
    length: int
    kind: Kind
    place: int = 0


class Image(Protocol):
    """One image of a disk, without its parent."""

    @property
    def capacity(self) -> int:
        """Bytes of the disk."""

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """What covers these bytes of the disk, which has them: in order, without gaps."""


class Packed(Image, Protocol):
    """One that may have PACKED units."""

    def unpack(self, offset: int) -> tuple[int, bytes]:
        """The unit that has byte `offset` of the disk: where it starts, and its bytes."""


def exactly(read: Read, offset: int, length: int) -> bytes:
    """All those bytes. Raises MalformedError "truncated"."""
    data = read(offset, length)
    if len(data) != length:
        raise MalformedError("truncated", f"{length} bytes at {offset}")
    return bytes(data)


class Pages:
    """A long table of which a part is in memory: entries by their number.

    `load(first, count)` gives some of them.
    """

    def __init__(self, load: Callable[[int, int], Sequence[int]], count: int) -> None:
        self._load = load
        self._count = count
        self._pages: OrderedDict[int, Sequence[int]] = OrderedDict()
        self._last: tuple[int, Sequence[int]] = (-1, ())

    def __getitem__(self, number: int) -> int:
        which, index = divmod(number, _PAGE)
        if self._last[0] != which:
            page = self._pages.get(which)
            if page is None:
                first = which * _PAGE
                page = self._pages[which] = self._load(first, min(_PAGE, self._count - first))
                if len(self._pages) > _PAGES:
                    self._pages.popitem(last=False)
            self._last = (which, page)
        return self._last[1][index]


class Directory:
    """Tables of entries, each for one unit of the disk.

    `entries` is the directory itself, 0 where there is no table. `load` gives the table that an entry names,
    `decode` what an entry of it means: a kind, and for DATA the place in bytes.
    """

    def __init__(
        self,
        entries: Pages,
        load: Callable[[int], Sequence[int]],
        decode: Callable[[int], tuple[Kind, int]],
        *,
        unit: int,
        per_table: int,
        capacity: int,
        entry_size: int,
    ) -> None:
        self.capacity = capacity
        self._entries = entries
        self._load = load
        self._decode = decode
        self._unit = unit
        self._per_table = per_table
        self._kept = max(4, _KEPT // (per_table * entry_size))
        self._tables: OrderedDict[int, Sequence[int]] = OrderedDict()

    def entry(self, number: int) -> int:
        """The entry of that unit; 0 where there is no table."""
        table, index = divmod(number, self._per_table)
        return self._table(table)[index] if self._entries[table] else 0

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """As `Image.runs`."""
        end = offset + length
        start, kind, place, stop = offset, Kind.ABSENT, 0, offset  # the run in hand: up to `stop`
        for begin, new, where, upto in self._parts(offset, end):
            joins = (
                new is kind
                and new is not Kind.PACKED
                and (new is not Kind.DATA or where == place + stop - start)
            )
            if not joins:
                if stop > start:
                    yield Run(start, stop - start, kind, place)
                start, kind, place = begin, new, where
            stop = upto
        if stop > start:
            yield Run(start, stop - start, kind, place)

    def _parts(self, offset: int, end: int) -> Iterator[tuple[int, Kind, int, int]]:
        """(start, kind, place, end) of each unit, and of each table that is not there."""
        unit, decode = self._unit, self._decode
        span = unit * self._per_table
        while offset < end:
            number = offset // span
            base = number * span
            upto = min(end, base + span)
            if self._entries[number] == 0:
                yield offset, Kind.ABSENT, 0, upto
                offset = upto
                continue
            table = self._table(number)
            index = (offset - base) // unit
            while offset < upto:
                kind, place = decode(table[index])
                index += 1
                stop = base + index * unit
                if kind is Kind.DATA:
                    place += offset + unit - stop
                if stop > upto:
                    stop = upto
                yield offset, kind, place, stop
                offset = stop

    def _table(self, number: int) -> Sequence[int]:
        table = self._tables.get(number)
        if table is None:
            table = self._load(self._entries[number])
            self._tables[number] = table
            if len(self._tables) > self._kept:
                self._tables.popitem(last=False)
        else:
            self._tables.move_to_end(number)
        return table
