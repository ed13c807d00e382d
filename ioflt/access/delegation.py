"""Who may make a change: nobody gives or takes more than he has himself."""

from __future__ import annotations

from collections.abc import Iterable

from ioflt.access import objects
from ioflt.access.decide import decide, denial, require
from ioflt.access.objects import ANYWHERE, Place, Target
from ioflt.access.principals import Caller
from ioflt.access.privileges import Privilege
from ioflt.access.state import AccessState
from ioflt.access.view import place_of


def may_give(state: AccessState, caller: Caller, role: str, place: Place) -> None:
    """Whether the caller may grant that role there, or take it away. Raises DeniedError, NotFoundError."""
    require(state, caller, Privilege.MODIFY_PERMISSIONS, place)
    for privilege in sorted(state.role(role).privileges):
        if not decide(state, caller, privilege, place).allowed:
            raise denial(privilege, place)


def may_shape(state: AccessState, caller: Caller) -> None:
    """Whether the caller may make and remove roles, folders and services. Raises DeniedError."""
    require(state, caller, Privilege.MODIFY_ROLES, ANYWHERE)


def may_move(state: AccessState, caller: Caller, folder: str, members: Iterable[Target]) -> None:
    """Whether the caller may put these into that folder, or take them out: he gives or takes what is given on
    the folder. Raises DeniedError.
    """
    require(state, caller, Privilege.MODIFY_PERMISSIONS, ANYWHERE)
    inherited = state.on(objects.folder(folder))
    for member in members:
        for permission in inherited:
            may_give(state, caller, permission.role, place_of(member))
