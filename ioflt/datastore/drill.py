"""What would be locked without a key or a key provider: known beforehand, not when it happens. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import TypeVar

from ioflt.datastore.seen import Protected, Survey
from ioflt.types import KeyRef

_Lost = TypeVar("_Lost", KeyRef, str)


def locked(found: Survey, is_lost: Callable[[KeyRef], bool], cached: Set[KeyRef]) -> list[Protected]:
    """What nothing opens any more: each of its keys is lost, and none is cached."""
    return [
        one
        for one in found.protected
        if all(is_lost(key) for key in one.keys) and cached.isdisjoint(one.keys)
    ]


def by_cache(
    found: Survey, is_lost: Callable[[KeyRef], bool], cached: Mapping[KeyRef, int | None]
) -> list[tuple[Protected, int | None]]:
    """What goes on only by keys that are cached, and until when; `cached` has it of each, None for no end."""
    kept = []
    for one in found.protected:
        ends = [cached[key] for key in one.keys if key in cached]
        if ends and all(map(is_lost, one.keys)):
            known = [end for end in ends if end is not None]
            kept.append((one, max(known) if len(known) == len(ends) else None))
    return kept


@dataclass(frozen=True, slots=True, order=True)
class Locks:
    """How much is locked by itself."""

    vms: int = 0
    datastores: int = 0


def sole_keys(found: Survey) -> list[tuple[KeyRef, Locks]]:
    """Keys that alone open something, and how much: the most first."""
    return _counted((one.keys[0], one) for one in found.protected if len(set(one.keys)) == 1)


def sole_providers(found: Survey) -> list[tuple[str, Locks]]:
    """Providers whose keys alone open something, and how much: the most first."""
    return _counted(
        (one.keys[0].provider, one) for one in found.protected if len({key.provider for key in one.keys}) == 1
    )


def _counted(pairs: Iterable[tuple[_Lost, Protected]]) -> list[tuple[_Lost, Locks]]:
    counted: dict[_Lost, Locks] = {}
    for lost, one in pairs:
        before = counted.get(lost, Locks())
        vms, datastores = (0, 1) if one.is_datastore else (1, 0)
        counted[lost] = Locks(before.vms + vms, before.datastores + datastores)
    by_name = sorted(counted.items(), key=lambda item: str(item[0]))
    return sorted(by_name, key=lambda item: item[1], reverse=True)
