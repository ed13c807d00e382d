"""Byte range → partial head, whole sectors, partial tail. Pure arithmetic.

Sectors are 4096 bytes (`types.SECTOR_SIZE`); offsets and lengths are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from ioflt.types import SECTOR_SIZE


def round_up(length: int) -> int:
    """The smallest multiple of a sector that is not below `length`."""
    return -(-length // SECTOR_SIZE) * SECTOR_SIZE


def round_down(length: int) -> int:
    """The largest multiple of a sector that is not above `length`."""
    return length // SECTOR_SIZE * SECTOR_SIZE


@dataclass(frozen=True, slots=True)
class Span:
    """The whole sectors that cover a byte range, and where the range lies in them.

    `start` and `end` are byte offsets, multiples of a sector, `end` exclusive;
    `head` bytes before the range and `tail` bytes after it lie inside the covering sectors.
    """

    start: int
    end: int
    head: int
    tail: int

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def aligned(self) -> bool:
        return self.head == 0 and self.tail == 0


def cover(offset: int, length: int) -> Span:
    """The sectors that cover bytes `offset` to `offset + length`."""
    start = round_down(offset)
    end = round_up(offset + length)
    return Span(start, end, offset - start, end - offset - length)


def inner(offset: int, length: int) -> tuple[int, int]:
    """The whole sectors inside a byte range, as (start, end) offsets; start == end when there is none."""
    start = round_up(offset)
    end = round_down(offset + length)
    return (start, end) if end > start else (start, start)
