"""`access.json`: bytes ↔ AccessState. SPEC.md has the format and the reasons of MalformedError."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from ioflt.access import privileges, roles
from ioflt.access.objects import Target, TargetKind
from ioflt.access.principals import Kind
from ioflt.access.principals import parse as parse_principal
from ioflt.access.privileges import Privilege
from ioflt.access.roles import Role
from ioflt.access.state import AccessState, Folder, Permission, Service, in_order
from ioflt.errors import MalformedError, NotFoundError, UnsupportedError, UsageError
from ioflt.format.strict_json import parse_object

#: The format written.
FORMAT: Final = 1

#: Most bytes of the file, some ten thousand permissions: it fits into one message of keyd.
MAX_SIZE: Final = 4_000_000

_Item = TypeVar("_Item")


def write(state: AccessState) -> bytes:
    """The one text of that state. Raises UsageError when it is too large."""
    made = {
        "format": FORMAT,
        "separate_duties": state.separate_duties,
        "roles": [{"id": role.id, "privileges": sorted(role.privileges)} for role in state.roles],
        "services": [{"name": each.name, "certificate": each.certificate} for each in state.services],
        "folders": [_folder_object(folder) for folder in state.folders],
        "permissions": [
            {"who": str(each.principal), "role": each.role, "on": _target_object(each.target)}
            for each in state.permissions
        ],
    }
    text = json.dumps(made, indent=1).encode() + b"\n"
    if len(text) > MAX_SIZE:
        raise UsageError(f"more roles and permissions than fit into {MAX_SIZE // 10**6} MB")
    return text


def parse(data: bytes) -> AccessState:
    """The state in a file. Raises MalformedError and UnsupportedError with a named reason."""
    if len(data) > MAX_SIZE:
        raise MalformedError("oversized", f"{len(data)} bytes")
    found = parse_object(data)
    if type(found.get("format")) is not int:
        raise MalformedError("no format version")
    if found["format"] != FORMAT:
        raise UnsupportedError("unknown version", f"access format {found['format']}")
    try:
        state = _state(found)
    except (UsageError, NotFoundError) as error:
        raise MalformedError("bad value", error.message) from None
    if write(state) != data:
        raise MalformedError("not canonical")
    return state


def _state(found: dict[str, Any]) -> AccessState:
    _only(found, "format", "separate_duties", "roles", "services", "folders", "permissions")
    if type(found["separate_duties"]) is not bool:
        raise MalformedError("wrong type", "separate_duties")
    state = AccessState(
        _sorted(map(_role, _list(found, "roles")), lambda role: role.id),
        in_order(map(_permission, _list(found, "permissions"))),
        _sorted(map(_folder, _list(found, "folders")), lambda folder: folder.name),
        _sorted(map(_service, _list(found, "services")), lambda service: service.name),
        found["separate_duties"],
    )
    _check_references(state)
    return state


def _check_references(state: AccessState) -> None:
    """What is named is there, and nothing is there twice."""
    _once("role", [role.id for role in state.all_roles()])
    _once("service", [service.name for service in state.services])
    _once("certificate", [each.certificate for each in state.services if each.certificate is not None])
    _once("folder", [folder.name for folder in state.folders])
    _once("member", [member for folder in state.folders for member in folder.members])
    _once("permission", [(each.principal, each.target) for each in state.permissions])
    for permission in state.permissions:
        state.role(permission.role)
        if permission.target.kind is TargetKind.FOLDER:
            state.folder(permission.target.id)
        if permission.principal.kind is Kind.SERVICE:
            state.service(permission.principal.name)


def _role(item: dict[str, Any]) -> Role:
    _only(item, "id", "privileges")
    names = item["privileges"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MalformedError("wrong type", "privileges")
    held = [privileges.parse(name) for name in names]
    if Privilege.READ not in held:
        raise MalformedError("bad value", f"a role without {Privilege.READ}")
    return roles.custom(_text(item, "id"), held)


def _service(item: dict[str, Any]) -> Service:
    _only(item, "name", "certificate")
    return Service(_text(item, "name"), _optional(item, "certificate"))


def _folder(item: dict[str, Any]) -> Folder:
    told = ("events",) if "events" in item else ()  # left out while it has none
    _only(item, "name", "members", "provider", *told)
    if type(item.get("events", False)) is not bool:
        raise MalformedError("wrong type", "events")
    members = [_target(member) for member in _list(item, "members")]
    if len(set(members)) != len(members):
        raise MalformedError("twice", "member")
    provider = _optional(item, "provider")
    return Folder(_text(item, "name"), frozenset(members), provider, item.get("events", False))


def _permission(item: dict[str, Any]) -> Permission:
    _only(item, "who", "role", "on")
    if not isinstance(item["on"], dict):
        raise MalformedError("wrong type", "on")
    return Permission(parse_principal(_text(item, "who")), _text(item, "role"), _target(item["on"]))


def _target(item: dict[str, Any]) -> Target:
    _only(item, "kind", "id", "shown")
    kind = _text(item, "kind")
    if kind not in set(TargetKind):
        raise MalformedError("unknown kind", ascii(kind)[:40])
    return Target(TargetKind(kind), _text(item, "id"), _text(item, "shown"))


def _target_object(target: Target) -> dict[str, str]:
    return {"kind": target.kind, "id": target.id, "shown": target.shown}


def _folder_object(folder: Folder) -> dict[str, object]:
    members = [_target_object(member) for member in sorted(folder.members)]
    written = {"name": folder.name, "members": members, "provider": folder.provider}
    return written | ({"events": True} if folder.events else {})


def _only(item: dict[str, Any], *names: str) -> None:
    for name in names:
        if name not in item:
            raise MalformedError("missing", name)
    for name in item:
        if name not in names:
            raise UnsupportedError("unknown field", ascii(name)[:80])


def _list(item: dict[str, Any], name: str) -> list[dict[str, Any]]:
    value = item[name]
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise MalformedError("wrong type", name)
    return value


def _text(item: dict[str, Any], name: str) -> str:
    value = item[name]
    if not isinstance(value, str):
        raise MalformedError("wrong type", name)
    return value


def _optional(item: dict[str, Any], name: str) -> str | None:
    return None if item[name] is None else _text(item, name)


def _once(what: str, items: list[Any]) -> None:
    if len(set(items)) != len(items):
        raise MalformedError("twice", what)


def _sorted(items: Iterable[_Item], key: Callable[[_Item], str]) -> tuple[_Item, ...]:
    return tuple(sorted(items, key=key))
