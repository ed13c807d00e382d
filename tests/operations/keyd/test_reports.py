"""Events that mounts and commands report: what keyd takes of whom, and what nobody can make it write."""

from __future__ import annotations

import os

import msgspec
import pytest

from ioflt import paths
from ioflt.errors import PeerError, UsageError
from ioflt.keyd.allowance import Allowance
from ioflt.keyd.reports import BURST, RATE
from ioflt.keys import starter
from ioflt.keys.client import KeyClient
from ioflt.wire.keyd.requests import Report, ReportedChange, ReportedThing
from ioflt.wire.keyd.values import MAX_REPORTS
from tests.operations.keyd.test_events import events

WEB = ReportedThing("vm", "0f0e0d0c-0b0a-4908-8706-050403020100", "web")


def client(operation, who=None):
    return KeyClient.connect(
        lambda start: starter.greet(paths.find(), start=start, operation=operation, as_principal=who)
    )


def test_who_reports_is_the_peer_and_it_is_marked(keys, where):
    with client("mount", "alice") as mount, client("mount") as other:
        renamed = ReportedChange("file", "web/a", "web/b")
        settings = mount.note_events([Report("file rename", WEB, changes=(renamed,), served_uid=4321)])
        other.note_events([Report("integrity failure", WEB, outcome="failed", reason="no space")])
    assert settings.required
    first, second = events(where)
    assert (first.by.uid, first.by.pid, first.by.as_principal) == (os.getuid(), os.getpid(), "user:alice")
    assert (second.by.uid, second.by.pid, second.by.as_principal) == (os.getuid(), os.getpid(), None)
    assert (first.served_uid, second.served_uid) == (4321, None)
    assert first.reported
    assert second.reported
    assert (first.changes[0].kind, first.object.shown, second.reason) == ("modified", "web", "no space")


@pytest.mark.parametrize(
    ("connection", "report"),
    [
        ("mount", Report("lock")),  # keyd's own
        ("mount", Report("permission grant")),
        ("mount", Report("key use")),
        ("mount", Report("vm import")),
        ("vm export", Report("vm import")),
        ("vm export", Report("vm export: no such entry")),
        ("vm list", Report("vm list")),
        ("no such command", Report("integrity failure")),
        ("vm import", Report("file open")),
        ("", Report("file remove")),
        ("vm export", Report("vm export", served_uid=4321)),  # whom it serves only a mount knows
    ],
)
def test_nobody_reports_what_is_not_his_to_report(keys, where, connection, report):
    sound = Report("file create")
    with client(connection) as other, pytest.raises(UsageError):
        other.note_events([sound, report])
    assert events(where) == []  # nothing of the batch


def test_a_command_reports_what_it_does_and_what_it_finds(keys, where):
    """With the privileges that the table of operations has for it."""
    with client("vm export") as command:
        command.note_events([Report("vm export", WEB), Report("vm export: a clear VM", WEB)])
        command.note_events([Report("integrity failure", WEB, outcome="failed")])
    found = [(each.operation, each.privilege, each.reported) for each in events(where)]
    assert found == [
        ("vm export", "Cryptographer.Access", True),
        ("vm export: a clear VM", None, True),  # whose files anybody reads who may
        ("integrity failure", None, True),
    ]


@pytest.mark.parametrize("field", ["by", "uid", "time", "reported", "privilege", "as_principal"])
def test_nobody_says_himself_who_he_is(keys, where, field):
    """A field of an event that keyd fills in is no field of a report: it breaks the protocol."""
    forged = msgspec.defstruct("Report", [("operation", str), (field, object)], frozen=True)
    with client("mount") as other, pytest.raises(PeerError):
        other.note_events([forged("file open", 0)])
    assert events(where) == []


@pytest.mark.parametrize(
    "reports",
    [
        [],
        [Report("file open")] * (MAX_REPORTS + 1),
        [Report("file open", reason="x" * 1025)],
        [Report("file open", changes=(ReportedChange("a", "b", "c"),) * 3)],
        [Report("file open", msgspec.structs.replace(WEB, kind="role"))],
    ],
)
def test_what_is_too_much_breaks_the_protocol(keys, where, reports):
    with client("mount") as other, pytest.raises(PeerError):
        other.note_events(reports)
    assert events(where) == []


def test_each_user_has_an_allowance():
    now = 0.0
    allowance = Allowance(BURST, RATE, lambda: now)
    assert allowance.take(1, BURST)
    assert allowance.take(2, BURST)
    assert not allowance.take(1, 1)
    now = 1.0
    assert allowance.take(1, RATE)
    assert not allowance.take(1, 1)
