"""Storage policies ↔ canonical JSON. Layout, limits and reasons in SPEC.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from ioflt.errors import MalformedError, UnsupportedError, UsageError
from ioflt.format.strict_json import parse_object
from ioflt.policy.bundled import BUNDLED
from ioflt.policy.model import FILTERS, Filter, StoragePolicy, check

#: Longest text read and written, in bytes, and most policies in it.
MAX_SIZE: Final = 1 << 20
MAX_POLICIES: Final = 256

#: The format written.
FORMAT: Final = 1

_POLICY = (
    "name", "id", "description", "filters", "provider", "provisioning", "integrity", "recovery_slot",
)  # fmt: skip


def write(policies: Sequence[StoragePolicy]) -> bytes:
    """The text of policies that were made here. Raises UsageError for more than a text may hold."""
    if len(policies) > MAX_POLICIES:
        raise UsageError(f"at most {MAX_POLICIES} policies of one's own are kept")
    data = _canonical(policies)
    if len(data) > MAX_SIZE:
        raise UsageError("the policies would exceed 1 MiB")
    return data


def parse(data: bytes) -> tuple[StoragePolicy, ...]:
    """The policies in that text. Raises MalformedError and UnsupportedError with a named reason."""
    if len(data) > MAX_SIZE:
        raise MalformedError("oversized policies", f"{len(data)} bytes")
    found = parse_object(data)
    form = found.get("format")
    if type(form) is not int:
        raise MalformedError("no format version")
    if form != FORMAT:
        raise UnsupportedError("unknown version", f"policy format {form}")
    _check_fields(found, ("format", "policies"))
    listed = found["policies"]
    if not isinstance(listed, list) or len(listed) > MAX_POLICIES:
        raise MalformedError("bad field", "policies")
    policies = tuple(_policy(one) for one in listed)
    for part in ("name", "id"):
        known = [getattr(policy, part) for policy in (*BUNDLED, *policies)]
        if len(set(known)) != len(known):
            raise MalformedError("named twice", part)
    if _canonical(policies) != data:
        raise MalformedError("not canonical")
    return policies


def to_json(policy: StoragePolicy) -> dict[str, Any]:
    """One policy, its fields in their order."""
    return {
        "name": policy.name,
        "id": policy.id,
        "description": policy.description,
        "filters": [{"id": one.id, "properties": dict(one.properties)} for one in policy.filters],
        "provider": policy.provider,
        "provisioning": policy.provisioning,
        "integrity": policy.integrity,
        "recovery_slot": policy.recovery_slot,
    }


def _canonical(policies: Sequence[StoragePolicy]) -> bytes:
    made = {"format": FORMAT, "policies": [to_json(policy) for policy in policies]}
    return json.dumps(made, separators=(",", ":")).encode() + b"\n"


def _policy(found: object) -> StoragePolicy:
    values = _object(found, _POLICY)
    provider, provisioning = values["provider"], values["provisioning"]
    if provider is not None and not isinstance(provider, str):
        raise MalformedError("bad field", "provider")
    if provisioning not in (None, "thick", "thin"):
        raise MalformedError("bad field", "provisioning")
    if not isinstance(values["filters"], list) or len(values["filters"]) > len(FILTERS):
        raise MalformedError("bad field", "filters")
    policy = StoragePolicy(
        _text(values["name"], "name"),
        _uuid(values["id"]),
        _text(values["description"], "description"),
        tuple(_filter(one) for one in values["filters"]),
        provider,
        provisioning,
        _flag(values["integrity"], "integrity"),
        _flag(values["recovery_slot"], "recovery_slot"),
    )
    try:
        return check(policy)
    except UsageError as error:
        raise MalformedError("bad policy", error.message) from None


def _filter(found: object) -> Filter:
    values = _object(found, ("id", "properties"))
    name = _text(values["id"], "filter")
    if name not in FILTERS:
        raise UnsupportedError("unknown filter", repr(name)[:80])
    properties = _object(values["properties"], FILTERS[name])
    return Filter(name, tuple((key, _text(value, key)) for key, value in properties.items()))


def _object(found: object, names: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise MalformedError("bad field", "no object")
    _check_fields(found, names)
    return found


def _check_fields(found: Mapping[str, Any], names: tuple[str, ...]) -> None:
    if missing := [name for name in names if name not in found]:
        raise MalformedError("missing field", missing[0])
    if unknown := sorted(set(found) - set(names)):
        raise UnsupportedError("unknown field", repr(unknown[0])[:40])


def _text(found: object, name: str) -> str:
    if not isinstance(found, str):
        raise MalformedError("bad field", name)
    return found


def _flag(found: object, name: str) -> bool:
    if not isinstance(found, bool):
        raise MalformedError("bad field", name)
    return found


def _uuid(found: object) -> str:
    try:
        canonical = str(UUID(found)) if isinstance(found, str) else None
    except ValueError:
        canonical = None
    if canonical is None or canonical != found:
        raise MalformedError("bad uuid")
    return canonical
