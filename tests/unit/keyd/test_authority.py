"""access.json as keyd keeps it: made at the first start, replaced by changes, and broken."""

from __future__ import annotations

import os
import uuid

import pytest

from ioflt.access import changes, objects, principals, text
from ioflt.access.objects import ANYWHERE, EVERYTHING
from ioflt.access.principals import Caller
from ioflt.access.privileges import Privilege
from ioflt.access.state import Permission, first
from ioflt.audit.chain import Line
from ioflt.audit.event import from_json
from ioflt.errors import DeniedError, ExistsError, MalformedError, NotFoundError
from ioflt.keyd import accounts, administration
from ioflt.keyd.authority import Authority
from ioflt.keyd.denials import Denials
from ioflt.keyd.recorder import Recorder
from ioflt.paths import Paths
from ioflt.transport.unix import Peer
from ioflt.wire import failure
from ioflt.wire.keyd import access as wire
from ioflt.wire.keyd import replies, requests

OWNER, ALICE, BOB = (
    Caller(principals.user("owner")),
    Caller(principals.user("alice")),
    Caller(principals.user("bob")),
)
ON_EVERYTHING = wire.Object("everything", "", "everything")
DS = wire.Object("datastore", str(uuid.UUID(int=1)), "/srv/ds")
WEB = wire.Object("vm", str(uuid.UUID(int=2)), "web01", DS.id)


#: The one that `ask` gives to what it asks.
recorders: list[Recorder] = []


@pytest.fixture(autouse=True)
def recorder(tmp_path):
    made = Recorder(Paths(tmp_path / "keyd" / "state", tmp_path / "keyd" / "run", False).ensure())
    recorders.append(made)
    yield made
    recorders.remove(made)
    made.close()


def logged(tmp_path):
    """The events of the changes: operation, outcome, and each value's path, before, after."""
    lines = (tmp_path / "keyd" / "state" / "events" / "0001.jsonl").read_bytes().splitlines()
    found = [from_json(Line.from_bytes(line).event) for line in lines]
    return [
        (each.operation, each.outcome, [(one.path, one.before, one.after) for one in each.changes])
        for each in found
    ]


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "access.json", OWNER.principal)


def ask(authority, caller, request):
    """The reply. Raises what it is a failure of."""
    reply = administration.answer(authority, recorders[-1], Denials(recorders[-1]), caller, request)
    if isinstance(reply, failure.Failure):
        raise failure.rebuild(reply)
    return reply


def change(authority, caller, *wanted):
    for each in wanted:
        assert ask(authority, caller, requests.ChangeAccess(each)) == replies.Done()


def test_the_first_start_makes_the_owner_administrator(authority, tmp_path):
    path = tmp_path / "access.json"
    assert authority.state == text.parse(path.read_bytes()) == first(OWNER.principal)
    assert path.stat().st_mode & 0o777 == 0o600
    assert authority.decide(OWNER, Privilege.MANAGE_KEYS, ANYWHERE).allowed
    assert not authority.decide(ALICE, Privilege.READ, ANYWHERE).allowed
    assert Authority(path, ALICE.principal).state == first(OWNER.principal)


def test_a_change_is_logged_and_so_is_one_that_he_may_not_make(authority, tmp_path):
    change(authority, OWNER, wire.Grant("alice", "Backup operator", ON_EVERYTHING))
    with pytest.raises(DeniedError):
        change(authority, ALICE, wire.Grant("user:bob", "Backup operator", ON_EVERYTHING))
    with pytest.raises(NotFoundError):
        change(authority, OWNER, wire.Revoke("bob", ON_EVERYTHING))
    change(authority, OWNER, wire.Grant("alice", "read-only", ON_EVERYTHING))
    granted, denied, refused, replaced = logged(tmp_path)
    role = 'access.permission("user:alice","everything").role'
    assert granted == ("permission grant", "done", [(role, None, "backup-operator")])
    assert denied[:2] == ("permission grant", "denied")
    assert denied[2][0][2]["who"] == "user:bob"
    assert refused[:2] == ("permission revoke", "refused")
    assert replaced == ("permission grant", "done", [(role, "backup-operator", "read-only")])


def test_a_change_is_kept(authority, tmp_path):
    change(authority, OWNER, wire.Grant("alice", "Backup operator", ON_EVERYTHING))
    assert (
        Authority(tmp_path / "access.json", OWNER.principal).decide(ALICE, Privilege.ACCESS, ANYWHERE).allowed
    )


def test_a_change_that_cannot_be_written_is_none(authority, tmp_path, monkeypatch):
    (tmp_path / "access.json").rename(tmp_path / "moved")
    monkeypatch.setattr(authority, "_path", tmp_path / "gone" / "access.json")
    before = authority.state
    with pytest.raises(Exception, match="cannot write"):
        change(authority, OWNER, wire.Grant("alice", "administrator", ON_EVERYTHING))
    assert authority.state == before
    done, failed = logged(tmp_path)
    assert (done[0], done[1]) == ("permission grant", "done")
    assert failed == ("permission grant", "failed", done[2])


@pytest.mark.allow_log("nobody may do anything but its owner")
@pytest.mark.parametrize("broken", [b"", b"{}", b"\0", b'{"format": 1}'])
def test_a_broken_file_lets_only_root_and_the_owner_in(tmp_path, broken):
    path = tmp_path / "access.json"
    path.write_bytes(broken)
    authority = Authority(path, OWNER.principal)
    root = Caller(principals.user("root"), trusted=True)
    for caller in (OWNER, root):
        assert authority.decide(caller, Privilege.ACCESS, ANYWHERE).allowed
        with pytest.raises(MalformedError, match=str(path)):
            change(authority, caller, wire.Grant("alice", "administrator", ON_EVERYTHING))
    with pytest.raises(MalformedError, match=str(path)):
        authority.decide(ALICE, Privilege.READ, ANYWHERE)
    assert path.read_bytes() == broken


def test_a_delegated_administrator(authority):
    change(
        authority,
        OWNER,
        wire.CreateRole("delegate", ("Authorization.ModifyPermissions",), "backup-operator"),
        wire.CreateFolder("tenant", None),
        wire.AddMember("tenant", WEB),
        wire.Grant("alice", "delegate", wire.Object("folder", "tenant", "folder:tenant")),
    )
    change(authority, ALICE, wire.Grant("bob", "backup-operator", WEB), wire.Revoke("bob", WEB))
    for wanted, denied in (
        (wire.Grant("bob", "administrator", WEB), "Authorization.ModifyRoles on web01"),
        (wire.Grant("bob", "read-only", DS), "Authorization.ModifyPermissions on /srv/ds"),
        (wire.Revoke("owner", ON_EVERYTHING), "Authorization.ModifyPermissions on everything"),
        (wire.AddMember("tenant", DS), "Authorization.ModifyPermissions on everything"),
        (wire.RemoveFolder("tenant"), "Authorization.ModifyRoles on everything"),
        (wire.CreateRole("x", (), None), "Authorization.ModifyRoles on everything"),
        (wire.SeparateDuties("alice", "bob"), "Authorization.ModifyRoles on everything"),
    ):
        with pytest.raises(DeniedError, match=f"^permission denied: {denied}$"):
            change(authority, ALICE, wanted)
    change(authority, OWNER, wire.Grant("bob", "administrator", WEB))
    with pytest.raises(DeniedError, match=r"ModifyRoles on web01"):  # it would take from bob what she lacks
        change(authority, ALICE, wire.Grant("bob", "read-only", WEB))


def test_nobody_is_believed_where_a_vm_lies(authority):
    change(
        authority,
        OWNER,
        wire.CreateRole("delegate", ("Authorization.ModifyPermissions",), None),
        wire.Grant("alice", "delegate", DS),
    )
    with pytest.raises(DeniedError, match=r"ModifyPermissions on web01"):
        change(authority, ALICE, wire.Grant("alice", "delegate", WEB))
    told = ask(authority, ALICE, requests.ExplainAccess("alice", "Authorization.ModifyPermissions", WEB))
    assert (told.allowed, told.why) == (
        False,
        "user:alice has no permission on web01 or on what it is in; where a VM lies does not count for giving"
        " permissions",
    )
    assert ask(authority, ALICE, requests.ExplainAccess("alice", "System.Read", WEB)).allowed


def test_one_sees_what_one_may_read(authority):
    change(
        authority,
        OWNER,
        wire.CreateFolder("tenant", None),
        wire.CreateFolder("other", None),
        wire.AddMember("tenant", WEB),
        wire.Grant("alice", "read-only", wire.Object("folder", "tenant", "folder:tenant")),
        wire.Grant("bob", "read-only", WEB),
        wire.Grant("bob", "read-only", DS),
    )
    seen = text.parse(ask(authority, ALICE, requests.GetAccess()).text)
    assert [folder.name for folder in seen.folders] == ["tenant"]
    assert {(each.principal.name, each.target.shown) for each in seen.permissions} == {
        ("alice", "folder:tenant"),
        ("bob", "web01"),
    }
    assert text.parse(ask(authority, OWNER, requests.GetAccess()).text) == authority.state


def test_explained(authority):
    change(authority, OWNER, wire.Grant("bob", "read-only", DS))
    asked = requests.ExplainAccess("bob", "Cryptographer.DirectAccess", WEB)
    told = replies.Explained(False, "user:bob has read-only on /srv/ds, without Cryptographer.Access")
    assert ask(authority, BOB, asked) == ask(authority, OWNER, asked) == told
    with pytest.raises(DeniedError, match=r"System\.Read on web01"):
        ask(authority, ALICE, asked)
    root = accounts.user(0).name
    assert ask(authority, OWNER, requests.ExplainAccess(root, "System.Read", DS)).why == (
        "root of this machine may do everything"
    )


def test_duties_stay_separate_whoever_is_in_which_group(authority):
    """Groups of this host: root is in root's."""
    group = accounts.group(0)
    root = Caller(accounts.user(0))
    change(authority, OWNER, wire.SeparateDuties("kim", root.principal.name))
    change(authority, root, wire.Grant(str(group), "backup-operator", DS))
    kim = Caller(principals.user("kim"))
    with pytest.raises(DeniedError, match="duties are separate, and group:root has key administration"):
        change(authority, kim, wire.Grant(str(group), "key-administrator", ON_EVERYTHING))
    with pytest.raises(DeniedError, match=r"Cryptographer\.Access on everything"):
        change(authority, kim, wire.Grant("kim", "backup-operator", ON_EVERYTHING))
    with pytest.raises(ExistsError):
        change(authority, kim, wire.CreateRole("key-duties", (), None))


def test_who_is_at_the_other_end():
    me = accounts.caller(Peer(1, os.getuid(), os.getgid(), frozenset({os.getgid(), 987654})))
    assert me.principal == accounts.user(os.getuid())
    assert {accounts.group(os.getgid()), principals.group("987654")} == me.groups
    assert accounts.user(987654) == principals.user("987654")
    assert me.trusted is (os.getuid() == 0)
    assert not accounts.caller_named(me.principal).trusted
    assert accounts.group(os.getgid()) in accounts.caller_named(me.principal).groups
    assert accounts.caller_named(principals.user("nobody-of-that-name")).groups == frozenset()


def test_a_grant_of_the_same_changes_nothing(authority, tmp_path):
    before = (tmp_path / "access.json").stat().st_ino
    authority.change(
        lambda state: changes.grant(state, Permission(OWNER.principal, "administrator", EVERYTHING))
    )
    assert (tmp_path / "access.json").stat().st_ino == before
    assert objects.EVERYTHING == EVERYTHING
