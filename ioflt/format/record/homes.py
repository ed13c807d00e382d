"""Records of homes as JSON objects: format 3 with integrity, else format 2; format 1 is read for ever."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ioflt.errors import MalformedError
from ioflt.format.record import fields
from ioflt.format.record.model import MAX_KEYS, Current, Deep, HomeRecord, Move, Operation, Recrypt, Rename
from ioflt.format.record.names import check_name, check_path
from ioflt.format.record.recrypts import check_change, recrypt_json, to_recrypt
from ioflt.types import HomeState

#: Ends the kind of a conversion that is about a disk's files only.
_OF_DISK = "-disk"

# The order of fields is the order in the file: format and kind first, so that the kind shows at once.
_FIRST = ("format", "kind", "home_id", "datastore_id")
_FIELDS_1 = (*_FIRST, "state", "key", "names", "policy", "thick", "operation")
_FIELDS = (
    *_FIRST, "generation", "state", "keys", "names", "policy", "thick", "clear_files", "operation",
)  # fmt: skip
_FIELDS_3 = (*_FIELDS, "integrity")


def to_json(record: HomeRecord) -> dict[str, Any]:
    """The record in format 2, or 3 where that says more."""
    made = {
        "format": 3 if record.integrity else 2,
        "kind": "home",
        "home_id": record.home_id,
        "datastore_id": record.datastore_id,
        "generation": record.generation,
        "state": record.state.value,
        "keys": fields.keys_json(record.keys),
        "names": list(record.names),
        "policy": record.policy,
        "thick": record.thick,
        "clear_files": list(record.clear_files),
        "operation": None if record.operation is None else _operation_json(record.operation),
    }
    return made | ({"integrity": True} if record.integrity else {})


def to_json_1(record: HomeRecord) -> dict[str, Any]:
    """The record in format 1, which it was read from."""
    return {
        "format": 1,
        "kind": "home",
        "home_id": record.home_id,
        "datastore_id": record.datastore_id,
        "state": record.state.value,
        "key": fields.key_json(record.keys[0]) if record.keys else None,
        "names": list(record.names),
        "policy": record.policy,
        "thick": record.thick,
        "operation": None if record.operation is None else _operation_json(record.operation),
    }


def from_json(found: Mapping[str, Any]) -> HomeRecord:
    """The record of format 2 or 3 in that object. Raises MalformedError, UnsupportedError."""
    integrity = found["format"] == 3
    fields.check_fields(found, _FIELDS_3 if integrity else _FIELDS)
    if integrity and found["integrity"] is not True:
        raise MalformedError("bad field", "integrity")
    record = HomeRecord(
        fields.to_uuid(found["home_id"]),
        fields.to_uuid(found["datastore_id"]),
        fields.to_state(found["state"]),
        fields.to_keys(found["keys"], "keys"),
        fields.distinct(check_name(name) for name in fields.to_list(found["names"], "names")),
        fields.to_policy(found["policy"]),
        fields.to_flag(found["thick"], "thick"),
        None if found["operation"] is None else _operation(found["operation"]),
        fields.to_count(found["generation"], 1, "generation"),
        fields.to_paths(found["clear_files"], "clear files"),
        integrity,
    )
    _check_home(record)
    return record


def from_json_1(found: Mapping[str, Any]) -> HomeRecord:
    """The record of format 1 in that object. Raises MalformedError, UnsupportedError."""
    fields.check_fields(found, _FIELDS_1)
    record = HomeRecord(
        fields.to_uuid(found["home_id"]),
        fields.to_uuid(found["datastore_id"]),
        fields.to_state(found["state"]),
        () if found["key"] is None else (fields.to_key(found["key"]),),
        fields.distinct(check_name(name) for name in fields.to_list(found["names"], "names")),
        fields.to_policy(found["policy"]),
        fields.to_flag(found["thick"], "thick"),
        None if found["operation"] is None else _conversion(found["operation"]),
        generation=0,
    )
    _check_home(record)
    return record


def _check_home(record: HomeRecord) -> None:
    operation = record.operation
    if record.state is HomeState.CLEAR:
        stays = operation is None or isinstance(operation, Move)
        encrypts = record.keys or record.clear_files or record.integrity
        if encrypts or len(record.names) not in (1, 2) or not stays:
            raise MalformedError("bad clear home", "a key, an operation, clear files, integrity, or no name")
        return
    if not record.keys or record.names:
        raise MalformedError("bad encrypted home", "no key, or names")
    if isinstance(operation, Operation) and operation.files is not None:
        if not operation.files or not set(operation.pending) <= set(operation.files):
            raise MalformedError("bad operation", "pending files that it is not about")
        if set(operation.files) & set(record.clear_files):
            raise MalformedError("bad operation", "files that are clear whatever comes")
    if isinstance(operation, Rename) and _is_below(operation.new, operation.old):
        raise MalformedError("bad operation", "renamed to itself, or below")
    if isinstance(operation, Recrypt | Deep):
        check_change(operation, record.keys)
    elif len(record.keys) > MAX_KEYS:
        raise MalformedError("bad encrypted home", "too many keys")


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")


def _operation_json(operation: Operation | Recrypt | Deep | Move | Rename) -> dict[str, Any]:
    if isinstance(operation, Recrypt):
        return recrypt_json(operation)
    if isinstance(operation, Move):
        place = {"home_id": operation.home_id, "datastore_id": operation.datastore_id}
        return {"kind": operation.kind, "id": operation.id} | place
    if isinstance(operation, Rename):
        return {"kind": operation.kind, "from": operation.old, "to": operation.new}
    made: dict[str, Any] = {"kind": operation.kind, "id": operation.id}
    if isinstance(operation, Operation):
        made["thick"] = operation.thick
        if operation.files is not None:
            made["kind"] += _OF_DISK
            made["files"] = list(operation.files)
    else:
        made |= {"from": fields.keys_json(operation.old), "to": fields.keys_json(operation.to)}
        made["mode"] = operation.mode
    current = operation.current
    made["pending"] = list(operation.pending)
    made["current"] = None if current is None else {"path": current.path, "uuid": current.uuid}
    return made


def _operation(found: object) -> Operation | Recrypt | Deep | Move | Rename:
    kind = found.get("kind") if isinstance(found, dict) else None
    if kind == "rename":
        values = fields.to_object(found, ("kind", "from", "to"))
        return Rename(check_path(values["from"]), check_path(values["to"]))
    if kind == "recrypt":
        return to_recrypt(found)
    if kind == "move":
        values = fields.to_object(found, ("kind", "id", "home_id", "datastore_id"))
        return Move(*(fields.to_uuid(values[name]) for name in ("id", "home_id", "datastore_id")))
    if kind == "deep":
        values = fields.to_object(found, ("kind", "id", "from", "to", "mode", "pending", "current"))
        if values["mode"] not in ("copy", "journal"):
            raise MalformedError("bad field", "mode")
        return Deep(
            fields.to_uuid(values["id"]),
            values["mode"],
            fields.to_keys(values["from"], "from"),
            fields.to_keys(values["to"], "to"),
            fields.to_paths(values["pending"], "pending"),
            _current(values["current"]),
        )
    if kind in ("encrypt-disk", "decrypt-disk"):
        values = fields.to_object(found, ("kind", "id", "thick", "files", "pending", "current"))
        whole = {name: value for name, value in values.items() if name != "files"}
        whole["kind"] = kind.removesuffix(_OF_DISK)
        return replace(_conversion(whole), files=fields.to_paths(values["files"], "files"))
    if kind not in ("encrypt", "decrypt"):
        raise MalformedError("bad field", "operation kind")
    return _conversion(found)


def _conversion(found: object) -> Operation:
    values = fields.to_object(found, ("kind", "id", "thick", "pending", "current"))
    if values["kind"] not in ("encrypt", "decrypt"):
        raise MalformedError("bad field", "operation kind")
    return Operation(
        values["kind"],
        fields.to_uuid(values["id"]),
        fields.to_flag(values["thick"], "thick"),
        fields.to_paths(values["pending"], "pending"),
        _current(values["current"]),
    )


def _current(found: object) -> Current | None:
    if found is None:
        return None
    file = fields.to_object(found, ("path", "uuid"))
    return Current(check_path(file["path"]), fields.to_uuid(file["uuid"]))
