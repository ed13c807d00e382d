"""What would be locked without a key or a key provider: known beforehand, not when it happens. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Set

from ioflt.datastore.seen import Protected, Survey
from ioflt.types import KeyRef


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


def sole_keys(found: Survey) -> list[tuple[KeyRef, int]]:
    """Keys that alone open something, and how much: the most first."""
    counted = Counter(one.keys[0] for one in found.protected if len(set(one.keys)) == 1)
    return sorted(counted.items(), key=lambda item: (-item[1], str(item[0])))


def sole_providers(found: Survey) -> list[tuple[str, int]]:
    """Providers whose keys alone open something, and how much: the most first."""
    counted = Counter(
        one.keys[0].provider for one in found.protected if len({key.provider for key in one.keys}) == 1
    )
    return sorted(counted.items(), key=lambda item: (-item[1], item[0]))
