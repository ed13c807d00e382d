"""Decisions: the closest object wins, one's own permission before those of groups, groups add up."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.access import changes, objects, principals, roles
from ioflt.access.decide import decide, require
from ioflt.access.objects import ANYWHERE, EVERYTHING, Place, Target
from ioflt.access.principals import Caller
from ioflt.access.privileges import Privilege
from ioflt.access.state import AccessState, Permission, first
from ioflt.errors import DeniedError
from tests.unit.access.states import states

DS = str(uuid.UUID(int=1))
WEB = str(uuid.UUID(int=2))
PLACE = Place(WEB, DS, "web01")
ALICE = Caller(principals.user("alice"), frozenset({principals.group("ops"), principals.group("dba")}))

#: Outermost first.
LEVELS = (
    EVERYTHING,
    objects.folder("of-datastores"),
    objects.datastore(DS, "/srv/ds"),
    objects.folder("of-vms"),
    objects.vm(WEB, "web01"),
)


def with_folders() -> AccessState:
    state = first(principals.user("root"))
    for name, member in (("of-datastores", LEVELS[2]), ("of-vms", LEVELS[4])):
        state = changes.add_member(changes.create_folder(state, name), name, member)
    return state


def privileges(state: AccessState, caller: Caller, place: Place) -> frozenset[Privilege]:
    """All that the caller has there."""
    return frozenset(each for each in Privilege if decide(state, caller, each, place).allowed)


def given_(state: AccessState, who: str, role: roles.Role, target: Target) -> AccessState:
    return changes.grant(state, Permission(principals.parse(who), role.id, target))


GRANTS = st.dictionaries(
    st.tuples(st.integers(0, 4), st.sampled_from(("alice", "group:ops", "group:dba", "bob"))),
    st.sampled_from(roles.BUILT_IN),
)


@given(GRANTS)
def test_the_closest_object_decides(grants: dict[tuple[int, str], roles.Role]) -> None:
    state = with_folders()
    for (level, who), role in grants.items():
        state = given_(state, who, role, LEVELS[level])
    expected: frozenset[Privilege] = frozenset()
    for level in range(4, -1, -1):
        own = grants.get((level, "alice"))
        of_groups = [grants[level, who] for who in ("group:ops", "group:dba") if (level, who) in grants]
        if own is not None or of_groups:
            held = [own] if own is not None else of_groups
            expected = frozenset[Privilege]().union(*(role.privileges for role in held))
            break
    assert privileges(state, ALICE, PLACE) == expected


@given(states(), st.sampled_from(list(Privilege)))
def test_nobody_has_what_no_permission_of_his_gives(state: AccessState, privilege: Privilege) -> None:
    held = [each for each in state.permissions if each.principal in ALICE.all]
    allowed = decide(state, ALICE, privilege, PLACE).allowed
    assert not allowed or any(privilege in state.role(each.role).privileges for each in held)


def test_a_denial_names_privilege_and_object() -> None:
    state = given_(first(principals.user("root")), "alice", roles.NO_CRYPTOGRAPHY, EVERYTHING)
    with pytest.raises(DeniedError) as caught:
        require(state, ALICE, Privilege.DECRYPT, PLACE)
    assert str(caught.value) == "permission denied: Cryptographer.Decrypt on web01"


def test_why() -> None:
    state = given_(first(principals.user("root")), "group:ops", roles.READ_ONLY, LEVELS[2])
    denied = decide(state, ALICE, Privilege.ACCESS, PLACE)
    assert not denied.allowed
    assert denied.why == "group:ops has read-only on /srv/ds, without Cryptographer.Access"
    assert decide(state, ALICE, Privilege.READ, PLACE).why == "group:ops has read-only on /srv/ds"
    assert decide(state, ALICE, Privilege.READ, ANYWHERE).why == (
        "user:alice has no permission on everything or on what it is in"
    )


def test_a_user_of_the_name_of_a_group_is_not_that_group() -> None:
    state = given_(first(principals.user("root")), "user:ops", roles.ADMINISTRATOR, EVERYTHING)
    assert not decide(state, ALICE, Privilege.READ, PLACE).allowed


def test_who_has_both_duties_by_his_groups_has_neither() -> None:
    state = changes.separate(first(principals.user("root")), principals.user("kim"), principals.user("vera"))
    state = given_(state, "group:ops", roles.KEY_ADMINISTRATOR, EVERYTHING)
    state = given_(state, "group:dba", roles.BACKUP_OPERATOR, LEVELS[2])
    assert privileges(state, ALICE, PLACE) == {
        Privilege.READ,
        Privilege.VIEW_POLICY,
        Privilege.CHANGE_TRACKING,
        Privilege.BACKUP,
    }
    assert "duties are separate" in decide(state, ALICE, Privilege.ACCESS, PLACE).why
    only_ops = Caller(ALICE.principal, frozenset({principals.group("ops")}))
    assert decide(state, only_ops, Privilege.MANAGE_KEYS, ANYWHERE).allowed
