"""Changes: each makes a new state of an old one, or raises and says why there is none.

None of them asks whether someone may make the change; `delegation` does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from ioflt.access import objects, roles
from ioflt.access.duties import KEY_DUTIES, VM_DUTIES, both_duties
from ioflt.access.objects import EVERYTHING, Target, TargetKind
from ioflt.access.principals import Caller, Kind, Principal
from ioflt.access.privileges import Privilege
from ioflt.access.state import AccessState, Folder, Permission, Service, in_order
from ioflt.errors import DeniedError, ExistsError, NotFoundError, UsageError

#: Folders with event logs of their own: keyd has a file open and a thread for each.
MAX_EVENT_LOGS: Final = 256


def grant(state: AccessState, permission: Permission) -> AccessState:
    """Give it, in place of what the principal had on that object.

    Raises NotFoundError for a role, folder or service that is not there; DeniedError, see `_administered`.
    """
    state.role(permission.role)
    if permission.target.kind is TargetKind.FOLDER:
        state.folder(permission.target.id)
    if permission.principal.kind is Kind.SERVICE:
        state.service(permission.principal.name)
    others = (each for each in state.permissions if not _same(each, permission.principal, permission.target))
    return _administered(replace(state, permissions=in_order([*others, permission])))


def revoke(state: AccessState, principal: Principal, target: Target) -> AccessState:
    """Take what it has on just that object. Raises NotFoundError; DeniedError, see `_administered`."""
    held(state, principal, target)
    left = tuple(each for each in state.permissions if not _same(each, principal, target))
    return _administered(replace(state, permissions=left))


def held(state: AccessState, principal: Principal, target: Target) -> Permission:
    """What a principal has on just that object. Raises NotFoundError."""
    for permission in state.on(target):
        if permission.principal == principal:
            return permission
    raise NotFoundError(f"{principal} has no permission on {target}")


def create_role(state: AccessState, name: str, privileges: Iterable[Privilege]) -> AccessState:
    """A role of that name, as someone typed it. Raises UsageError, ExistsError."""
    role = roles.custom(roles.spelled(name), privileges)
    taken = {each.id for each in state.all_roles()} | set(roles.OTHER_SPELLINGS)
    if role.id in taken:
        raise ExistsError(f"a role has that name: {role.id}")
    return replace(state, roles=tuple(sorted((*state.roles, role), key=lambda each: each.id)))


def remove_role(state: AccessState, name: str) -> AccessState:
    """Raises NotFoundError, UsageError for a built-in role and for one that somebody has."""
    role = state.role_named(name)
    if role in roles.BUILT_IN:
        raise UsageError(f"a built-in role stays: {role.id}")
    having = [f"{each.principal} on {each.target}" for each in state.permissions if each.role == role.id]
    if having:
        raise UsageError(f"the role {role.id} is in use: {', '.join(having[:5])}")
    return replace(state, roles=tuple(each for each in state.roles if each != role))


def create_folder(
    state: AccessState, name: str, provider: str | None = None, *, events: bool = False
) -> AccessState:
    """An empty folder. Raises UsageError, ExistsError."""
    made = Folder(name, provider=provider, events=events)
    if any(each.name == name for each in state.folders):
        raise ExistsError(f"a folder has that name: {name}")
    return _with_folder(state, made)


def set_provider(state: AccessState, name: str, provider: str | None) -> AccessState:
    """Another provider of new keys in it, or None of its own. Raises NotFoundError, UsageError."""
    return _with_folder(state, replace(state.folder(name), provider=provider))


def set_events(state: AccessState, name: str, *, events: bool) -> AccessState:
    """Whether it has an event log of its own. Raises NotFoundError, UsageError."""
    return _with_folder(state, replace(state.folder(name), events=events))


def remove_folder(state: AccessState, name: str) -> AccessState:
    """The folder and the permissions on it; what was in it stays where it is. Raises NotFoundError."""
    state.folder(name)
    gone = objects.folder(name)
    return replace(
        state,
        folders=tuple(each for each in state.folders if each.name != name),
        permissions=tuple(each for each in state.permissions if each.target != gone),
    )


def add_member(state: AccessState, name: str, member: Target) -> AccessState:
    """Raises NotFoundError, ExistsError when it is in a folder already, UsageError for what goes in none."""
    folder, now = state.folder(name), state.folder_of(member)
    if now is not None:
        raise ExistsError(f"{member} is in the folder {now.name}")
    return _with_folder(state, replace(folder, members=folder.members | {member}))


def remove_member(state: AccessState, name: str, member: Target) -> AccessState:
    """Raises NotFoundError."""
    folder = state.folder(name)
    if member not in folder.members:
        raise NotFoundError(f"{member} is not in the folder {name}")
    return _with_folder(state, replace(folder, members=folder.members - {member}))


def inherit(state: AccessState, old: str, new: str) -> AccessState:
    """The VM of the home id `old` has another one: what is given on it is given on that, too, and its folder
    lists that. An id that something is given on already stays as it is.
    """
    gone = objects.vm(old, old)
    if state.names(objects.vm(new, new)):
        return state
    given = [replace(each, target=replace(each.target, id=new)) for each in state.on(gone)]
    folder = state.folder_of(gone)
    if folder is not None:
        shown = next(each.shown for each in folder.members if each == gone)
        state = add_member(state, folder.name, objects.vm(new, shown))
    return replace(state, permissions=in_order([*state.permissions, *given]))


def create_service(state: AccessState, name: str, certificate: str | None = None) -> AccessState:
    """`certificate`: SHA-256 of the DER, in hex. Raises UsageError, ExistsError."""
    made = Service(name, certificate)
    if any(each.name == name for each in state.services):
        raise ExistsError(f"a service has that name: {name}")
    if certificate is not None:
        other = state.service_of(certificate)
        if other is not None:
            raise ExistsError(f"the service {other.name} has that certificate")
    services = (*state.services, made)
    return replace(state, services=tuple(sorted(services, key=lambda each: each.name)))


def remove_service(state: AccessState, name: str) -> AccessState:
    """The service and its permissions. Raises NotFoundError."""
    state.service(name)
    gone = Principal(Kind.SERVICE, name)
    return replace(
        state,
        services=tuple(each for each in state.services if each.name != name),
        permissions=tuple(each for each in state.permissions if each.principal != gone),
    )


def separate(state: AccessState, key_admin: Principal, vm_admin: Principal) -> AccessState:
    """Keep the duties apart from now on: Administrator goes, and its halves are given to two principals.

    Other permissions stay. Raises UsageError, ExistsError when a role of ours has other privileges.
    """
    if key_admin == vm_admin:
        raise UsageError(f"separate duties are for two: {key_admin} cannot have both")
    for who in (key_admin, vm_admin):
        if who.kind is not Kind.USER:
            raise UsageError(f"separate duties are given to users, who can be told apart: not to {who}")
    made = state
    for half in (KEY_DUTIES, VM_DUTIES):
        if half not in made.roles:
            made = create_role(made, half.id, half.privileges)
    kept = [each for each in made.permissions if each.role != roles.ADMINISTRATOR.id]
    kept = [
        each for each in kept if not (each.principal in (key_admin, vm_admin) and each.target == EVERYTHING)
    ]
    given = [Permission(key_admin, KEY_DUTIES.id, EVERYTHING), Permission(vm_admin, VM_DUTIES.id, EVERYTHING)]
    return _administered(replace(made, permissions=in_order([*kept, *given]), separate_duties=True))


def check_duties(state: AccessState, callers: Iterable[Caller]) -> None:
    """Raises DeniedError when one of them, with his groups, has both duties while they are to be apart."""
    for caller in callers:
        reason = both_duties(state, caller)
        if reason is not None:
            raise DeniedError(f"duties are separate, and {reason}")


def _administered(state: AccessState) -> AccessState:
    """The state, in which some user may give all permissions, or all of each duty. Raises DeniedError."""
    wanted = (KEY_DUTIES, VM_DUTIES) if state.separate_duties else (roles.ADMINISTRATOR,)
    having = [
        state.role(each.role).privileges for each in state.on(EVERYTHING) if each.principal.kind is Kind.USER
    ]
    for role in wanted:
        if not any(role.privileges <= privileges for privileges in having):
            raise DeniedError(f"the last user with {role.id} on everything stays")
    return state


def _with_folder(state: AccessState, folder: Folder) -> AccessState:
    others = [each for each in state.folders if each.name != folder.name]
    if folder.events and sum(each.events for each in others) >= MAX_EVENT_LOGS:
        raise UsageError(f"more than {MAX_EVENT_LOGS} folders cannot have event logs of their own")
    return replace(state, folders=tuple(sorted((*others, folder), key=lambda each: each.name)))


def _same(permission: Permission, principal: Principal, target: Target) -> bool:
    return permission.principal == principal and permission.target == target
