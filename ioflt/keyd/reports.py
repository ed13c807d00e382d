"""What mounts report, as it is not seen here: which operations, and how much of it.

keyd vouches for who reports: that is the peer, as the kernel names it. The rest is his word, and marked so.
"""

from __future__ import annotations

from typing import Final

from ioflt.audit.event import Change, Event, Thing
from ioflt.errors import UsageError
from ioflt.keyd.recorder import event
from ioflt.wire.keyd.messages import Report, ReportedThing

#: What a mount tells of, with the user that it did it for.
BY_MOUNTS: Final = frozenset(
    (
        "file open",
        "file create",
        "file remove",
        "file rename",
        "vm create",
        "vm remove",
        "vm rename",
        "integrity failure",
    )
)

#: Events that a user may report at once, and in each second from then on: more than a mount makes files.
BURST: Final = 20_000
RATE: Final = 1_000


def event_of(report: Report, operation: str) -> Event:
    """The event of a report, over a connection for that operation. Raises UsageError for what is none."""
    if operation != "mount" or report.operation not in BY_MOUNTS:
        raise UsageError(f"{report.operation} is not reported to keyd by a {operation or 'command'}")
    told = event(
        report.operation,
        _thing(report.object),
        changes=[_change(one.path, one.before, one.after) for one in report.changes],
        outcome=report.outcome,
        reason=report.reason,
        datastore=_thing(report.datastore),
    )
    return Event(
        told.time, told.by, told.operation, told.object, told.datastore, told.changes, told.privilege,
        told.outcome, told.reason, reported=True, served_uid=report.served_uid,
    )  # fmt: skip


def _change(path: str, before: str | None, after: str | None) -> Change:
    if before is None:
        return Change("added", path, None, after)
    return Change("deleted" if after is None else "modified", path, before, after)


def _thing(thing: ReportedThing | None) -> Thing | None:
    return None if thing is None else Thing(thing.kind, thing.id, thing.shown)
