"""Which regions of stored files are written, noted for those who ask: positions alone, and in memory alone.

A region is noted once it is written. So what somebody reads after he was told of all before is either as it
was noted, or is noted again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Final

#: Bytes of a region, at first.
REGION: Final = 4096

#: Behind every offset.
END: Final = 2**63 - 1

#: Most regions that are noted of one file, some 64 MiB of memory; then they become larger, `_COARSER` times.
MOST: Final = 1 << 20
_COARSER: Final = 16

#: Regions of one write from which on it is noted as a range: from then on that takes less memory and time.
_LONG: Final = 64

#: A stored file: device and inode number.
Key = tuple[int, int]

#: Regions that touch: the file, and (offset, length) in bytes.
Area = tuple[int, int, int, int]


class _Notes:
    """Of one file: numbers of regions, and (start, end) in bytes of what is longer."""

    def __init__(self) -> None:
        self._unit = REGION
        self._regions: set[int] = set()
        self._ranges: list[tuple[int, int]] = []

    def add(self, start: int, end: int) -> None:
        first, last = start // self._unit, -(-end // self._unit)
        if last - first > _LONG:
            self._ranges.append((start, end))
        else:
            self._regions.update(range(first, last))
        if len(self._regions) > MOST:
            self._regions = {number // _COARSER for number in self._regions}
            self._unit *= _COARSER
        if len(self._ranges) > MOST:
            self._ranges = [(0, END)]

    def areas(self) -> Iterator[tuple[int, int]]:
        """As (offset, length), in order and apart."""
        unit = self._unit
        parts = sorted([*((number * unit, (number + 1) * unit) for number in self._regions), *self._ranges])
        begin, stop = parts[0]
        for start, end in parts[1:]:
            if start > stop:
                yield begin, stop - begin
                begin = start
            stop = max(stop, end)
        yield begin, min(stop, END) - begin


class Watch:
    """What was written to a home since it began, or since it was asked last. Safe for several threads."""

    def __init__(self, home: object) -> None:
        self.home = home
        self._lock = threading.Lock()
        self._notes: dict[Key, _Notes] = {}

    def note(self, key: Key, start: int, end: int) -> None:
        """Those bytes of that file were written, or may have been."""
        if start < end:
            with self._lock:
                self._notes.setdefault(key, _Notes()).add(start, end)

    def take(self) -> list[Area]:
        """All that was noted, which is forgotten here."""
        with self._lock:
            notes, self._notes = self._notes, {}
        return [(*key, *area) for key, found in notes.items() for area in found.areas()]


class Written:
    """The watches of a process: who writes tells all of them, which costs 0.1 µs while there is none."""

    def __init__(self) -> None:
        self._watches: tuple[Watch, ...] = ()

    @property
    def watched(self) -> bool:
        """Whether there is a watch."""
        return bool(self._watches)

    def watch(self, home: object) -> Watch:
        """One more, of that home alone."""
        made = Watch(home)
        self._watches = (*self._watches, made)
        return made

    def end(self, watch: Watch) -> None:
        """One less."""
        self._watches = tuple(each for each in self._watches if each is not watch)

    def note(self, home: object, key: Key, start: int, end: int) -> None:
        """Bytes of that file in that home were written, or may have been."""
        for watch in self._watches:
            if watch.home is home:
                watch.note(key, start, end)


class Within:
    """Whom to tell of writes to one file. `home`: in which it is by now, as it may be moved."""

    def __init__(self, written: Written, home: Callable[[], object]) -> None:
        self.written = written
        self.home = home


class Notes:
    """Of one open file: where to tell of its writes; nowhere, where nobody can ask."""

    def __init__(self, within: Within | None, fd: int) -> None:
        self._within = within
        info = os.fstat(fd)
        self._key = info.st_dev, info.st_ino

    @property
    def asked(self) -> bool:
        """Whether anybody wants to know."""
        return self._within is not None and self._within.written.watched

    def note(self, start: int, end: int) -> None:
        """Those bytes were written, or may have been: after they were."""
        if self._within is not None and self._within.written.watched:
            self._within.written.note(self._within.home(), self._key, start, end)
