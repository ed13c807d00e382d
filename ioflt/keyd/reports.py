"""What mounts and commands report, as it is not seen here: which operations, and how much of it.

keyd vouches for who reports: that is the peer, as the kernel names it. The rest is his word, and marked so.
"""

from __future__ import annotations

from typing import Final

from ioflt.access.operations import OPERATIONS, base
from ioflt.audit.event import Change, Event, Thing
from ioflt.errors import UsageError
from ioflt.keyd.recorder import event
from ioflt.wire.keyd.requests import Report, ReportedThing

#: What a mount tells of, with the user that it did it for.
BY_MOUNTS: Final = frozenset(
    (
        "mount",
        "umount",
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

#: What commands tell of: they do it to files themselves, or try key servers.
BY_COMMANDS: Final = frozenset(
    (
        "check",
        "backup hotadd",
        "backup hotadd: a clear VM",
        "backup prune",
        "backup replicate",
        "backup restore",
        "backup run",
        "cbt disable",
        "cbt enable",
        "cbt query",
        "datastore register",
        "vm clone",
        "vm erase",
        "vm export",
        "vm import",
        "vm move",
        "disk extend",
        "recovery add",
        "recovery fill",
        "recovery remove",
        "header backup",
        "header restore",
        "vmx export",
        "vmx import",
        "provider backup",
        "provider create kmip",
        "provider create native",
        "provider create pkcs11",
        "provider create transit",
        "provider default",
        "provider passwd",
        "provider remove",
        "provider renew",
        "provider restore",
        "provider slot add",
        "provider slot remove",
        "provider split",
        "provider test",
        "provider trust",
    )
)

#: What any command may come upon.
BY_ANY: Final = frozenset(("integrity failure", "port warning"))

#: What keyd tells of itself, where that is no command.
BY_KEYD: Final = frozenset(
    (
        "backup hold",
        "backup sign",
        "backup watch",
        "denials",
        "events repair",
        "export end",
        "key new",
        "key use",
        "lock",
        "provider change",
        "provider state",
        "unlock",
    )
)

#: Events that mounts report at once, and in each second from then on: more than a mount makes files.
BURST: Final = 20_000
RATE: Final = 1_000

#: The same of commands of a user who is neither root nor whose keyd it is: at most 100 MB in a day.
COMMANDS_BURST: Final = 4_096
COMMANDS_RATE: Final = 1 / 10


def event_of(report: Report, operation: str) -> Event:
    """The event of a report, over a connection for that operation. Raises UsageError for what is none.

    Its privileges are those that the table of operations has for it.
    """
    if not _may_report(report, operation):
        raise UsageError(f"{report.operation} is not reported to keyd by a {operation or 'command'}")
    if report.served_uid is not None and operation != "mount":
        raise UsageError("whom it serves only a mount tells")
    known = OPERATIONS.get(report.operation)
    told = event(
        report.operation,
        _thing(report.object),
        changes=[_change(one.path, one.before, one.after) for one in report.changes],
        outcome=report.outcome,
        reason=report.reason,
        datastore=_thing(report.datastore),
        privilege=", ".join(need.privilege for need in known.needs) if known and known.needs else None,
    )
    return Event(
        told.time, told.by, told.operation, told.object, told.datastore, told.changes, told.privilege,
        told.outcome, told.reason, reported=True, served_uid=report.served_uid,
    )  # fmt: skip


def _may_report(report: Report, operation: str) -> bool:
    """A mount tells of what is done in it, a command of itself, by an entry of the table."""
    if operation == "mount":
        return report.operation in BY_MOUNTS
    command = base(operation)
    own = command in BY_COMMANDS and report.operation in OPERATIONS and base(report.operation) == command
    return own or (command in OPERATIONS and report.operation in BY_ANY)


def _change(path: str, before: str | None, after: str | None) -> Change:
    if before is None:
        return Change("added", path, None, after)
    return Change("deleted" if after is None else "modified", path, before, after)


def _thing(thing: ReportedThing | None) -> Thing | None:
    return None if thing is None else Thing(thing.kind, thing.id, thing.shown)
