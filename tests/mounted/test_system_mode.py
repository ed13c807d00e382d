"""System mode: users of one machine share root's keyd as members of its group; others do not get in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine import Machine, User

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.interop("unshare", "setpriv", "nsenter")]

ALICE = User("alice", 61001)
MALLORY = User("mallory", 61009, member=False)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine([ALICE, MALLORY]) as found:
        found.root("datastore", "init", "/mnt/work/ds")
        yield found


def test_a_member_asks_the_keyd_of_the_machine(machine: Machine) -> None:
    done = machine.ioflt(ALICE, "vm", "list", "/mnt/work/ds")
    assert done.returncode == 0, done.stderr
    assert not machine.path("/mnt/home/alice/state/ioflt/providers/local.json").exists()


def test_another_user_does_not_get_in(machine: Machine) -> None:
    done = machine.ioflt(MALLORY, "vm", "list", "/mnt/work/ds")
    assert (done.returncode, "may not use this socket" in done.stderr) == (3, True), done.stderr


def test_a_member_neither_starts_keyd_nor_changes_providers(machine: Machine) -> None:
    machine.root("keyd", "stop")
    done = machine.ioflt(ALICE, "vm", "list", "/mnt/work/ds")
    assert (done.returncode, "only root starts it" in done.stderr) == (9, True), done.stderr
    machine.root("keyd", "start")
    done = machine.ioflt(ALICE, "provider", "create", "native", "mine")
    assert (done.returncode, "root's to change" in done.stderr) == (3, True), done.stderr
    done = machine.ioflt(ALICE, "mount", "/mnt/work/ds", "/mnt/home/alice")
    assert (done.returncode, "root makes the mounts" in done.stderr) == (3, True), done.stderr
