"""Who came to the content of VMs, as far as the events say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ioflt.audit.event import Event

#: The first data keys under a key that a process is given.
KEY_USE: Final = "key use"

#: What a mount reports of a VM's files when somebody comes to their content.
OPENS: Final = frozenset({"file open", "file create"})

_KEY: Final = "config.keyId"

#: The principal, for whom he acted, and the user whom his mount served.
_Who = tuple[str, str | None, int | None]


@dataclass(frozen=True, slots=True)
class Use:
    """`who` did it for `as_principal` (None: himself), in so many events, the first and the last then.

    `served_uid`: his mount did it for that user.
    """

    who: str
    as_principal: str | None
    served_uid: int | None
    events: int
    first: datetime
    last: datetime


class UsesOfVms:
    """Takes events in their order, and answers for each VM by its home id.

    `hands_out`: the operations on a VM that give data keys to who does them.
    """

    def __init__(self, hands_out: Set[str]) -> None:
        self._on_vms = OPENS | hands_out
        self._of: defaultdict[tuple[str, str], dict[_Who, Use]] = defaultdict(dict)
        self._keys: defaultdict[str, set[str]] = defaultdict(set)

    def note(self, event: Event) -> None:
        """One more event."""
        thing = event.object
        if thing is None or event.outcome != "done":
            return
        if thing.kind == "vm":
            self._keys[thing.id] |= keys_named(event)
        if (thing.kind == "key" and event.operation == KEY_USE) or (
            thing.kind == "vm" and event.operation in self._on_vms
        ):
            self._count(self._of[thing.kind, thing.id], event)

    def of(self, home_id: str, keys: Iterable[str]) -> list[Use]:
        """Who had data keys of that VM: under `keys`, under keys that it had before, or for work on it.

        And whose mount opened its files, or made some.
        """
        found: dict[_Who, Use] = {}
        for place in (("vm", home_id), *(("key", key) for key in sorted({*keys, *self._keys[home_id]}))):
            for who, use in self._of.get(place, {}).items():
                known = found.get(who)
                found[who] = use if known is None else _together(known, use)
        return sorted(
            found.values(),
            key=lambda use: (
                use.who,
                use.as_principal or "",
                -1 if use.served_uid is None else use.served_uid,
            ),
        )

    def _count(self, uses: dict[_Who, Use], event: Event) -> None:
        who = (event.by.who, event.by.as_principal, event.served_uid)
        new = Use(*who, 1, event.time, event.time)
        uses[who] = new if who not in uses else _together(uses[who], new)


def keys_named(event: Event) -> set[str]:
    """The keys that a VM had before an event about it, and has from then on, by their names."""
    return {
        key
        for change in event.changes
        if change.path == _KEY
        for key in (*_keys(change.before), *_keys(change.after))
    }


def _together(one: Use, other: Use) -> Use:
    first, last = min(one.first, other.first), max(one.last, other.last)
    return Use(one.who, one.as_principal, one.served_uid, one.events + other.events, first, last)


def _keys(value: object) -> set[str]:
    """The keys in a value of `config.keyId`: one, or a list of them."""
    found = set()
    for each in value if isinstance(value, list) else [value]:
        match each:
            case {"keyId": str(key), "providerId": {"id": str(provider)}}:
                found.add(f"{provider}:{key}")
    return found
