"""Records of datastores as JSON objects: format 2, which is written, and format 1, which is read for ever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ioflt.errors import MalformedError
from ioflt.format.record import fields
from ioflt.format.record.model import MAX_KEYS, DatastoreRecord
from ioflt.format.record.recrypts import check_change, recrypt_json, to_recrypt

_FIRST = ("format", "kind", "datastore_id")
_FIELDS_1 = (*_FIRST, "default", "key", "policy")
_FIELDS = (*_FIRST, "generation", "default", "keys", "policy", "operation")


def to_json(record: DatastoreRecord) -> dict[str, Any]:
    """The record in format 2."""
    return {
        "format": 2,
        "kind": "datastore",
        "datastore_id": record.datastore_id,
        "generation": record.generation,
        "default": record.default.value,
        "keys": fields.keys_json(record.keys),
        "policy": record.policy,
        "operation": None if record.operation is None else recrypt_json(record.operation),
    }


def to_json_1(record: DatastoreRecord) -> dict[str, Any]:
    """The record in format 1, which it was read from."""
    return {
        "format": 1,
        "kind": "datastore",
        "datastore_id": record.datastore_id,
        "default": record.default.value,
        "key": fields.key_json(record.key),
        "policy": record.policy,
    }


def from_json(found: Mapping[str, Any]) -> DatastoreRecord:
    """The record of format 2 in that object. Raises MalformedError, UnsupportedError."""
    fields.check_fields(found, _FIELDS)
    record = DatastoreRecord(
        fields.to_uuid(found["datastore_id"]),
        fields.to_state(found["default"]),
        fields.to_keys(found["keys"], "keys"),
        fields.to_policy(found["policy"]),
        None if found["operation"] is None else to_recrypt(found["operation"]),
        fields.to_count(found["generation"], 1, "generation"),
    )
    if record.operation is not None:
        check_change(record.operation, record.keys)
    elif not 1 <= len(record.keys) <= MAX_KEYS:
        raise MalformedError("bad datastore", "no key, or too many")
    return record


def from_json_1(found: Mapping[str, Any]) -> DatastoreRecord:
    """The record of format 1 in that object. Raises MalformedError, UnsupportedError."""
    fields.check_fields(found, _FIELDS_1)
    return DatastoreRecord(
        fields.to_uuid(found["datastore_id"]),
        fields.to_state(found["default"]),
        (fields.to_key(found["key"]),),
        fields.to_policy(found["policy"]),
        generation=0,
    )
