"""The contract of a transport mode, as a function that each is run through."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable

from ioflt.backup.disk import VirtualDisk
from ioflt.errors import UsageError
from ioflt.types import Area

_STEPS = 200
_LENGTHS = (1, 511, 512, 4096, 65536, 300_000)


def check_transport(
    open_again: Callable[[], VirtualDisk], content: bytes, holes: Iterable[Area] = (), seed: int = 0
) -> None:
    """Run a disk with this content through the contract. Raises AssertionError.

    `open_again` opens it. `holes` are parts that its areas have to leave out. Nothing may stay open.
    """
    open_again().close()  # what a datastore keeps open of its homes it does from now on
    before = _descriptors()
    with open_again() as disk:
        assert disk.capacity == len(content)
        _check_reads(disk, content, random.Random(seed))  # noqa: S311 - what is read is no secret
        _check_refusals(disk)
        areas = list(disk.areas())
        _check_areas(areas, content)
        for hole in holes:
            assert not any(area.start < hole.end and hole.start < area.end for area in areas), hole
        _check_parts(disk, areas, random.Random(seed))  # noqa: S311
        _check_copy(disk, content)
    disk.close()
    with open_again() as disk:  # it is fit for another
        assert bytes(disk.read(0, min(4096, disk.capacity))) == content[:4096]
    assert not _descriptors() - before


def _check_reads(disk: VirtualDisk, content: bytes, choose: random.Random) -> None:
    size = len(content)
    assert bytes(disk.read(0, 0)) == bytes(disk.read(size, 0)) == b""
    assert bytes(disk.read(0, size)) == content
    for _ in range(_STEPS):
        offset = choose.choice((choose.randrange(size), choose.randrange(0, size, 512)))
        length = min(choose.choice(_LENGTHS), size - offset)
        assert bytes(disk.read(offset, length)) == content[offset : offset + length], (offset, length)


def _check_refusals(disk: VirtualDisk) -> None:
    for offset, length in ((-1, 1), (0, -1), (disk.capacity, 1), (1, disk.capacity)):
        try:
            disk.read(offset, length)
        except UsageError:
            continue
        raise AssertionError(f"{length} bytes at {offset} are not refused")


def _check_areas(areas: list[Area], content: bytes) -> None:
    at = -1
    for area in areas:
        assert area.length > 0
        assert at < area.start, f"{area} is out of order, or touches the one before"
        assert area.end <= len(content)
        assert not any(content[max(at, 0) : area.start]), f"data before {area} is in no area"
        at = area.end
    assert not any(content[max(at, 0) :]), "data behind the last area is in none"


def _check_parts(disk: VirtualDisk, areas: list[Area], choose: random.Random) -> None:
    """The areas of a part are those of the whole disk, cut."""
    for _ in range(20):
        start = choose.randrange(disk.capacity)
        length = choose.randrange(disk.capacity - start + 1)
        cut = [
            Area(max(area.start, start), min(area.end, start + length) - max(area.start, start))
            for area in areas
            if area.start < start + length and area.end > start
        ]
        assert list(disk.areas(start, length)) == cut, (start, length)
    assert list(disk.areas(disk.capacity)) == []


def _check_copy(disk: VirtualDisk, content: bytes) -> None:
    """Whoever reads the areas as they come has the disk."""
    made = bytearray(len(content))
    for area in disk.areas():
        made[area.start : area.end] = disk.read(area.start, area.length)
    assert made == content


def _descriptors() -> set[str]:
    """What this process has open, but for the directory that is read."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:
            continue
    return found
