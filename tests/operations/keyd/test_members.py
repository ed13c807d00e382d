"""Members of the group `ioflt` against the keyd of the machine: what who has no role cannot do to others."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from ioflt.keyd.denials import BURST
from ioflt.keyd.guests import MAX_EACH
from ioflt.keyd.reports import COMMANDS_BURST
from ioflt.wire.keyd.values import MAX_REPORTS
from tests.machine import ROOT, Machine, User

pytestmark = [pytest.mark.root, pytest.mark.interop("unshare", "setpriv", "nsenter")]

ALICE, BOB = User("alice", 61001), User("bob", 61002)
#: Not in the group: his keyd is his own.
OWNER = User("owner", 61004, member=False)
#: In the group, as a process with a subordinate uid may be, and no account of the machine.
GHOST = User("ghost", 61077)


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine([ALICE, BOB]) as found:
        found.root("keyd", "start")
        yield found


def python(machine: Machine, user: User, script: str, *arguments: str) -> str:
    """What it prints."""
    done = machine.run(user, *machine.python(), "-c", script, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


CONNECTIONS = """
from ioflt import paths
from ioflt.errors import BusyError
from ioflt.keys.link import Link
path = paths.find().keyd_socket
links = []
try:
    while len(links) < 1000:
        links.append(Link.open(path))
except BusyError as error:
    print(len(links), error)
"""


def test_connections_of_one_member_have_an_end(machine: Machine) -> None:
    assert python(machine, ALICE, CONNECTIONS) == (
        f"{MAX_EACH} uid 61001 has as many connections to keyd as there may be\n"
    )
    assert python(machine, ROOT, CONNECTIONS) == ""


def test_who_has_no_account_is_not_let_in(machine: Machine) -> None:
    done = machine.ioflt(GHOST, "permission", "list")
    assert (done.returncode, done.stderr.splitlines()[0]) == (3, "ioflt: uid 61077 may not ask this of keyd")


REPORTS = """
from ioflt.errors import BusyError
from ioflt.keys.client import KeyClient
from ioflt.wire.keyd.requests import Report
from ioflt.wire.keyd.values import MAX_REPORTS
taken = 0
with KeyClient(start=False, operation="vm export") as keys:
    try:
        while taken < 5_000:
            keys.note_events([Report("vm export")] * MAX_REPORTS)
            taken += MAX_REPORTS
    except BusyError as error:
        print(taken, error)
"""


OWN_KEYD = """
import os
from ioflt import paths
from ioflt.keys import starter
os.environ["IOFLT_HOME"] = os.environ["HOME"] + "/ioflt"
starter.greet(paths.find(), start=True).close()
"""
END_KEYD = """
with KeyClient(start=False) as keys:
    keys.stop()
"""


def test_what_a_member_tells_does_not_fill_the_log(machine: Machine) -> None:
    taken, _, said = python(machine, ALICE, REPORTS).partition(" ")
    assert COMMANDS_BURST - MAX_REPORTS < int(taken) <= COMMANDS_BURST + MAX_REPORTS
    assert said == "uid 61001 reports more events than keyd takes\n"
    assert python(machine, ROOT, REPORTS) == ""


def test_whose_keyd_it_is_tells_as_much_as_root() -> None:
    with Machine([OWNER]) as machine:
        assert python(machine, OWNER, OWN_KEYD + REPORTS + END_KEYD) == ""


DENIALS = """
import sys
from ioflt.errors import DeniedError
from ioflt.keys.client import KeyClient
from ioflt.wire.keyd import access as wire
everything = wire.Object("everything", "", "everything")
asked = (wire.Grant("alice", "administrator", everything), wire.CreateRole("x", ()))
with KeyClient(start=False) as keys:
    for number in range(int(sys.argv[1])):
        try:
            keys.change_access(asked[number % 2])
        except DeniedError:
            continue
        raise SystemExit("it was not denied")
"""


def test_denials_of_one_member_do_not_fill_the_log(machine: Machine) -> None:
    python(machine, ALICE, DENIALS, str(BURST + 100))
    python(machine, BOB, DENIALS, "3")
    machine.root("keyd", "stop")
    told = json.loads(machine.root("events", "--json"))
    of = {
        user.number: [one for one in told if one["by"]["uid"] == user.number and one["outcome"] != "done"]
        for user in (ALICE, BOB)
    }
    assert len(of[BOB.number]) == 3
    assert BURST < len(of[ALICE.number]) < BURST + 100
    rest = [one for one in of[ALICE.number] if one["operation"] == "denials"]
    counted = sum(one["changes"][0]["after"] for one in rest)
    assert len(of[ALICE.number]) - len(rest) + counted == BURST + 100
