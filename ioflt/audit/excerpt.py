"""An event as the log of a folder has it: it names no VM that is another tenant's."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from ioflt.audit.event import Change, Event, Value

#: What stands there for a name that is not told.
ELSEWHERE: Final = "(elsewhere)"

#: Changes that name a VM's directory or a file in one, such as where a copy goes, or where what is moved was.
_PLACES: Final = frozenset(("clone", "path", "file", "replaced"))


def excerpt(event: Event, *, whole: bool) -> Event:
    """The event for the folder in which its object lies. `whole`: so does its datastore.

    Of places in other datastores is told that they are elsewhere, and of those beside a VM, unless all of its
    datastore is the folder's. A reason may name them as well, and goes with them.
    """
    changes = tuple(_excerpt(change, event, whole=whole) for change in event.changes)
    if changes == event.changes:
        return event
    return replace(event, changes=changes, reason=None if event.reason is None else ELSEWHERE)


def _excerpt(change: Change, event: Event, *, whole: bool) -> Change:
    if change.path not in _PLACES:
        return change
    return replace(
        change, before=_told(change.before, event, whole=whole), after=_told(change.after, event, whole=whole)
    )


def _told(value: Value, event: Event, *, whole: bool) -> Value:
    if not isinstance(value, str) or event.object is None:
        return value
    place = value
    if value.startswith("/"):
        if event.datastore is None or not value.startswith(f"{event.datastore.shown}/"):
            return ELSEWHERE
        place = value.removeprefix(f"{event.datastore.shown}/")
    own = event.object.kind != "vm" or place.partition("/")[0] == event.object.shown
    return value if whole or own or "/" not in value else ELSEWHERE
