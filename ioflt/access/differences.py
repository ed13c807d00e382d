"""From one state to the next, value by value: what an auditor hears of a change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from ioflt.access.objects import Target, TargetKind
from ioflt.access.state import AccessState

#: As `audit.event.Value`.
Value: TypeAlias = "bool | int | str | Sequence[Value] | Mapping[str, Value] | None"


def differences(old: AccessState, new: AccessState) -> Iterator[tuple[str, Value, Value]]:
    """Each value that is another: its path, before, after; None is unset."""
    before, after = _values(old), _values(new)
    for path in dict.fromkeys((*before, *after)):
        if before.get(path) != after.get(path):
            yield path, before.get(path), after.get(path)


def _values(state: AccessState) -> dict[str, Value]:
    values: dict[str, Value] = {"access.separateDuties": state.separate_duties}
    for role in state.roles:
        values[f'access.role("{role.id}").privileges'] = sorted(role.privileges)
    for service in state.services:
        values[f'access.service("{service.name}")'] = {"certificate": service.certificate}
    for folder in state.folders:
        values[f'access.folder("{folder.name}").lists'] = [_named(each) for each in sorted(folder.members)]
        values[f'access.folder("{folder.name}").provider'] = folder.provider
        if folder.events:
            values[f'access.folder("{folder.name}").events'] = True
    for each in state.permissions:
        values[f'access.permission("{each.principal}","{_named(each.target)}").role'] = each.role
    return values


def _named(target: Target) -> str:
    """By what lasts: what it is called may be another's name tomorrow."""
    return "everything" if target.kind is TargetKind.EVERYTHING else f"{target.kind}:{target.id}"
