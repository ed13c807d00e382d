"""Decisions: whether someone has a privilege at a place, and why (not)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ioflt.access import objects
from ioflt.access.duties import both_duties
from ioflt.access.objects import Place, Target
from ioflt.access.principals import Caller
from ioflt.access.privileges import KEY_ADMINISTRATION, VM_CRYPTOGRAPHY, Privilege
from ioflt.access.state import AccessState, Permission
from ioflt.errors import DeniedError


@dataclass(frozen=True, slots=True)
class Decision:
    """`why`: the permissions that decided, in words."""

    allowed: bool
    why: str


def decide(state: AccessState, caller: Caller, privilege: Privilege, place: Place) -> Decision:
    """The closest object on which the caller has any permission decides."""
    if caller.trusted:
        return Decision(True, "root of this machine may do everything")
    reason = both_duties(state, caller)
    if reason is not None and privilege in KEY_ADMINISTRATION | VM_CRYPTOGRAPHY:
        return Decision(False, f"duties are separate, and {reason}")
    found = closest(state, caller, place)
    if not found:
        return Decision(False, f"{caller.principal} has no permission on {place.shown} or on what it is in")
    giving = [each for each in found if privilege in state.role(each.role).privileges]
    if giving:
        return Decision(True, _told(giving))
    return Decision(False, f"{_told(found)}, without {privilege}")


def require(state: AccessState, caller: Caller, privilege: Privilege, place: Place) -> None:
    """Raises DeniedError, which names privilege and object."""
    if not decide(state, caller, privilege, place).allowed:
        raise denial(privilege, place)


def denial(privilege: Privilege, place: Place) -> DeniedError:
    """The one text of all denials."""
    return DeniedError(f"permission denied: {privilege} on {place.shown}")


def closest(state: AccessState, caller: Caller, place: Place) -> tuple[Permission, ...]:
    """The permissions that decide there: the caller's own, or those of all his groups together."""
    for target in _outwards(state, place):
        on = [each for each in state.on(target) if each.principal in caller.all]
        own = [each for each in on if each.principal == caller.principal]
        if own or on:
            return tuple(own or on)
    return ()


def _outwards(state: AccessState, place: Place) -> Iterator[Target]:
    """VM, the folder that lists it, datastore, the folder that lists that, everything."""
    if place.vm is not None:
        yield from _with_folder(state, objects.vm(place.vm, place.shown))
    if place.datastore is not None:
        yield from _with_folder(state, objects.datastore(place.datastore, place.shown))
    if place.folder is not None:
        yield objects.folder(place.folder)
    yield objects.EVERYTHING


def _with_folder(state: AccessState, target: Target) -> Iterator[Target]:
    yield target
    folder = state.folder_of(target)
    if folder is not None:
        yield objects.folder(folder.name)


def _told(permissions: Iterable[Permission]) -> str:
    return " and ".join(f"{each.principal} has {each.role} on {each.target}" for each in permissions)
