"""A shallow recrypt under way, as it stands in the record of a home or of a datastore."""

from __future__ import annotations

from typing import Any

from ioflt.errors import MalformedError
from ioflt.format.record import fields
from ioflt.format.record.model import MAX_KEYS, Deep, Recrypt
from ioflt.types import KeyRef


def recrypt_json(operation: Recrypt) -> dict[str, Any]:
    """What `to_recrypt` reads."""
    return {
        "kind": operation.kind,
        "id": operation.id,
        "from": fields.keys_json(operation.old),
        "to": fields.keys_json(operation.to),
    }


def to_recrypt(found: object) -> Recrypt:
    """Raises MalformedError, UnsupportedError."""
    values = fields.to_object(found, ("kind", "id", "from", "to"))
    if values["kind"] != "recrypt":
        raise MalformedError("bad field", "operation kind")
    return Recrypt(
        fields.to_uuid(values["id"]),
        fields.to_keys(values["from"], "from"),
        fields.to_keys(values["to"], "to"),
    )


def check_change(operation: Recrypt | Deep, keys: tuple[KeyRef, ...]) -> None:
    """Raises MalformedError unless a record with these keys can be in the middle of that."""
    if not operation.to or set(operation.to) & set(operation.old):
        raise MalformedError("bad operation", "keys that come and go")
    if max(len(operation.to), len(operation.old)) > MAX_KEYS:
        raise MalformedError("bad operation", "too many keys")
    if keys not in (operation.to, operation.to + operation.old):
        raise MalformedError("bad operation", "other keys than the record's")
