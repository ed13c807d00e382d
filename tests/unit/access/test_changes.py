"""Changes of who may do what, and who may make them."""

from __future__ import annotations

import hashlib
import uuid

import pytest

from ioflt.access import changes, delegation, objects, principals, privileges, roles
from ioflt.access.duties import KEY_DUTIES, VM_DUTIES
from ioflt.access.objects import EVERYTHING, Place
from ioflt.access.principals import Caller
from ioflt.access.privileges import Privilege
from ioflt.access.state import AccessState, Permission, first
from ioflt.errors import DeniedError, ExistsError, NotFoundError, UsageError

ROOT, ALICE, BOB = (principals.user(name) for name in ("root", "alice", "bob"))
OPS = principals.group("ops")
DS = objects.datastore(str(uuid.UUID(int=1)), "/srv/ds")
WEB = objects.vm(str(uuid.UUID(int=2)), "web01")
START = first(ROOT)


def test_an_unknown_privilege_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"Cryptographer.Acess; did you mean Cryptographer\.Access\?"):
        privileges.parse("Cryptographer.Acess")
    with pytest.raises(UsageError, match=r"no such privilege: xyzzy$"):
        privileges.parse("xyzzy")
    assert privileges.parse("cryptographer.directaccess") is Privilege.ACCESS
    assert all(privileges.parse(each.value) is each for each in Privilege)
    assert set(privileges.MEANING) == set(Privilege)


@pytest.mark.parametrize(
    "text", ["", "-x", " a", "a ", "a:b", "group:", "gang:x", "a/b", "a\nb", "a" * 129, "\udc80"]
)
def test_no_principals(text: str) -> None:
    with pytest.raises(UsageError):
        principals.parse(text)


def test_principals() -> None:
    assert principals.parse("alice") == principals.parse("user:alice") == ALICE
    assert str(principals.parse("group:ops")) == "group:ops"
    assert principals.parse("DOM\\a b").name == "DOM\\a b"


@pytest.mark.parametrize("text", ["No cryptography administrator", "no-crypto-admin", "NoCryptoAdmin"])
def test_roles_are_found_as_people_type_them(text: str) -> None:
    assert START.role_named(text) is roles.NO_CRYPTOGRAPHY


def test_the_last_administrator_stays() -> None:
    for state in (START, changes.grant(START, Permission(OPS, "administrator", EVERYTHING))):
        with pytest.raises(DeniedError, match="last user with administrator"):
            changes.revoke(state, ROOT, EVERYTHING)
        with pytest.raises(DeniedError, match="last user with administrator"):
            changes.grant(state, Permission(ROOT, "read-only", EVERYTHING))
    two = changes.grant(START, Permission(ALICE, "administrator", EVERYTHING))
    assert changes.revoke(two, ROOT, EVERYTHING) == first(ALICE)


def test_a_grant_replaces_what_was_on_that_object() -> None:
    state = changes.grant(START, Permission(ALICE, "read-only", DS))
    state = changes.grant(state, Permission(ALICE, "backup-operator", objects.datastore(DS.id, "/moved")))
    assert [each.role for each in state.on(DS)] == ["backup-operator"]


def test_what_is_not_there() -> None:
    for attempt in (
        lambda: changes.revoke(START, ALICE, EVERYTHING),
        lambda: changes.grant(START, Permission(ALICE, "nobody", EVERYTHING)),
        lambda: changes.grant(START, Permission(ALICE, "read-only", objects.folder("none"))),
        lambda: changes.grant(START, Permission(principals.service("none"), "read-only", EVERYTHING)),
        lambda: changes.remove_role(START, "nobody"),
        lambda: changes.remove_folder(START, "none"),
        lambda: changes.add_member(START, "none", DS),
        lambda: changes.remove_service(START, "none"),
    ):
        with pytest.raises(NotFoundError):
            attempt()


def test_roles_are_made_and_removed() -> None:
    state = changes.create_role(START, "Night Shift", {Privilege.ACCESS})
    assert state.role("night-shift").privileges == {Privilege.ACCESS, Privilege.READ}
    with pytest.raises(ExistsError):
        changes.create_role(state, "night_shift", ())
    for taken in ("Administrator", "nocryptoadmin"):
        with pytest.raises(ExistsError):
            changes.create_role(state, taken, ())
    used = changes.grant(state, Permission(ALICE, "night-shift", DS))
    with pytest.raises(UsageError, match="in use: user:alice on /srv/ds"):
        changes.remove_role(used, "night-shift")
    with pytest.raises(UsageError, match="built-in"):
        changes.remove_role(state, "Administrator")
    assert changes.remove_role(state, "NIGHT SHIFT") == START


def test_folders() -> None:
    state = changes.add_member(changes.create_folder(START, "a"), "a", WEB)
    assert state.folder_of(objects.vm(WEB.id, "renamed")) == state.folder("a")
    state = changes.create_folder(state, "b")
    with pytest.raises(ExistsError, match="is in the folder a"):
        changes.add_member(state, "b", WEB)
    with pytest.raises(UsageError, match="lists datastores and VMs"):
        changes.add_member(state, "b", EVERYTHING)
    state = changes.add_member(changes.remove_member(state, "a", WEB), "b", WEB)
    state = changes.grant(state, Permission(ALICE, "read-only", objects.folder("b")))
    assert changes.remove_folder(changes.remove_folder(state, "b"), "a") == START


def test_services() -> None:
    der = b"a certificate"
    state = changes.create_service(START, "backup", hashlib.sha256(der).hexdigest())
    assert state.principal_of_certificate(der) == principals.service("backup")
    assert state.principal_of_certificate(der + b".") is None
    with pytest.raises(ExistsError, match="the service backup has that certificate"):
        changes.create_service(state, "other", hashlib.sha256(der).hexdigest())
    state = changes.grant(state, Permission(principals.service("backup"), "backup-operator", DS))
    assert changes.remove_service(state, "backup") == START


def test_separate_duties() -> None:
    state = changes.grant(START, Permission(OPS, "read-only", DS))
    state = changes.separate(state, ALICE, BOB)
    assert {(each.principal, each.role) for each in state.permissions} == {
        (ALICE, "key-duties"),
        (BOB, "vm-duties"),
        (OPS, "read-only"),
    }
    for who, role in ((ALICE, KEY_DUTIES), (BOB, VM_DUTIES)):
        with pytest.raises(DeniedError, match=f"last user with {role.id}"):
            changes.revoke(state, who, EVERYTHING)
    both = changes.grant(state, Permission(ALICE, "backup-operator", DS))
    with pytest.raises(DeniedError, match="key administration by key-duties of user:alice on everything"):
        changes.check_duties(both, [Caller(ALICE)])
    by_group = changes.grant(state, Permission(OPS, "key-administrator", EVERYTHING))
    changes.check_duties(by_group, [Caller(BOB), Caller(OPS)])
    with pytest.raises(DeniedError, match="VM cryptography by vm-duties of user:bob"):
        changes.check_duties(by_group, [Caller(BOB, frozenset({OPS}))])
    for one, other in ((ALICE, ALICE), (ALICE, OPS)):
        with pytest.raises(UsageError):
            changes.separate(START, one, other)


def test_nobody_gives_more_than_he_has() -> None:
    state: AccessState = changes.create_folder(START, "tenant")
    state = changes.add_member(state, "tenant", WEB)
    manager = Privilege.MODIFY_PERMISSIONS
    backup = roles.BACKUP_OPERATOR.privileges
    state = changes.create_role(state, "delegate", {manager, *backup})
    state = changes.grant(state, Permission(ALICE, "delegate", objects.folder("tenant")))
    alice, folder, vm = (
        Caller(ALICE),
        Place(None, None, "folder:tenant", "tenant"),
        Place(WEB.id, DS.id, "web01"),
    )
    for place in (folder, vm):
        delegation.may_give(state, alice, "backup-operator", place)
        with pytest.raises(DeniedError, match=rf"Authorization\.ModifyRoles on {place.shown}"):
            delegation.may_give(state, alice, "administrator", place)
    with pytest.raises(DeniedError, match=r"Authorization\.ModifyPermissions on /srv/ds"):
        delegation.may_give(state, alice, "read-only", Place(None, DS.id, "/srv/ds"))
    with pytest.raises(DeniedError, match=r"Authorization\.ModifyRoles on everything"):
        delegation.may_shape(state, alice)
    with pytest.raises(DeniedError, match=r"Authorization\.ModifyPermissions on everything"):
        delegation.may_move(state, alice, "tenant", [WEB])
    delegation.may_shape(state, Caller(ROOT))


def test_nobody_gives_himself_a_role_by_a_folder() -> None:
    """Who may do no cryptography has a role of more on a folder: he does not put a VM of others into it."""
    no_crypto = Permission(ALICE, "no-crypto-admin", EVERYTHING)
    state = changes.grant(
        changes.grant(first(ROOT), no_crypto), Permission(ROOT, "administrator", EVERYTHING)
    )
    state = changes.create_folder(state, "tenant")
    state = changes.grant(state, Permission(ALICE, "backup-operator", objects.folder("tenant")))
    with pytest.raises(DeniedError, match=r"Cryptographer\.Access on web01"):
        delegation.may_move(state, Caller(ALICE), "tenant", [WEB])
