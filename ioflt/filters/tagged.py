"""Tags over ciphertext: what was read verifies or is not given out, what is written gets its tags.

Data and tags lie in two files and cannot be written in one step. So before the first write into an area of
4 MiB the journal names it, durably; after a crash the areas that the journal names get their tags anew from
what is there (a write that was torn is as torn as on any disk), all others have to verify. An area leaves the
journal once its data and tags are durable: when the file is closed, and at a sync when nothing was written to
it since the one before. Nothing else is ever healed.

A sector that was never written is a hole: zeros, and the tag of a hole at its place. Of an area without any
other there are no tags, only a mark.

Tasks and locks: reads may run beside everything; whoever reads here what another process writes looks
again (`patience`), and under `_journal_lock` who reads of an area to which this process gives its first tags.
`_lock` keeps a write (data, then tags) together, `_journal_lock` one change of the journal; who has both took
`_journal_lock` first. Nobody waits for the medium under `_lock`.
"""

from __future__ import annotations

import errno
import hmac
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager

from ioflt.crypto.sectortags import TAG_SIZE, Begun, SectorTags
from ioflt.errors import IntegrityError
from ioflt.filters.base import Filter, Link
from ioflt.filters.patience import Patience, Sight
from ioflt.filters.tagfile import TagFile
from ioflt.format.luks2.tags import AREA, AREA_SECTORS, MAX_RUNS, Journal, TagKeys, runs_of
from ioflt.sectors import round_down, round_up
from ioflt.types import SECTOR_SIZE

#: Told of sectors, as runs (first, number): of those that do not verify, or that were healed.
Told = Callable[[tuple[tuple[int, int], ...]], None]

#: Most areas that the journal names: what recovery reads is bounded by that, 2 GiB.
MAX_AREAS = 512
#: Quiet areas for which a sync changes the journal: that costs two more of them.
_QUIET = 16
#: Areas that are named ahead of who writes one after the other.
_AHEAD = 8
#: Areas that are punched in one change of the journal.
_BATCH = 64
#: Marks that are made at a time: of 256 GiB.
_MARKS = 1 << 16


class Tagged(Filter):
    """`below` has ciphertext, whole sectors; all calls here are of whole sectors."""

    def __init__(
        self,
        below: Link,
        file: TagFile,
        keys: TagKeys,
        uuid: str,
        *,
        name: str,
        is_written: Callable[[], bool],
        found: Told,
        healed: Told,
    ) -> None:
        """Takes over `file` and the keys but the journal's. `name`: for errors. `is_written`: whether another
        process has the writer's lock. Nothing is read yet."""
        super().__init__(below)
        self._file = file
        self._name = name
        self._tags = SectorTags(keys.sectors, uuid)
        self._marks = SectorTags(keys.marks, uuid)
        self._is_written = is_written
        self._found = found
        self._healed = healed
        self._lock = threading.Lock()
        self._journal_lock = threading.Lock()
        self._patience = Patience()
        self._ahead: dict[tuple[int, int], tuple[bytearray | memoryview, Begun]] = {}
        self.forget(0)

    def forget(self, covered: int) -> None:
        """Somebody else may write from now on, or did: what is known of the journal is worth nothing.

        `covered`: the bytes for which there are tags, even if the file below is shorter now.
        """
        self._covered = covered
        self._writing = False  # whether what follows holds
        self._sequence = 0
        self._journaled: set[int] = set()  # areas that the journal names, durably
        self._open: dict[int, int] = {}  # of those the ones in use here, and when they were written last
        self._emptied: set[int] = set()  # of those the ones that have no tags any more
        self._syncs = 0
        self._end = 0  # bytes below which there are tags
        self._unsynced = False  # tags that no area in the journal covers

    # Reading

    @contextmanager
    def ahead(self, offset: int, length: int) -> Iterator[None]:
        """Within the block another thread makes tags of that range, for a read of just that with `nowait`.

        Raises BlockingIOError instead of disk I/O. All that is one thread's; nobody writes there meanwhile.
        """
        data = self.below.read(offset, length, nowait=True)
        with closing(self._tags.begin(_whole(data), offset // SECTOR_SIZE)) as begun:
            self._ahead[offset, length] = ahead = data, begun
            try:
                yield
            finally:
                if self._ahead.get((offset, length)) is ahead:
                    del self._ahead[offset, length]

    def read(self, offset: int, length: int, *, nowait: bool = False) -> bytearray | memoryview:
        ahead = self._ahead.pop((offset, length), None) if nowait else None
        if ahead is None:
            data = self.below.read(offset, length, nowait=nowait)
            bad = self._bad(data, offset // SECTOR_SIZE, nowait=nowait)
        else:
            data, begun = ahead
            bad = self._differing(_whole(data), offset // SECTOR_SIZE, begun.tags(), nowait=True)
        if bad and nowait:
            raise BlockingIOError(errno.EAGAIN, "looked at again, by who may wait")
        if bad:
            data, bad = self._again(offset, length, data, bad)
        if bad:
            self._refuse(bad)
        return data

    def check_missing(self, offset: int, length: int) -> None:
        """The body ends before that range, which the file's length covers: raises unless it is of holes."""
        written = self._first_written(offset, offset + length)
        if written is not None:
            self._refuse([written // SECTOR_SIZE])

    def is_hole(self, offset: int, length: int) -> bool:
        """Whether a range of one area has no data, by mark and file system: nothing is to be verified."""
        if not self.is_empty(offset // AREA):
            return False
        try:
            return self.below.seek_data(offset) >= offset + length
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return True

    def verify(self, offset: int, length: int) -> tuple[tuple[int, int], ...]:
        """The runs of sectors in a range that do not verify; what the body lacks counts as zeros."""
        data = self.below.read(offset, length)
        bad = self._bad(data, offset // SECTOR_SIZE)
        if bad:
            data, bad = self._again(offset, length, data, bad)
        have = round_down(len(data))
        if have < length:
            sector = (offset + have) // SECTOR_SIZE
            holes = self._tags.of_holes((length - have) // SECTOR_SIZE, sector)
            bad = [*bad, *self._differing(None, sector, holes)]
        return runs_of(bad)

    def is_empty(self, area: int) -> bool:
        """Whether the mark says that the area has no sector but holes."""
        return hmac.compare_digest(self._file.read_marks(area, 1), self._marks.of_holes(1, area))

    def seek_data(self, offset: int) -> int:
        """A hole is what is one by its tag, whatever the file system says."""
        try:
            found = self.below.seek_data(offset)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            found = -1
        end = round_down(found) if found >= 0 else self.below.size()
        written = self._first_written(round_down(offset), end)
        if written is not None:
            return max(offset, written)
        if found < 0:
            raise OSError(errno.ENXIO, "no data there")
        return found

    def seek_hole(self, offset: int) -> int:
        size = self.below.size()
        while True:
            offset = self.below.seek_hole(offset)
            start = round_up(offset)
            if start >= size or self._first_written(start, start + SECTOR_SIZE) is None:
                return offset
            offset = start + SECTOR_SIZE

    # Writing

    def waits(self, offset: int, length: int) -> bool:
        """Whether a write there waits for the medium."""
        first, last = _areas(offset, length)
        return not self._writing or not self._is_ready(range(first, last + 1))

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        sector, tags = offset // SECTOR_SIZE, self._tags.of(data, offset // SECTOR_SIZE)
        first, last = _areas(offset, len(data))
        areas = range(first, last + 1)
        if self.waits(offset, len(data)):
            self._begin()
        if offset > self._end:
            self._blank(self._end, offset)
        while True:
            with self._lock:
                if self._is_ready(areas):
                    self._put(offset, data, sector, tags)
                    self._open.update(dict.fromkeys(areas, self._syncs))
                    self._end = max(self._end, offset + len(data))
                    return
            self._prepare(areas)

    def resize(self, size: int) -> None:
        self._begin()
        with self._journal_lock:
            self.below.resize(size)
            if size != self._end:
                self._blank(min(size, self._end), max(size, self._end), size)
            self._end = size

    def punch(self, offset: int, length: int) -> None:
        self._empty(offset, length, self.below.punch)

    def zero(self, offset: int, length: int) -> None:
        self._empty(offset, length, self.below.zero)

    def sync(self, *, data_only: bool) -> None:
        with self._lock:
            quiet = [area for area, when in self._open.items() if when < self._syncs]
            self._syncs += 1
            if len(quiet) < _QUIET:
                quiet = []
            for area in quiet:
                del self._open[area]
        self.below.sync(data_only=data_only)
        if self._unsynced or quiet:
            self._unsynced = False
            self._file.sync()
        if quiet:
            self._shrink_journal()

    @property
    def at_rest(self) -> bool:
        """Whether the journal names nothing, as far as it was written from here."""
        return not self._journaled

    def settle(self) -> None:
        """Make data and tags durable; then the journal names nothing. Before others may write."""
        with self._lock:
            self._open.clear()
        self.below.sync(data_only=True)
        self._file.sync()
        self._shrink_journal()

    def close(self) -> None:
        """Forget the keys and close the file of tags."""
        self.wipe()
        self._file.close()
        super().close()

    def wipe(self) -> None:
        """Forget the keys."""
        self._tags.wipe()
        self._marks.wipe()

    # Verifying

    def _bad(self, data: bytearray | memoryview, sector: int, *, nowait: bool = False) -> list[int]:
        """The numbers of the whole sectors of `data`, the first of which is `sector`, that do not verify."""
        whole = _whole(data)
        return self._differing(whole, sector, self._tags.of(whole, sector), nowait=nowait)

    def _differing(
        self, data: memoryview | None, sector: int, tags: bytes, *, nowait: bool = False
    ) -> list[int]:
        """Those whose tags are not stored, and that lie in no area of holes as holes."""
        count = len(tags) // TAG_SIZE
        stored = self._file.read_tags(sector, count, nowait=nowait) if count else b""
        if hmac.compare_digest(stored, tags):
            return []
        bad = [
            sector + index
            for index in range(count)
            if stored[index * TAG_SIZE : (index + 1) * TAG_SIZE]
            != tags[index * TAG_SIZE : (index + 1) * TAG_SIZE]
        ]
        empty = {area for area in {number // AREA_SECTORS for number in bad} if self.is_empty(area)}
        return [
            number
            for number in bad
            if number // AREA_SECTORS not in empty
            or (data is not None and any(_sector(data, number - sector)))
        ]

    def _again(
        self, offset: int, length: int, data: bytearray | memoryview, bad: list[int]
    ) -> tuple[bytearray | memoryview, list[int]]:
        """Another process may have been writing when that was read, or may have been interrupted; of this one
        another thread, to other sectors of an area that had no tags yet.
        """
        if self._writing:
            with self._journal_lock:  # who gives an area tags has it until its mark says so, too
                data = self.below.read(offset, length)
                return data, self._bad(data, offset // SECTOR_SIZE)
        data = bytearray(data)
        settled = self._patience.settle(bad, self._is_written, self._look)
        for number, sight in settled.items():
            if sight.sound:
                start = number * SECTOR_SIZE - offset
                data[start : start + len(sight.data)] = sight.data
        return data, [number for number in bad if not settled[number].sound]

    def _look(self, numbers: list[int]) -> list[Sight]:
        """At each of these sectors alone: while many are read many change."""
        named = self._file.load_journal().areas
        return [self._sight(number, named=number // AREA_SECTORS in named) for number in numbers]

    def _sight(self, number: int, *, named: bool) -> Sight:
        data = self.below.read(number * SECTOR_SIZE, SECTOR_SIZE)
        whole = _whole(data)
        tags = self._tags.of(whole, number)
        sound = len(whole) > 0 and not self._differing(whole, number, tags)
        return Sight(data, tags + self._file.read_tags(number, 1), sound, named)

    def _refuse(self, bad: Iterable[int]) -> None:
        runs = runs_of(bad)
        self._found(runs)
        raise IntegrityError("changed data", f"{named(runs)} not verify", file=self._name, sectors=runs)

    def _first_written(self, start: int, end: int) -> int | None:
        """The byte where the first sector begins, of a range of whole sectors, that is no hole by its tag."""
        for area in range(start // AREA, -(-end // AREA)):
            first = max(start, area * AREA) // SECTOR_SIZE
            count = min(end, (area + 1) * AREA) // SECTOR_SIZE - first
            if count <= 0 or self.is_empty(area):
                continue
            written = self._differing(None, first, self._tags.of_holes(count, first))
            if written:
                return written[0] * SECTOR_SIZE
        return None

    # The journal

    def _begin(self) -> None:
        """Who writes knows the journal; what it names was interrupted, and is healed first."""
        with self._journal_lock:
            if self._writing:
                return
            journal = self._file.load_journal()
            self._end = max(self.below.size(), self._covered)
            self._sequence, self._journaled = journal.sequence, journal.areas
            healed = [number for area in sorted(self._journaled) for number in self._heal(area)]
            if healed:
                self._healed(runs_of(healed))
            self._writing = True

    def _heal(self, area: int) -> list[int]:
        """Give an area the tags of what is there; the sectors that needed it."""
        data, first = _whole(self.below.read(area * AREA, AREA)), area * AREA_SECTORS
        bad = self._bad(data, first)
        tags = self._tags.of(data, first)
        count = len(tags) // TAG_SIZE
        self._file.write_tags(first, tags + self._tags.of_holes(AREA_SECTORS - count, first + count))
        self._file.write_marks(area, bytes(TAG_SIZE))
        return bad

    def _prepare(self, areas: Iterable[int]) -> None:
        """Have the journal name areas, and give them tags, before they are written."""
        with self._journal_lock:
            new = [area for area in areas if not self._is_ready((area,))]
            unnamed = [area for area in new if area not in self._journaled]
            if unnamed:
                follows = unnamed[0] - 1 in self._open
                ahead = range(unnamed[-1] + 1, unnamed[-1] + (_AHEAD if follows else 1))
                wanted = {*self._journaled, *unnamed, *ahead}
                if len(wanted) > MAX_AREAS or len(runs_of(wanted)) > MAX_RUNS:
                    with self._lock:
                        self._open.clear()
                    self.below.sync(data_only=True)
                    self._file.sync()
                    wanted = {*areas, *ahead}
                self._write_journal(wanted)
            for area in new:
                if self.is_empty(area):
                    first = area * AREA_SECTORS
                    self._file.write_tags(first, self._tags.of_holes(AREA_SECTORS, first))
                    self._file.write_marks(area, bytes(TAG_SIZE))
            with self._lock:
                self._emptied.difference_update(new)
                self._open.update(dict.fromkeys(areas, self._syncs))

    def _is_ready(self, areas: Iterable[int]) -> bool:
        """Whether the journal names them and they have tags."""
        return all(area in self._open and area not in self._emptied for area in areas)

    def _shrink_journal(self) -> None:
        """Only areas that are open stay in it; the data and tags of the others are durable."""
        with self._journal_lock:
            keep = set(self._open)
            if keep != self._journaled:
                self._write_journal(keep)

    def _write_journal(self, areas: set[int]) -> None:
        """Durable before the next one: of the two slots one is always whole."""
        self._file.write_journal(Journal(self._sequence + 1, runs_of(areas)))
        self._sequence += 1
        self._file.sync()
        self._journaled = areas

    # Changing tags

    def _put(self, offset: int, data: bytes | bytearray | memoryview, sector: int, tags: bytes) -> None:
        try:
            self.below.write(offset, data)
        except OSError:  # what came of it is as it is
            there = memoryview(self.below.read(offset, len(data)))
            whole = there[: round_down(len(there))]
            self._file.write_tags(sector, self._tags.of(whole, sector))
            raise
        self._file.write_tags(sector, tags)

    def _empty(self, offset: int, length: int, action: Callable[[int, int], None]) -> None:
        """Whole areas get their mark back, other sectors the tags of holes."""
        self._begin()
        end = min(offset + length, round_up(self._end))
        while offset < end:
            stop = min(end, (offset // AREA + _BATCH) * AREA)
            first, last = _areas(offset, stop - offset)
            written = [area for area in range(first, last + 1) if not self.is_empty(area)]
            if not written:
                action(offset, stop - offset)
            else:
                self._prepare(written)
            for area in written:
                self._empty_area(area, max(offset, area * AREA), min(stop, (area + 1) * AREA), action)
            offset = stop

    def _empty_area(self, area: int, start: int, end: int, action: Callable[[int, int], None]) -> None:
        sector, count = start // SECTOR_SIZE, (end - start) // SECTOR_SIZE
        with self._journal_lock, self._lock:
            action(start, end - start)
            if count == AREA_SECTORS:
                self._emptied.add(area)
                self._file.clear_tags(area, 1)
                self._file.write_marks(area, self._marks.of_holes(1, area))
            else:
                self._file.write_tags(sector, self._tags.of_holes(count, sector))

    def _blank(self, start: int, end: int, size: int | None = None) -> None:
        """All between two bytes, which lies behind the durable length, becomes holes; marks up to `size`.

        It is durable with the next sync: before a length that covers it.
        """
        size = end if size is None else size
        self._unsynced = True
        first, sector = -(-start // AREA), round_up(start) // SECTOR_SIZE
        if start % AREA and not self.is_empty(first - 1):
            count = first * AREA_SECTORS - sector
            self._file.write_tags(sector, self._tags.of_holes(count, sector))
        last = -(-end // AREA)
        marked = max(first, -(-size // AREA))
        if first < last:
            with self._lock:
                for area in [area for area in self._open if first <= area < last]:
                    del self._open[area]
            self._file.clear_tags(first, last - first)
            for area in range(first, marked, _MARKS):
                self._file.write_marks(area, self._marks.of_holes(min(_MARKS, marked - area), area))
            self._file.write_marks(marked, bytes((last - marked) * TAG_SIZE))


def named(runs: tuple[tuple[int, int], ...]) -> str:
    """`sector 3 does`, or `sectors 3-5, 9 do`: of the numbers the first few."""
    shown = [str(first) if count == 1 else f"{first}-{first + count - 1}" for first, count in runs[:5]]
    several = len(runs) > 1 or runs[0][1] > 1
    rest = ", …" if len(runs) > len(shown) else ""
    return f"sectors {', '.join(shown)}{rest} do" if several else f"sector {shown[0]} does"


def _areas(offset: int, length: int) -> tuple[int, int]:
    """The first and the last area of a range."""
    return offset // AREA, (offset + max(length, 1) - 1) // AREA


def _whole(data: bytearray | memoryview) -> memoryview:
    """The whole sectors of it."""
    return memoryview(data)[: round_down(len(data))]


def _sector(data: memoryview, index: int) -> memoryview:
    return data[index * SECTOR_SIZE : (index + 1) * SECTOR_SIZE]
