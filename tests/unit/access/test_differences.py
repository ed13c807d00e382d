"""What an auditor hears of a change."""

from __future__ import annotations

import uuid

from hypothesis import given

from ioflt.access import changes, objects, principals
from ioflt.access.differences import differences
from ioflt.access.privileges import Privilege
from ioflt.access.state import AccessState, Permission, first
from tests.unit.access.states import states

START = first(principals.user("root"))
WEB = objects.vm(str(uuid.UUID(int=2)), "/srv/ds/web01")


@given(states(), states())
def test_states_differ_when_something_is_told_of(old: AccessState, new: AccessState) -> None:
    assert (old == new) == (not list(differences(old, new)))
    back = {path: (after, before) for path, before, after in differences(new, old)}
    assert {path: (before, after) for path, before, after in differences(old, new)} == back


def test_before_and_after() -> None:
    state = changes.create_role(START, "night", {Privilege.ACCESS})
    assert list(differences(START, state)) == [
        ('access.role("night").privileges', None, ["Cryptographer.Access", "System.Read"])
    ]
    folder = changes.add_member(changes.create_folder(state, "t"), "t", WEB)
    assert list(differences(state, folder)) == [('access.folder("t").lists', None, [f"vm:{WEB.id}"])]
    granted = changes.grant(folder, Permission(principals.group("ops"), "night", WEB))
    path = f'access.permission("group:ops","vm:{WEB.id}").role'
    assert list(differences(granted, folder)) == [(path, "night", None)]
    assert ("access.separateDuties", False, True) in differences(
        START, changes.separate(START, principals.user("kim"), principals.user("vera"))
    )
