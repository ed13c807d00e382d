"""The `.ioflt` records of a datastore and of a VM home: two lines of text ↔ frozen objects. See SPEC.md.

Nothing is verified here: keyd has the keys, `Unverified` holds what it is asked to verify.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar
from uuid import UUID

from ioflt.crypto.mac import TAG_SIZE
from ioflt.errors import BugError, CorruptDataError, MalformedError, UnsupportedError, UsageError
from ioflt.format.record.names import check_name, check_path
from ioflt.format.strict_json import parse_object
from ioflt.types import MAX_KEY_ID, MAX_PROVIDER_NAME, HomeState, KeyRef

#: Most bytes of a record file: some ten thousand files under conversion. keyd MACs no more in one message.
MAX_SIZE = 2 << 20
FORMAT = 1

#: Labels under which keyd derives the MAC key: from the home's KEK, and twice from the datastore's KEK.
HOME_LABEL: Final = "home-record"
CLEAR_HOME_LABEL: Final = "clear-home-record"
DATASTORE_LABEL: Final = "datastore-record"

#: One of the three.
Label = Literal["home-record", "clear-home-record", "datastore-record"]

#: Which way a conversion goes.
Direction = Literal["encrypt", "decrypt"]

_MAX_POLICY = 128
_MAC = b"mac "


@dataclass(frozen=True, slots=True)
class DatastoreRecord:
    """`.ioflt` at the datastore's root. `default`: what files at the root and homes without a record are.

    `key` is the datastore's KEK: for files at the root, this record and the records of clear homes.
    """

    datastore_id: str
    default: HomeState
    key: KeyRef
    policy: str


@dataclass(frozen=True, slots=True)
class Current:
    """The file being converted, and the UUID of its container: made (encrypt) or dissolved (decrypt)."""

    path: str
    uuid: str


@dataclass(frozen=True, slots=True)
class Operation:
    """A conversion of the home under way. `pending`: paths in the home that are not converted yet."""

    kind: Direction
    id: str
    thick: bool
    pending: tuple[str, ...]
    current: Current | None


@dataclass(frozen=True, slots=True)
class HomeRecord:
    """`.ioflt` in a home. `key` is None and `names` has the directory's name exactly when the home is clear.

    Two names: a rename is under way. `thick`: new containers are made thick.
    A home in the middle of an operation is ENCRYPTED, whichever way it goes.
    """

    home_id: str
    datastore_id: str
    state: HomeState
    key: KeyRef | None
    names: tuple[str, ...]
    policy: str
    thick: bool
    operation: Operation | None


Record = DatastoreRecord | HomeRecord
AnyRecord = TypeVar("AnyRecord", DatastoreRecord, HomeRecord, Record, covariant=True)


@dataclass(frozen=True, slots=True)
class Unverified(Generic[AnyRecord]):
    """A record whose MAC nobody has verified yet: `tag` (32 bytes) over `payload` with the key of `label`."""

    record: AnyRecord
    payload: bytes
    tag: bytes

    @property
    def label(self) -> Label:
        return label(self.record)


def label(record: Record) -> Label:
    """The label of the record's MAC key."""
    if isinstance(record, DatastoreRecord):
        return DATASTORE_LABEL
    return HOME_LABEL if record.state is HomeState.ENCRYPTED else CLEAR_HOME_LABEL


def encode(record: Record) -> bytes:
    """The payload: what is MACed. Raises UsageError when too large, BugError for a record that is none."""
    payload = _payload(record)
    if len(payload) > MAX_SIZE - 128:
        raise UsageError("the record would exceed 2 MiB: too many files in one home")
    try:
        same = _from_json(parse_object(payload)) == record
    except CorruptDataError as error:
        raise BugError(f"a record that would not be read again: {error}") from error
    if not same:
        raise BugError("a record that would be read as another")
    return payload


def seal(payload: bytes, tag: bytes) -> bytes:
    """The file: payload and its MAC."""
    if len(tag) != TAG_SIZE:
        raise BugError(f"a MAC has {TAG_SIZE} bytes")
    return payload + b"\n" + _MAC + b64encode(tag) + b"\n"


def parse(data: bytes) -> Unverified[Record]:
    """The record in a file. Raises MalformedError and UnsupportedError with a named reason."""
    if len(data) > MAX_SIZE:
        raise MalformedError("oversized record", f"{len(data)} bytes")
    lines = data.split(b"\n")
    if len(lines) != 3 or lines[2]:
        raise MalformedError("not two lines")
    payload, tag = lines[0], _parse_tag(lines[1])
    record = _from_json(parse_object(payload))
    if _payload(record) != payload:
        raise MalformedError("not canonical")
    return Unverified(record, payload, tag)


def parse_datastore(data: bytes) -> Unverified[DatastoreRecord]:
    """A datastore's record. As `parse`; MalformedError("wrong kind") for a home's."""
    found = parse(data)
    if not isinstance(found.record, DatastoreRecord):
        raise MalformedError("wrong kind", "a home's record")
    return Unverified(found.record, found.payload, found.tag)


def parse_home(data: bytes) -> Unverified[HomeRecord]:
    """A home's record. As `parse`; MalformedError("wrong kind") for a datastore's."""
    found = parse(data)
    if not isinstance(found.record, HomeRecord):
        raise MalformedError("wrong kind", "a datastore's record")
    return Unverified(found.record, found.payload, found.tag)


def _payload(record: Record) -> bytes:
    made = _datastore_json(record) if isinstance(record, DatastoreRecord) else _home_json(record)
    return json.dumps(made, separators=(",", ":")).encode()


def _parse_tag(line: bytes) -> bytes:
    try:
        tag = b64decode(line.removeprefix(_MAC), validate=True)
    except (binascii.Error, ValueError):
        raise MalformedError("bad MAC line") from None
    if len(tag) != TAG_SIZE or line != _MAC + b64encode(tag):
        raise MalformedError("bad MAC line")
    return tag


# The order of fields below is the order in the file: format and kind first, so that the kind shows at once.


def _datastore_json(record: DatastoreRecord) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "kind": "datastore",
        "datastore_id": record.datastore_id,
        "default": record.default.value,
        "key": _key_json(record.key),
        "policy": record.policy,
    }


def _home_json(record: HomeRecord) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "kind": "home",
        "home_id": record.home_id,
        "datastore_id": record.datastore_id,
        "state": record.state.value,
        "key": None if record.key is None else _key_json(record.key),
        "names": list(record.names),
        "policy": record.policy,
        "thick": record.thick,
        "operation": None if record.operation is None else _operation_json(record.operation),
    }


def _key_json(key: KeyRef) -> dict[str, str]:
    return {"provider": key.provider, "key_id": key.key_id}


def _operation_json(operation: Operation) -> dict[str, Any]:
    current = operation.current
    return {
        "kind": operation.kind,
        "id": operation.id,
        "thick": operation.thick,
        "pending": list(operation.pending),
        "current": None if current is None else {"path": current.path, "uuid": current.uuid},
    }


def _from_json(found: dict[str, Any]) -> Record:
    if type(found.get("format")) is not int:
        raise MalformedError("no format version")
    if found["format"] != FORMAT:
        raise UnsupportedError("unknown version", f"record format {found['format']}")
    if found.get("kind") == "datastore":
        return _datastore(found)
    if found.get("kind") == "home":
        return _home(found)
    raise MalformedError("unknown kind", repr(found.get("kind"))[:40])


def _datastore(found: Mapping[str, Any]) -> DatastoreRecord:
    _check_fields(found, ("format", "kind", "datastore_id", "default", "key", "policy"))
    return DatastoreRecord(
        _uuid(found["datastore_id"]),
        _state(found["default"]),
        _key(found["key"]),
        _text(found["policy"], 0, _MAX_POLICY, "policy"),
    )


def _home(found: Mapping[str, Any]) -> HomeRecord:
    fields = ("home_id", "datastore_id", "state", "key", "names", "policy", "thick", "operation")
    _check_fields(found, ("format", "kind", *fields))
    record = HomeRecord(
        _uuid(found["home_id"]),
        _uuid(found["datastore_id"]),
        _state(found["state"]),
        None if found["key"] is None else _key(found["key"]),
        _distinct(check_name(name) for name in _list(found["names"], "names")),
        _text(found["policy"], 0, _MAX_POLICY, "policy"),
        _flag(found["thick"], "thick"),
        None if found["operation"] is None else _operation(found["operation"]),
    )
    if record.state is HomeState.ENCRYPTED:
        if record.key is None or record.names:
            raise MalformedError("bad encrypted home", "no key, or names")
    elif record.key is not None or len(record.names) not in (1, 2) or record.operation is not None:
        raise MalformedError("bad clear home", "a key, an operation, or no name")
    return record


def _operation(found: object) -> Operation:
    fields = _object(found, ("kind", "id", "thick", "pending", "current"))
    if fields["kind"] not in ("encrypt", "decrypt"):
        raise MalformedError("bad field", "operation kind")
    current = None
    if fields["current"] is not None:
        file = _object(fields["current"], ("path", "uuid"))
        current = Current(check_path(file["path"]), _uuid(file["uuid"]))
    return Operation(
        fields["kind"],
        _uuid(fields["id"]),
        _flag(fields["thick"], "thick"),
        _distinct(check_path(path) for path in _list(fields["pending"], "pending")),
        current,
    )


def _key(found: object) -> KeyRef:
    fields = _object(found, ("provider", "key_id"))
    return KeyRef(
        _text(fields["provider"], 1, MAX_PROVIDER_NAME, "provider"),
        _text(fields["key_id"], 1, MAX_KEY_ID, "key id"),
    )


def _object(found: object, names: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise MalformedError("bad field", f"object of {names[0]}")
    _check_fields(found, names)
    return found


def _check_fields(found: Mapping[str, Any], names: tuple[str, ...]) -> None:
    if missing := [name for name in names if name not in found]:
        raise MalformedError("missing field", missing[0])
    if unknown := sorted(set(found) - set(names)):
        raise UnsupportedError("unknown field", repr(unknown[0])[:40])


def _list(found: object, name: str) -> list[Any]:
    if not isinstance(found, list):
        raise MalformedError("bad field", name)
    return found


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    made = tuple(values)
    if len(set(made)) != len(made):
        raise MalformedError("named twice")
    return made


def _text(found: object, least: int, most: int, name: str) -> str:
    if not isinstance(found, str) or not least <= len(found) <= most or not found.isprintable():
        raise MalformedError("bad field", name)
    return found


def _flag(found: object, name: str) -> bool:
    if not isinstance(found, bool):
        raise MalformedError("bad field", name)
    return found


def _state(found: object) -> HomeState:
    for state in HomeState:
        if found == state.value:
            return state
    raise MalformedError("bad field", "state")


def _uuid(found: object) -> str:
    try:
        canonical = str(UUID(found)) if isinstance(found, str) else None
    except ValueError:
        canonical = None
    if canonical is None or canonical != found:
        raise MalformedError("bad uuid")
    return canonical
