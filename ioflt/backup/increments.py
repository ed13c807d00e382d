"""What of a disk changed since an earlier point: found by comparing with what that holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ioflt import ahead
from ioflt.backup import images
from ioflt.backup.disk import Area, VirtualDisk, aligned
from ioflt.format.qcow2.writer import CLUSTER


def changed(disk: VirtualDisk, before: VirtualDisk, always: Iterable[Area] = ()) -> Iterator[Area]:
    """The clusters in which they differ, and those of `always`, in order; beyond the end of the earlier one,
    which may be shorter, what is there. Those side by side are one area: a disk has millions.
    """
    return aligned(_clusters(disk, before, always), CLUSTER, disk.capacity)


def _clusters(disk: VirtualDisk, before: VirtualDisk, always: Iterable[Area]) -> Iterator[Area]:
    wanted = [area for area in always if area.start < disk.capacity]
    parts = merged([*disk.areas(), *(_inside(area, disk.capacity) for area in before.areas()), *wanted])

    def was(area: Area) -> tuple[Area, bytes]:
        known = max(0, min(area.length, before.capacity - area.start))
        then = bytes(before.read(area.start, known) if known else b"")
        return area, then.ljust(area.length, b"\0")

    with ahead.worked(was, images.clusters(parts, disk.capacity)) as areas:
        for area, then in areas:
            now = bytes(disk.read(area.start, area.length))  # memoryviews take 30 times as long to compare
            for start in range(0, area.length, CLUSTER):
                length = min(CLUSTER, area.length - start)
                begin = area.start + start
                forced = any(begin < each.end and each.start < begin + length for each in wanted)
                if forced or now[start : start + length] != then[start : start + length]:
                    yield Area(begin, length)


def merged(areas: Iterable[Area]) -> Iterator[Area]:
    """In order, those that touch or overlap as one."""
    start = end = 0
    for area in sorted((each for each in areas if each.length), key=lambda each: each.start):
        if area.start > end:
            if end > start:
                yield Area(start, end - start)
            start = area.start
        end = max(end, area.end)
    if end > start:
        yield Area(start, end - start)


def without(areas: Iterable[Area], known: Iterable[Area]) -> Iterator[Area]:
    """What of the areas is in none of the known; each come in order, and apart."""
    rest = iter(known)
    next_known = next(rest, None)
    for area in areas:
        start = area.start
        while next_known is not None and next_known.start < area.end:
            if next_known.start > start:
                yield Area(start, next_known.start - start)
            start = max(start, next_known.end)
            if next_known.end > area.end:  # it may reach into the next one, too
                break
            next_known = next(rest, None)
        if start < area.end:
            yield Area(start, area.end - start)


def _inside(area: Area, capacity: int) -> Area:
    return Area(min(area.start, capacity), max(0, min(area.end, capacity) - area.start))
