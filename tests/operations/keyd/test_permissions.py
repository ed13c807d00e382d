"""Users of one machine and their permissions: who they are keyd hears from the kernel."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.machine import ROOT, Machine, User

pytestmark = [pytest.mark.root, pytest.mark.interop("unshare", "setpriv", "nsenter")]

ALICE, BOB, MALLORY = User("alice", 61001), User("bob", 61002), User("mallory", 61009, member=False)
DENIED = "ioflt: permission denied: {}\n"


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine([ALICE, BOB, MALLORY]) as found:
        found.root("keyd", "start")
        yield found


def refused(machine: Machine, user: User, *arguments: str) -> str:
    """What the first line says of why it was denied."""
    done = machine.ioflt(user, *arguments)
    assert done.returncode == 3, done.stderr
    return done.stderr.splitlines(keepends=True)[0]


def granted(machine: Machine, user: User, *arguments: str) -> None:
    done = machine.ioflt(user, "permission", "grant", *arguments)
    assert done.returncode == 0, done.stderr


def test_a_tenants_administrator_gives_in_his_folder_what_he_has(machine: Machine) -> None:
    machine.root(
        "role", "clone", "backup-operator", "delegate", "--privilege", "Authorization.ModifyPermissions"
    )
    machine.root("folder", "create", "tenant")
    machine.root("folder", "create", "other")
    machine.root("permission", "grant", "alice", "delegate", "folder:tenant")
    granted(machine, ALICE, "bob", "backup-operator", "folder:tenant")
    grant = ("permission", "grant", "bob")
    for role, on, denied in (
        ("administrator", "folder:tenant", "Authorization.ModifyRoles on folder:tenant"),
        ("read-only", "folder:other", "Authorization.ModifyPermissions on folder:other"),
        ("read-only", "everything", "Authorization.ModifyPermissions on everything"),
    ):
        assert refused(machine, ALICE, *grant, role, on) == DENIED.format(denied)
    own = ("permission", "grant", "bob", "administrator", "everything")
    assert refused(machine, BOB, *own) == DENIED.format("Authorization.ModifyPermissions on everything")
    assert refused(machine, BOB, "role", "create", "x") == DENIED.format(
        "Authorization.ModifyRoles on everything"
    )
    assert "may not use this socket" in refused(machine, MALLORY, "permission", "list")


def test_one_sees_what_concerns_one(machine: Machine) -> None:
    machine.root("folder", "create", "tenant")
    machine.root("folder", "create", "other")
    machine.root("permission", "grant", "alice", "read-only", "folder:tenant")
    machine.root("permission", "grant", "bob", "read-only", "folder:other")
    listed = json.loads(machine.ioflt(ALICE, "permission", "list", "--json").stdout)
    assert [(each["who"], each["object"]) for each in listed] == [("user:alice", "folder:tenant")]
    folders = json.loads(machine.ioflt(ALICE, "folder", "list", "--json").stdout)
    assert [each["folder"] for each in folders] == ["tenant"]
    explain = ("permission", "explain", "bob", "System.Read", "folder:other")
    unseen = machine.ioflt(ALICE, *explain)  # as one that is not there
    assert (unseen.returncode, unseen.stderr.splitlines()[0]) == (10, "ioflt: no such folder: other")
    assert machine.ioflt(BOB, *explain).stdout == "yes: user:bob has read-only on folder:other\n"


def test_a_group_of_the_machine(machine: Machine) -> None:
    machine.root("permission", "grant", "group:ioflt", "key-administrator", "everything")
    told = machine.root("permission", "explain", "alice", "Cryptographer.ManageKeys", "everything")
    assert told.startswith("no: ")  # by /etc/group she is not in it; the kernel says what she is now
    seen = json.loads(machine.ioflt(ALICE, "permission", "list", "--json").stdout)
    assert {each["who"] for each in seen} == {"user:root", "group:ioflt"}


def test_duties_are_separate_between_users(machine: Machine) -> None:
    machine.root("folder", "create", "tenant")
    slip = machine.ioflt(ROOT, "setup", "--separate-duties", "--key-admin", "alcie", "--vm-admin", "bob")
    assert (slip.returncode, slip.stderr) == (10, "ioflt: no user alcie on this machine\n")
    machine.root("setup", "--separate-duties", "--key-admin", "alice", "--vm-admin", "bob")
    for user, other in ((ALICE, "backup-operator"), (BOB, "key-administrator")):
        assert "permission denied: Cryptographer." in refused(
            machine, user, "permission", "grant", user.name, other, "everything"
        )
    granted(machine, ALICE, "mallory", "key-administrator", "everything")
    both = refused(machine, BOB, "permission", "grant", "mallory", "backup-operator", "folder:tenant")
    assert both.startswith("ioflt: duties are separate, and user:mallory has key administration by")
    assert "permission denied" in refused(machine, BOB, "permission", "revoke", "mallory", "everything")
    assert "last user with key-duties" in refused(
        machine, ALICE, "permission", "revoke", "alice", "everything"
    )


def test_new_vms_of_a_folder_get_keys_of_its_provider(machine: Machine) -> None:
    script = "mkdir -p /mnt/work/vm && echo 1 > /mnt/work/vm/disk.raw && echo secret > /mnt/work/secret"
    assert machine.run(ROOT, "sh", "-c", script).returncode == 0
    for name in ("local", "corp"):
        machine.root("provider", "create", "native", name)
        machine.root(
            "provider", "backup", name, f"/mnt/work/{name}.p12", "--passphrase-file", "/mnt/work/secret"
        )
    machine.root("provider", "default", "local")
    machine.root("datastore", "init", "/mnt/work/ds")
    machine.root("folder", "create", "tenant", "--provider", "corp")

    def provider(name: str, *options: str) -> str:
        machine.root("vm", "import", "/mnt/work/vm", "/mnt/work/ds", "--as", name, *options)
        shown = json.loads(machine.root("vm", "show", f"/mnt/work/ds/{name}", "--json"))
        return str(shown["keys"][0]).partition(":")[0]

    assert provider("before") == "local"
    machine.root("folder", "add", "tenant", "/mnt/work/ds")
    assert provider("within") == "corp"
    machine.root("folder", "set", "tenant")
    assert provider("after") == "local"
