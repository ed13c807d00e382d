"""Separate duties: who administers keys has no VM cryptography, and the other way round, on any object."""

from __future__ import annotations

from typing import Final

from ioflt.access.principals import Caller
from ioflt.access.privileges import KEY_ADMINISTRATION, VM_CRYPTOGRAPHY, Privilege
from ioflt.access.roles import KEY_ADMINISTRATOR, custom
from ioflt.access.state import AccessState, Permission

_AUTHORIZATION = {Privilege.MODIFY_PERMISSIONS, Privilege.MODIFY_ROLES}

#: The halves that the role Administrator falls into. Each can be handed on by those who have it.
KEY_DUTIES: Final = custom("key-duties", KEY_ADMINISTRATOR.privileges | _AUTHORIZATION)
VM_DUTIES: Final = custom("vm-duties", frozenset(Privilege) - KEY_ADMINISTRATION)


def both_duties(state: AccessState, caller: Caller) -> str | None:
    """Why someone has both, while they are to be apart; which permission a closer one hides is not asked."""
    if not state.separate_duties:
        return None
    his = [each for each in state.permissions if each.principal in caller.all]
    keys = next((each for each in his if state.role(each.role).privileges & KEY_ADMINISTRATION), None)
    vms = next((each for each in his if state.role(each.role).privileges & VM_CRYPTOGRAPHY), None)
    if keys is None or vms is None:
        return None
    told = f"key administration by {_told(keys)} and VM cryptography by {_told(vms)}"
    return f"{caller.principal} has {told}"


def _told(permission: Permission) -> str:
    return f"{permission.role} of {permission.principal} on {permission.target}"
