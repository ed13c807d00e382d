"""The file of tags beside a container: where each tag lies, and its journal. SPEC.md has the layout.

Journal slot *n* lies at place *n* mod 2. What it names are areas whose sectors and tags may disagree after a
crash, because they were being written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from uuid import UUID

from ioflt.crypto.kdf import hkdf
from ioflt.crypto.mac import TAG_SIZE as MAC_SIZE
from ioflt.crypto.mac import tag, verify
from ioflt.crypto.secret import Secret
from ioflt.crypto.sectortags import TAG_SIZE
from ioflt.errors import AuthenticationError, BugError, MalformedError, UnsupportedError
from ioflt.types import SECTOR_SIZE

#: What the name of the file ends with; the container's UUID comes before.
SUFFIX = ".tags"

#: Bytes of an area, and its sectors.
AREA = 4 << 20
AREA_SECTORS = AREA // SECTOR_SIZE
#: Areas whose marks lie in one page, before the tags of all their sectors.
GROUP_AREAS = 256

#: Bytes of a journal slot, and where the two are.
SLOT_SIZE = 16384
SLOT_OFFSETS = (0, 65536)
#: Where the first group begins.
GROUPS_OFFSET = 131072
#: Most runs of areas in a journal.
MAX_RUNS = 1024

_MARKS_SIZE = GROUP_AREAS * TAG_SIZE
_AREA_TAGS = AREA_SECTORS * TAG_SIZE
_GROUP_SIZE = _MARKS_SIZE + GROUP_AREAS * _AREA_TAGS
_GROUP_SECTORS = GROUP_AREAS * AREA_SECTORS

_MAGIC = b"IOFLTtg\n"
_VERSION = 1
_HEAD = struct.Struct(">8sIIQQ")  # magic, version, flags, sequence, runs
_RUN = struct.Struct(">QQ")  # first area, areas
_RUNS = _HEAD.size + MAC_SIZE
_MAX_SEQUENCE = 2**63 - 1
_MAX_AREAS = 2**63 // AREA


@dataclass(frozen=True, slots=True)
class Journal:
    """The areas that were being written, as runs (first, number) in rising order."""

    sequence: int
    runs: tuple[tuple[int, int], ...] = ()

    @property
    def areas(self) -> set[int]:
        return {area for first, count in self.runs for area in range(first, first + count)}


@dataclass(frozen=True, slots=True)
class TagKeys:
    """The keys of one container's tags, marks and journal."""

    sectors: Secret
    marks: Secret
    journal: Secret


def keys(dek: Secret, uuid: str) -> TagKeys:
    """Those of the container `uuid`."""
    context = UUID(uuid).bytes
    return TagKeys(
        hkdf(dek, "sector-tags", context), hkdf(dek, "area-marks", context), hkdf(dek, "tag-journal", context)
    )


def mark_offset(area: int) -> int:
    """Where the area's mark lies; those of a group lie side by side."""
    group, place = divmod(area, GROUP_AREAS)
    return GROUPS_OFFSET + group * _GROUP_SIZE + place * TAG_SIZE


def tag_offset(sector: int) -> int:
    """Where the sector's tag lies; those of a group lie side by side."""
    group, place = divmod(sector, _GROUP_SECTORS)
    return GROUPS_OFFSET + group * _GROUP_SIZE + _MARKS_SIZE + place * TAG_SIZE


def tag_runs(first: int, count: int) -> Iterator[tuple[int, int]]:
    """Runs (first, number) of sectors whose tags lie side by side."""
    return _split(first, count, _GROUP_SECTORS)


def mark_runs(first: int, count: int) -> Iterator[tuple[int, int]]:
    """Runs (first, number) of areas whose marks lie side by side."""
    return _split(first, count, GROUP_AREAS)


def runs_of(areas: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """The areas as runs (first, number) in rising order."""
    runs: list[tuple[int, int]] = []
    for area in sorted(set(areas)):
        if runs and area == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((area, 1))
    return tuple(runs)


def slot_offset(sequence: int) -> int:
    """Where the slot of that number lies."""
    return SLOT_OFFSETS[sequence % 2]


def pack(journal: Journal, key: Secret) -> bytes:
    """The bytes of the slot. Raises BugError for a journal that would not be read again."""
    fault = _fault(journal)
    if fault:
        raise BugError(f"tag journal with a bad {fault}")
    head = _HEAD.pack(_MAGIC, _VERSION, 0, journal.sequence, len(journal.runs))
    runs = b"".join(_RUN.pack(*run) for run in journal.runs).ljust(SLOT_SIZE - _RUNS - _RUN.size, b"\0")
    return (head + tag(key, head + runs) + runs).ljust(SLOT_SIZE, b"\0")


def load(slot0: bytes, slot1: bytes, key: Secret) -> Journal:
    """The newest journal whose MAC verifies.

    Raises AuthenticationError("no valid tag journal") when there is none: then the tags are of another
    container. UnsupportedError for another version, MalformedError when a MAC verifies over nonsense.
    """
    found = []
    for index, slot in enumerate((slot0, slot1)):
        if len(slot) != SLOT_SIZE:
            raise MalformedError("truncated tag journal")
        if not slot.startswith(_MAGIC):
            continue
        _, version, flags, sequence, count = _HEAD.unpack_from(slot)
        if version != _VERSION or flags:
            raise UnsupportedError("unknown version", f"tag journal {version}, flags {flags:#x}")
        runs = slot[_RUNS : SLOT_SIZE - _RUN.size]
        try:
            verify(key, slot[: _HEAD.size] + runs, slot[_HEAD.size : _RUNS])
        except AuthenticationError:
            continue
        if count > MAX_RUNS or runs[count * _RUN.size :].strip(b"\0") or any(slot[-_RUN.size :]):
            raise MalformedError("bad tag journal", "runs")
        journal = Journal(sequence, tuple(_RUN.iter_unpack(runs[: count * _RUN.size])))
        fault = _fault(journal)
        if fault or sequence % 2 != index:
            raise MalformedError("bad tag journal", fault or "place")
        found.append(journal)
    if not found:
        raise AuthenticationError("no valid tag journal")
    return max(found, key=lambda journal: journal.sequence)


def _split(first: int, count: int, unit: int) -> Iterator[tuple[int, int]]:
    end = first + count
    while first < end:
        step = min(end, (first // unit + 1) * unit) - first
        yield first, step
        first += step


def _fault(journal: Journal) -> str | None:
    if not 0 < journal.sequence <= _MAX_SEQUENCE:
        return "sequence"
    if len(journal.runs) > MAX_RUNS:
        return "number of runs"
    end = 0
    for first, count in journal.runs:
        if first < end or count < 1 or first + count > _MAX_AREAS:
            return "run"
        end = first + count
    return None
