"""Tags in a deep recrypt: those of before verify what is read, those to be are written beside.

What did not verify before does not verify afterwards: such a sector gets no tag.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain

from ioflt.crypto.secret import Secret
from ioflt.crypto.sectortags import TAG_SIZE, SectorTags
from ioflt.datastore.deep.storage import File
from ioflt.format.luks2 import tags
from ioflt.format.luks2.tags import AREA, AREA_SECTORS, Journal
from ioflt.types import SECTOR_SIZE

_NOTHING = bytes(TAG_SIZE)

#: Bytes that are written again at a time.
_CHUNK = 1 << 20


class _Tags:
    def __init__(self, file: File, dek: Secret, uuid: str) -> None:
        self._file = file
        keys = tags.keys(dek, uuid)
        self._sectors = SectorTags(keys.sectors, uuid)
        self._marks = SectorTags(keys.marks, uuid)
        self._journal = keys.journal

    def _is_empty(self, area: int) -> bool:
        """Whether it has its mark: of holes alone."""
        return self._file.pread(TAG_SIZE, tags.mark_offset(area)) == self._marks.of_holes(1, area)


class OldTags(_Tags):
    """Those of the container as it is."""

    def __init__(self, file: File, dek: Secret, uuid: str) -> None:
        """Raises CorruptDataError when they are of another one."""
        super().__init__(file, dek, uuid)
        slots = [bytes(file.pread(tags.SLOT_SIZE, offset)) for offset in tags.SLOT_OFFSETS]
        self._interrupted = tags.load(slots[0], slots[1], self._journal).areas

    def bad(self, block: bytes | bytearray, position: int) -> set[int]:
        """The sectors of a block of the body that do not verify, by number."""
        first = position // SECTOR_SIZE
        return self._differing(self._sectors.of(block, first), first, block)

    def next_written(self, start: int, end: int) -> int:
        """The byte of the first sector between two that is no hole by its tag; `end` if there is none."""
        for area in range(start // AREA, -(-end // AREA)):
            first = max(start, area * AREA) // SECTOR_SIZE
            count = min(end, (area + 1) * AREA) // SECTOR_SIZE - first
            if count > 0 and not self._is_empty(area):
                written = self._differing(self._sectors.of_holes(count, first), first, None)
                if written:
                    return min(written) * SECTOR_SIZE
        return end

    def _differing(self, wanted: bytes, first: int, block: bytes | bytearray | None) -> set[int]:
        stored = b"".join(
            bytes(self._file.pread(count * TAG_SIZE, tags.tag_offset(start))).ljust(count * TAG_SIZE, b"\0")
            for start, count in tags.tag_runs(first, len(wanted) // TAG_SIZE)
        )
        if stored == wanted:
            return set()
        return {
            first + index
            for index in range(len(wanted) // TAG_SIZE)
            if stored[index * TAG_SIZE : (index + 1) * TAG_SIZE]
            != wanted[index * TAG_SIZE : (index + 1) * TAG_SIZE]
            and (first + index) // AREA_SECTORS not in self._interrupted
            and not (self._is_empty((first + index) // AREA_SECTORS) and _is_hole(block, index))
        }


class NewTags(_Tags):
    """Those of the container to be, durable when `sync` returns."""

    def begin(self, body: int) -> None:
        """For a body of holes of that size, in a new file. Durable."""
        for sequence in (1, 2):
            self._file.pwrite(tags.pack(Journal(sequence), self._journal), tags.slot_offset(sequence))
        for first, count in tags.mark_runs(0, -(-body // AREA)):
            self._file.pwrite(self._marks.of_holes(count, first), tags.mark_offset(first))
        self._file.fsync()

    def put(self, block: bytes | bytearray, position: int, bad: Collection[int]) -> None:
        """The tags of a block of the body, but for the sectors of those numbers.

        Interrupted, it can be repeated: the tags of an area's holes are durable before its mark goes.
        """
        if not bad and not any(block):
            return
        first, count = position // SECTOR_SIZE, len(block) // SECTOR_SIZE
        areas = range(first // AREA_SECTORS, (first + count - 1) // AREA_SECTORS + 1)
        empty = [area for area in areas if self._is_empty(area)]
        for area in empty:
            start = area * AREA_SECTORS
            self._write(self._sectors.of_holes(AREA_SECTORS, start), start)
        if empty:
            self._file.fsync()
        for area in empty:
            self._file.pwrite(_NOTHING, tags.mark_offset(area))
        made = self._sectors.of(block, first)
        parts = (
            _NOTHING if first + index in bad else made[index * TAG_SIZE : (index + 1) * TAG_SIZE]
            for index in range(count)
        )
        self._write(bytes(chain.from_iterable(parts)) if bad else made, first)

    def renew(self) -> None:
        """After an interruption: what is read may be in memory only, so it is written again. Durable."""
        for offset in range(0, self._file.size(), _CHUNK):
            block = self._file.pread(_CHUNK, offset)
            if any(block):
                self._file.pwrite(block, offset)
        self._file.fsync()

    def sync(self) -> None:
        """What was put is durable."""
        self._file.fsync()

    def _write(self, made: bytes, first: int) -> None:
        done = 0
        for start, count in tags.tag_runs(first, len(made) // TAG_SIZE):
            self._file.pwrite(made[done : done + count * TAG_SIZE], tags.tag_offset(start))
            done += count * TAG_SIZE


def _is_hole(block: bytes | bytearray | None, index: int) -> bool:
    return block is None or not any(block[index * SECTOR_SIZE : (index + 1) * SECTOR_SIZE])
