"""Requests about who may do what, over the `Authority`: whoever asks gives and sees no more than he may."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, assert_never

import msgspec
from msgspec import UNSET

from ioflt.access import changes, decide, delegation, objects, principals, privileges, text
from ioflt.access.differences import differences
from ioflt.access.objects import EVERYTHING, Place, Target
from ioflt.access.operations import OPERATIONS
from ioflt.access.principals import Caller, Principal
from ioflt.access.privileges import Privilege
from ioflt.access.state import AccessState, Permission
from ioflt.access.view import place_of, visible
from ioflt.audit.event import MAX_NAME, Change, Event, Outcome, Thing, Value, added, deleted, modified
from ioflt.errors import DeniedError, IofltError, StorageError
from ioflt.keyd import accounts
from ioflt.keyd.authority import Authority
from ioflt.keyd.denials import Denials
from ioflt.keyd.recorder import Recorder, event
from ioflt.wire import failure
from ioflt.wire.keyd import access as wire
from ioflt.wire.keyd import replies, requests

#: What is asked by which command, but for roles that are made.
_COMMANDS: Final[Mapping[type, str]] = {
    wire.Grant: "permission grant",
    wire.Revoke: "permission revoke",
    wire.RemoveRole: "role remove",
    wire.CreateFolder: "folder create",
    wire.SetFolder: "folder set",
    wire.RemoveFolder: "folder delete",
    wire.AddMember: "folder add",
    wire.RemoveMember: "folder remove",
    wire.CreateService: "service create",
    wire.RemoveService: "service remove",
    wire.SeparateDuties: "setup",
}


def answer(
    authority: Authority,
    recorder: Recorder,
    denials: Denials,
    caller: Caller,
    request: requests.AccessRequest,
) -> replies.ReplyBody:
    """The reply to a request; a Failure for every error. A change is in the event log before it is made."""
    try:
        match request:
            case requests.GetAccess():
                return replies.Access(text.write(visible(authority.state, caller)))
            case requests.ChangeAccess(change):
                _change(authority, recorder, denials, caller, change)
                return replies.Done()
            case requests.ExplainAccess(who, privilege, on):
                return _explained(authority, caller, who, privilege, on)
    except IofltError as error:
        return failure.of(error)
    assert_never(request)


def _change(
    authority: Authority, recorder: Recorder, denials: Denials, caller: Caller, change: wire.Change
) -> None:
    operation, about = _operation(change), _about(change)
    needs = ", ".join(need.privilege for need in OPERATIONS[operation].needs)
    change_asked = added("access.change", msgspec.to_builtins(change))
    asked = event(operation, about, changes=[change_asked], privilege=needs)
    done: list[Event] = []

    def changed(state: AccessState) -> AccessState:
        after = _changed(state, caller, change)
        authority.check_duties(after)
        if isinstance(change, wire.CreateFolder):
            recorder.begin_folder(change.name)
        made = [_told(*each) for each in differences(state, after)]
        told = event(operation, about, changes=made, privilege=needs)
        recorder.record(told)
        done.append(told)
        return after

    try:
        authority.change(changed)
    except IofltError as error:
        if done:
            recorder.failed(done[0], error)
        elif not isinstance(error, StorageError):
            outcome: Outcome = "denied" if isinstance(error, DeniedError) else "refused"
            denials.tell(msgspec.structs.replace(asked, outcome=outcome, reason=str(error)))
        raise


def _operation(change: wire.Change) -> str:
    """The command that asks for it."""
    if isinstance(change, wire.CreateRole):
        return "role create" if change.like is None else "role clone"
    return _COMMANDS[type(change)]


def _about(change: wire.Change) -> Thing | None:
    """The object that it is about, if there is one."""
    match change:
        case wire.Grant(_, _, on) | wire.Revoke(_, on) | wire.AddMember(_, on) | wire.RemoveMember(_, on):
            return Thing(on.kind, on.id, on.shown[:MAX_NAME])
        case wire.CreateRole(name=name) | wire.RemoveRole(name):
            return Thing("role", name, name)
        case wire.CreateService(name=name) | wire.RemoveService(name):
            return Thing("service", name, name)
        case wire.CreateFolder(name=name) | wire.SetFolder(name=name) | wire.RemoveFolder(name):
            return Thing("folder", name, f"folder:{name}")
    return None


def _told(path: str, before: Value, after: Value) -> Change:
    if before is None:
        return added(path, after)
    return deleted(path, before) if after is None else modified(path, before, after)


def _changed(state: AccessState, caller: Caller, change: wire.Change) -> AccessState:
    """The state that is asked for. Raises DeniedError, and for a change that makes no sense."""
    match change:
        case wire.Grant(who, role, on):
            permission = Permission(principals.parse(who), state.role_named(role).id, _target(on))
            return _granted(state, caller, permission)
        case wire.Revoke(who, on):
            return _revoked(state, caller, principals.parse(who), _target(on))
        case wire.AddMember(folder, member):
            delegation.may_move(state, caller, folder, [_target(member)])
            return changes.add_member(state, folder, _target(member))
        case wire.RemoveMember(folder, member):
            delegation.may_move(state, caller, folder, [_target(member)])
            return changes.remove_member(state, folder, _target(member))
        case wire.RemoveFolder(name):
            delegation.may_shape(state, caller)
            delegation.may_move(state, caller, name, state.folder(name).members)
            return changes.remove_folder(state, name)
        case wire.SeparateDuties(key_admin, vm_admin):
            decide.require(state, caller, Privilege.MODIFY_ROLES, objects.ANYWHERE)
            delegation.may_give(state, caller, "administrator", objects.ANYWHERE)
            return changes.separate(state, principals.parse(key_admin), principals.parse(vm_admin))
    delegation.may_shape(state, caller)
    match change:
        case wire.CreateRole(name, names, like):
            held = frozenset(map(privileges.parse, names))
            if like is not None:
                held |= state.role_named(like).privileges
            return changes.create_role(state, name, held)
        case wire.RemoveRole(name):
            return changes.remove_role(state, name)
        case wire.CreateFolder(name, provider, events):
            return changes.create_folder(state, name, provider, events=events)
        case wire.SetFolder(name, provider, events):
            made = state if provider is UNSET else changes.set_provider(state, name, provider)
            return made if events is UNSET else changes.set_events(made, name, events=events)
        case wire.CreateService(name, certificate):
            return changes.create_service(state, name, certificate)
        case wire.RemoveService(name):
            return changes.remove_service(state, name)
    assert_never(change)


def _granted(state: AccessState, caller: Caller, permission: Permission) -> AccessState:
    place = _verified(permission.target)
    delegation.may_give(state, caller, permission.role, place)
    for before in state.on(permission.target):
        if before.principal == permission.principal:  # is taken away
            delegation.may_give(state, caller, before.role, place)
    return changes.grant(state, permission)


def _revoked(state: AccessState, caller: Caller, principal: Principal, target: Target) -> AccessState:
    before = changes.held(state, principal, target)
    delegation.may_give(state, caller, before.role, _verified(target))
    return changes.revoke(state, principal, target)


def _explained(
    authority: Authority, caller: Caller, who: str, privilege: str, on: wire.Object
) -> replies.Explained:
    """Anyone hears of himself, and of others who sees the object. Raises NotFoundError for a folder that he
    does not see.
    """
    asked = accounts.caller_named(principals.parse(who))
    place = place_of(_target(on), on.datastore)
    if on.kind == "folder":
        visible(authority.state, caller).folder(on.id)
    if asked.principal != caller.principal:
        authority.require(caller, Privilege.READ, place)
    if asked.principal == accounts.user(0):
        asked = replace(asked, trusted=True)
    about = privileges.parse(privilege)
    decision = authority.decide(asked, about, place)
    if about is Privilege.MODIFY_PERMISSIONS:  # as a change is decided
        told = authority.decide(asked, about, _verified(_target(on)))
        if decision.allowed and not told.allowed:
            why = f"{told.why}; where a VM lies does not count for giving permissions"
            return replies.Explained(False, why)
        decision = told
    return replies.Explained(decision.allowed, decision.why)


def _verified(target: Target) -> Place:
    """Where the object is as far as the caller need not be believed: of a VM, not its datastore.

    A record of it does not do: who has a key himself, on a key server of his own, makes one of any VM's id.
    """
    return place_of(target)


def _target(on: wire.Object) -> Target:
    if on.kind == "everything":
        return EVERYTHING
    if on.kind == "folder":
        return objects.folder(on.id)
    return (objects.vm if on.kind == "vm" else objects.datastore)(on.id, on.shown)
