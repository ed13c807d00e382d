"""System mode: users of one machine share root's keyd as members of its group; others do not get in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.machine import ROOT, Machine, User
from tests.waiting import eventually

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.interop("unshare", "setpriv", "nsenter")]

ALICE = User("alice", 61001)
#: Tries every door, see there.
OUTSIDER = "outsider.py"

MOUNTPOINT = "/mnt/work/mnt"
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


def test_a_member_neither_starts_keyd_nor_mounts_nor_changes_providers_without_the_privilege(
    machine: Machine,
) -> None:
    machine.root("keyd", "stop")
    done = machine.ioflt(ALICE, "vm", "list", "/mnt/work/ds")
    assert (done.returncode, "only root starts it" in done.stderr) == (9, True), done.stderr
    machine.root("keyd", "start")
    done = machine.ioflt(ALICE, "provider", "create", "native", "mine")
    assert (done.returncode, "denied: Cryptographer.ManageKeyServers" in done.stderr) == (3, True), (
        done.stderr
    )
    done = machine.ioflt(ALICE, "mount", "/mnt/work/ds", "/mnt/home/alice")
    assert (done.returncode, "root makes the mounts" in done.stderr) == (3, True), done.stderr


def serving(machine: Machine) -> int:
    """The pid of the newest mount."""
    log = machine.path("/mnt/ioflt/state/logs/mount.log").read_text()
    return int(next(line for line in reversed(log.splitlines()) if "INFO serves" in line).split()[2])


@pytest.fixture
def mounted(machine: Machine) -> Iterator[int]:
    """The pid of a mount that root made."""
    machine.run(ROOT, "mkdir", "-p", MOUNTPOINT)
    machine.root("mount", "--allow-other", "/mnt/work/ds", MOUNTPOINT)
    yield serving(machine)
    machine.root("umount", MOUNTPOINT)


@pytest.mark.parametrize("user", [ALICE, MALLORY], ids=lambda user: user.name)
def test_no_other_user_gets_at_the_processes_that_have_keys(
    machine: Machine, mounted: int, user: User
) -> None:
    keyd = json.loads(machine.root("keyd", "status", "--json"))["pid"]
    (control,) = machine.path("/mnt/ioflt/run/mounts").glob("*.sock")
    places = ["/mnt/ioflt/run", "/mnt/ioflt/state", f"/mnt/ioflt/run/mounts/{control.name}"]
    attack = [*machine.python(), f"/mnt/source/tests/mounted/{OUTSIDER}", str(keyd), str(mounted), *places]
    tried = machine.run(user, *attack)
    assert tried.returncode == 0, tried.stderr
    assert json.loads(tried.stdout) == {"keyd": [], "mount": [], "files": []}


def test_the_doors_that_others_try_are_there(machine: Machine) -> None:
    """As root, at two processes that have no keys."""
    machine.run(ROOT, "mkdir", "-p", "/mnt/work/run/mounts")
    with subprocess.Popen(["sleep", "infinity"]) as one, subprocess.Popen(["sleep", "infinity"]) as other:
        attack = [*machine.python(), f"/mnt/source/tests/mounted/{OUTSIDER}", str(one.pid), str(other.pid)]
        tried = json.loads(machine.run(ROOT, *attack, "/mnt/work/run", "/mnt/ioflt/state", "/nowhere").stdout)
        one.kill()
        other.kill()
    assert {"/proc/maps", "/proc/fd/", "pidfd_getfd", "PTRACE_ATTACH", "kill"} <= set(tried["keyd"])
    assert tried["keyd"] == tried["mount"]
    assert {"list the state", "list the mounts' sockets", "make a file beside keyd's socket"} <= set(
        tried["files"]
    )


class TestMountsOfSomebody:
    """`ioflt mount --as`."""

    @pytest.fixture
    def mount(self, machine: Machine) -> Iterator[None]:
        machine.run(ROOT, "mkdir", "-p", MOUNTPOINT)
        machine.root("mount", "/mnt/work/ds", MOUNTPOINT, "--as", "user:alice")
        yield
        machine.root("umount", MOUNTPOINT)

    def test_its_user_enters_and_nobody_else_not_even_root(self, machine: Machine, mount: None) -> None:
        def enters(user: User) -> bool:
            return machine.run(user, "ls", MOUNTPOINT).returncode == 0

        assert [enters(user) for user in (ALICE, MALLORY, ROOT)] == [True, False, False]

    def test_a_dead_one_is_cleaned_up_by_the_next(self, machine: Machine) -> None:
        machine.run(ROOT, "mkdir", "-p", MOUNTPOINT)
        machine.root("mount", "/mnt/work/ds", MOUNTPOINT, "--as", "alice")
        os.kill(serving(machine), signal.SIGKILL)
        eventually(lambda: "not connected" in machine.run(ALICE, "ls", MOUNTPOINT).stderr)
        machine.root("mount", "/mnt/work/ds", MOUNTPOINT, "--as", "alice")
        assert machine.run(ALICE, "ls", MOUNTPOINT).returncode == 0
        machine.root("umount", MOUNTPOINT)

    def test_with_allow_other_it_warns(self, machine: Machine) -> None:
        machine.run(ROOT, "mkdir", "-p", MOUNTPOINT)
        done = machine.ioflt(ROOT, "mount", "/mnt/work/ds", MOUNTPOINT, "--as", "alice", "--allow-other")
        assert (done.returncode, "every user reads in this mount what user:alice may" in done.stderr) == (
            0,
            True,
        )
        assert machine.run(MALLORY, "ls", MOUNTPOINT).returncode == 0
        machine.root("umount", MOUNTPOINT)

    @pytest.mark.parametrize(
        ("who", "code", "word"),
        [("group:ioflt", 2, "not for the group:ioflt"), ("nobody-of-that-name", 10, "no user")],
    )
    def test_it_is_for_one_who_is_there(self, machine: Machine, who: str, code: int, word: str) -> None:
        done = machine.ioflt(ROOT, "mount", "/mnt/work/ds", MOUNTPOINT, "--as", who)
        assert (done.returncode, word in done.stderr) == (code, True), done.stderr
