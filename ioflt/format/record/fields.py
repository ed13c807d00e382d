"""Fields of records: strict readers of what JSON gave. MalformedError names the reason (SPEC.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar
from uuid import UUID

from ioflt.errors import MalformedError, UnsupportedError
from ioflt.format.record.names import check_path
from ioflt.types import MAX_KEY_ID, MAX_PROVIDER_NAME, HomeState, KeyRef

_MAX_POLICY = 128

_Value = TypeVar("_Value")


def check_fields(found: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Exactly these fields are there."""
    if missing := [name for name in names if name not in found]:
        raise MalformedError("missing field", missing[0])
    if unknown := sorted(set(found) - set(names)):
        raise UnsupportedError("unknown field", repr(unknown[0])[:40])


def to_object(found: object, names: tuple[str, ...]) -> dict[str, Any]:
    """An object of just these fields."""
    if not isinstance(found, dict):
        raise MalformedError("bad field", f"object of {names[0]}")
    check_fields(found, names)
    return found


def to_list(found: object, name: str) -> list[Any]:
    if not isinstance(found, list):
        raise MalformedError("bad field", name)
    return found


def distinct(values: Iterable[_Value]) -> tuple[_Value, ...]:
    """The values, of which none may come twice."""
    made = tuple(values)
    if len(set(made)) != len(made):
        raise MalformedError("named twice")
    return made


def to_paths(found: object, name: str) -> tuple[str, ...]:
    return distinct(check_path(path) for path in to_list(found, name))


def to_key(found: object) -> KeyRef:
    fields = to_object(found, ("provider", "key_id"))
    return KeyRef(
        to_text(fields["provider"], 1, MAX_PROVIDER_NAME, "provider"),
        to_text(fields["key_id"], 1, MAX_KEY_ID, "key id"),
    )


def to_keys(found: object, name: str) -> tuple[KeyRef, ...]:
    return distinct(to_key(key) for key in to_list(found, name))


def to_policy(found: object) -> str:
    return to_text(found, 0, _MAX_POLICY, "policy")


def to_text(found: object, least: int, most: int, name: str) -> str:
    if not isinstance(found, str) or not least <= len(found) <= most or not found.isprintable():
        raise MalformedError("bad field", name)
    return found


def to_flag(found: object, name: str) -> bool:
    if not isinstance(found, bool):
        raise MalformedError("bad field", name)
    return found


def to_count(found: object, least: int, name: str) -> int:
    if type(found) is not int or not least <= found < 1 << 63:
        raise MalformedError("bad field", name)
    return found


def to_state(found: object) -> HomeState:
    for state in HomeState:
        if found == state.value:
            return state
    raise MalformedError("bad field", "state")


def to_uuid(found: object) -> str:
    try:
        canonical = str(UUID(found)) if isinstance(found, str) else None
    except ValueError:
        canonical = None
    if canonical is None or canonical != found:
        raise MalformedError("bad uuid")
    return canonical


def key_json(key: KeyRef) -> dict[str, str]:
    """What `to_key` reads."""
    return {"provider": key.provider, "key_id": key.key_id}


def keys_json(keys: tuple[KeyRef, ...]) -> list[dict[str, str]]:
    """What `to_keys` reads."""
    return [key_json(key) for key in keys]
