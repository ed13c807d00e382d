"""The contract of a link of the filter chain, as a function that any chain is run through."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

from ioflt.filters.base import Link
from ioflt.types import SECTOR_SIZE

#: Bytes of the file that the contract plays with.
SIZE = 8 * SECTOR_SIZE


def check_filter(link: Link, seed: int = 0, steps: int = 200) -> None:
    """Run a chain over an empty file through the contract of `filters.base.Link`. Raises AssertionError.

    The size is changed by whole sectors only, as `VmCrypt` asks.
    """
    choose = random.Random(seed)  # noqa: S311 - which steps are taken is no secret
    assert link.size() == 0
    assert len(link.read(0, 100)) == 0
    link.resize(SIZE)
    assert link.size() == SIZE
    expected = bytearray(SIZE)
    _check(link, expected)
    for _ in range(steps):
        offset = choose.choice((choose.randrange(SIZE), choose.randrange(0, SIZE, SECTOR_SIZE)))
        length = choose.choice((choose.randrange(1, SIZE), SECTOR_SIZE, choose.randrange(1, 20)))
        length = min(length, SIZE - offset)
        _step(choose, link, expected, offset, length)
        _check_range(link, expected, offset, length)
        _check_holes(link, expected)
    _check(link, expected)
    link.sync(data_only=True)
    link.sync(data_only=False)
    _check_sizes(link, expected)
    link.close()


def _step(choose: random.Random, link: Link, expected: bytearray, offset: int, length: int) -> None:
    action = choose.choice(("write", "write", "punch", "zero", "allocate"))
    if action == "write":
        data = choose.choice((choose.randbytes(length), bytes(length)))
        link.write(offset, choose.choice((data, bytearray(data), memoryview(data))))
        expected[offset : offset + length] = data
        return
    clear: Callable[[int, int], None] = {
        "punch": link.punch,
        "zero": link.zero,
        "allocate": lambda start, count: link.allocate(start, count, keep_size=True),
    }[action]
    try:
        clear(offset, length)
    except OSError as error:  # not every file system can
        if error.errno != errno.EOPNOTSUPP:
            raise
        return
    if action != "allocate":
        expected[offset : offset + length] = bytes(length)


def _check(link: Link, expected: bytearray) -> None:
    assert link.size() == len(expected)
    assert bytes(link.read(0, len(expected))) == expected
    assert bytes(link.read(0, len(expected) + SECTOR_SIZE)) == expected, "a read behind the end is cut"
    assert len(link.read(len(expected), 10)) == 0
    link.write(3, b"")
    link.write(len(expected) + 3, b"")
    assert link.size() == len(expected), "a write of nothing changes nothing"


def _check_range(link: Link, expected: bytearray, offset: int, length: int) -> None:
    assert bytes(link.read(offset, length)) == expected[offset : offset + length]
    start = max(0, offset - 5)
    assert bytes(link.read(start, length + 10)) == expected[start : start + length + 10]
    assert link.size() == len(expected)


def _check_holes(link: Link, expected: bytearray) -> None:
    """What is no data reads as zeros; a walk by data and holes ends at the end."""
    position = 0
    while position < len(expected):
        try:
            data = link.seek_data(position)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            data = len(expected)
        assert position <= data <= len(expected)
        assert not any(expected[position:data]), "data in a hole"
        if data == len(expected):
            return
        position = link.seek_hole(data)
        assert data <= position <= len(expected)
        # A reserved range counts as data while a clean page of it is cached: it may go in between.
        position = max(position, data + 1)


def _check_sizes(link: Link, expected: bytearray) -> None:
    """Writes at the end extend; what a cut took does not come back."""
    link.write(SIZE, b"x" * SECTOR_SIZE)
    assert link.size() == SIZE + SECTOR_SIZE
    link.resize(SECTOR_SIZE)
    assert bytes(link.read(0, SIZE)) == expected[:SECTOR_SIZE]
    link.write(2 * SECTOR_SIZE, b"y" * SECTOR_SIZE)
    assert bytes(link.read(2 * SECTOR_SIZE, SIZE)) == b"y" * SECTOR_SIZE
