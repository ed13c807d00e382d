"""What is wrong in a datastore, for who watches over it: read, not mended, one VM after the other."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

from ioflt.datastore import compliance, regular
from ioflt.datastore.atomic import PRIVATE_DIR
from ioflt.datastore.container import Progress
from ioflt.datastore.home import Home
from ioflt.datastore.newhome import ERASED
from ioflt.datastore.volume import Volume
from ioflt.errors import IofltError, NotFoundError
from ioflt.format.record.record import DatastoreRecord, HomeRecord
from ioflt.types import KeyRef

#: Sorts of problems in a datastore. A VM that is locked, or in an operation, has no departures besides.
Kind = Literal["locked", "unfinished", "departure", "key holder"]

KINDS: Final[tuple[Kind, ...]] = ("locked", "unfinished", "departure", "key holder")


@dataclass(frozen=True, slots=True)
class Problem:
    """Of the VM or datastore at `path`. `mend`: the command for it, if one does it."""

    kind: Kind
    path: str
    problem: str
    mend: str | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """`vms`: how many there are in each state. `keys`: one of each provider that is needed here."""

    vms: Mapping[str, int]
    problems: list[Problem]
    keys: Sequence[KeyRef]


def look(volume: Volume, progress: Progress | None = None) -> Health:
    """What is wrong in the datastore. `progress` hears of VMs looked at.

    Raises CorruptDataError, StorageError when the host's own policies cannot be read.
    """
    states, problems = Counter[str](), _of_datastore(volume)
    keys = {key.provider: key for key in volume.claimed.keys}
    holders = frozenset(volume.keys.key_holders())
    for name in volume.homes():
        with suppress(NotFoundError):  # gone meanwhile
            home = volume.home(name)
            state, found = _of_home(home, holders)
            states[state] += 1
            problems += found
            known = home.known()
            keys |= {key.provider: key for key in known.keys} if known is not None else {}
        if progress is not None:
            progress(1)
    return Health(dict(sorted(states.items())), problems, tuple(keys.values()))


def _of_datastore(volume: Volume) -> list[Problem]:
    standing = volume.root.unverified()
    found = [Problem("unfinished", path, "its erase was interrupted") for path in _erased(volume)]
    if standing.locked:
        return [*found, Problem("locked", volume.path, standing.problem or "its key cannot be had")]
    found += _unfinished(volume.path, volume.claimed)
    return found + _departures(compliance.of_datastore(volume))


def _of_home(home: Home, holders: frozenset[str]) -> tuple[str, list[Problem]]:
    """Its state, and what is wrong."""
    place = regular.full_path(home)
    try:
        with regular.named(home):
            standing = home.unverified()
    except IofltError as error:
        return "unknown", [Problem("locked", place, error.message)]
    record, state = standing.record, standing.state.value
    if standing.locked:
        return state, [Problem("locked", place, standing.problem or "its key cannot be had")]
    found = [] if record is None else _unfinished(place, record, standing.problem)
    if record is not None and record.keys and record.home_id in holders:
        found.append(Problem("key holder", place, "encrypted, although the keys come from it"))
    if not any(one.kind == "unfinished" for one in found):  # that says enough
        found += _departures(compliance.of_home(home))
    return state, found


def _unfinished(
    place: str, record: HomeRecord | DatastoreRecord, problem: str | None = None
) -> list[Problem]:
    if record.operation is None:
        return []
    return [Problem("unfinished", place, problem or f"its {record.operation.kind} is not finished")]


def _departures(found: list[compliance.Found]) -> list[Problem]:
    return [
        Problem("departure", one.path, f"{one.what}: wanted {one.wanted}, found {one.found}", one.mend)
        for one in found
    ]


def _erased(volume: Volume) -> list[str]:
    """VMs that are erased, and not gone yet."""
    try:
        names = os.listdir(f"/proc/self/fd/{volume.fd}/{PRIVATE_DIR}")
    except OSError:  # none there
        return []
    return [os.path.join(PRIVATE_DIR, name) for name in sorted(names) if name.startswith(ERASED)]
