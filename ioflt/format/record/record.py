"""The `.ioflt` records of a datastore and of a VM home: lines of text ↔ frozen objects. See SPEC.md.

Nothing is verified here: keyd has the keys, `Unverified` holds what it is asked to verify.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar

from ioflt.crypto.mac import TAG_SIZE
from ioflt.errors import BugError, CorruptDataError, MalformedError, UnsupportedError, UsageError
from ioflt.format.record import datastores, homes
from ioflt.format.record.model import (
    MAX_KEYS,
    Current,
    DatastoreRecord,
    Deep,
    Direction,
    HomeRecord,
    Mode,
    Move,
    Operation,
    Record,
    Recrypt,
    Rename,
)
from ioflt.format.strict_json import parse_object
from ioflt.types import HomeState

__all__ = [
    "MAX_KEYS",
    "Current",
    "DatastoreRecord",
    "Deep",
    "Direction",
    "HomeRecord",
    "Mode",
    "Move",
    "Operation",
    "Record",
    "Recrypt",
    "Rename",
    "Unverified",
    "encode",
    "label",
    "parse",
    "parse_datastore",
    "parse_home",
    "parse_payload",
    "seal",
]

#: Most bytes of a record file: some ten thousand files under conversion. keyd MACs no more in one message.
MAX_SIZE = 2 << 20

#: The format of records that only format 2 can say, or 3: the lowest that can is written.
FORMAT = 2
#: The highest that is read; of homes only.
_MAX_FORMAT = 3

#: Labels under which keyd derives the MAC key: from the home's KEKs, and twice from the datastore's.
HOME_LABEL: Final = "home-record"
CLEAR_HOME_LABEL: Final = "clear-home-record"
DATASTORE_LABEL: Final = "datastore-record"

#: One of the three.
Label = Literal["home-record", "clear-home-record", "datastore-record"]

_MAC = b"mac "
_MAX_MACS = 2 * MAX_KEYS

AnyRecord = TypeVar("AnyRecord", DatastoreRecord, HomeRecord, Record, covariant=True)


@dataclass(frozen=True, slots=True)
class Unverified(Generic[AnyRecord]):
    """A record whose MACs nobody has verified yet: `tags` (32 bytes each) over `payload` by `label`.

    One tag for each key of an encrypted home or a datastore, in their order. A clear home's are by the keys
    that its datastore had when it was written.
    """

    record: AnyRecord
    payload: bytes
    tags: tuple[bytes, ...]

    @property
    def label(self) -> Label:
        return label(self.record)


def label(record: Record) -> Label:
    """The label of the record's MAC keys."""
    if isinstance(record, DatastoreRecord):
        return DATASTORE_LABEL
    return HOME_LABEL if record.state is HomeState.ENCRYPTED else CLEAR_HOME_LABEL


def encode(record: Record) -> bytes:
    """The payload: what is MACed. Raises UsageError when too large, BugError for a record that is none."""
    payload = _payload(record, FORMAT)
    if len(payload) > MAX_SIZE - _MAX_MACS * 64:
        raise UsageError("the record would exceed 2 MiB: too many files in one home")
    try:
        same = _from_json(parse_object(payload)) == record
    except CorruptDataError as error:
        raise BugError(f"a record that would not be read again: {error}") from error
    if not same:
        raise BugError("a record that would be read as another")
    return payload


def seal(payload: bytes, tags: Sequence[bytes]) -> bytes:
    """The file: payload and its MACs."""
    if not tags or any(len(tag) != TAG_SIZE for tag in tags):
        raise BugError(f"a MAC has {TAG_SIZE} bytes")
    return b"".join((payload, b"\n", *(_mac_line(tag) + b"\n" for tag in tags)))


def parse(data: bytes) -> Unverified[Record]:
    """The record in a file. Raises MalformedError and UnsupportedError with a named reason."""
    if len(data) > MAX_SIZE:
        raise MalformedError("oversized record", f"{len(data)} bytes")
    payload, *rest = data.split(b"\n", _MAX_MACS + 2)
    if len(rest) < 2 or rest[-1]:
        raise MalformedError("not two lines")
    tags = tuple(map(_parse_tag, rest[:-1]))
    record, version = _parse_payload(payload)
    wanted = len(record.keys) or (1 if version == 1 else len(set(tags)))
    if len(tags) != wanted:
        raise MalformedError("not a MAC for each key", f"{len(tags)} for {wanted}")
    return Unverified(record, payload, tags)


def parse_payload(payload: bytes) -> Record:
    """The record that was encoded so. Raises as `parse`."""
    if len(payload) > MAX_SIZE:
        raise MalformedError("oversized record", f"{len(payload)} bytes")
    return _parse_payload(payload)[0]


def parse_datastore(data: bytes) -> Unverified[DatastoreRecord]:
    """A datastore's record. As `parse`; MalformedError("wrong kind") for a home's."""
    found = parse(data)
    if not isinstance(found.record, DatastoreRecord):
        raise MalformedError("wrong kind", "a home's record")
    return Unverified(found.record, found.payload, found.tags)


def parse_home(data: bytes) -> Unverified[HomeRecord]:
    """A home's record. As `parse`; MalformedError("wrong kind") for a datastore's."""
    found = parse(data)
    if not isinstance(found.record, HomeRecord):
        raise MalformedError("wrong kind", "a datastore's record")
    return Unverified(found.record, found.payload, found.tags)


def _parse_payload(payload: bytes) -> tuple[Record, int]:
    """The record and the version of its format."""
    found = parse_object(payload)
    record = _from_json(found)
    if _payload(record, found["format"]) != payload:
        raise MalformedError("not canonical")
    return record, found["format"]


def _payload(record: Record, form: int) -> bytes:
    kind = datastores if isinstance(record, DatastoreRecord) else homes
    made = kind.to_json_1(record) if form == 1 else kind.to_json(record)
    return json.dumps(made, separators=(",", ":")).encode()


def _mac_line(tag: bytes) -> bytes:
    return _MAC + b64encode(tag)


def _parse_tag(line: bytes) -> bytes:
    try:
        tag = b64decode(line.removeprefix(_MAC), validate=True)
    except (binascii.Error, ValueError):
        raise MalformedError("bad MAC line") from None
    if len(tag) != TAG_SIZE or line != _mac_line(tag):
        raise MalformedError("bad MAC line")
    return tag


def _from_json(found: dict[str, Any]) -> Record:
    form = found.get("format")
    if type(form) is not int:
        raise MalformedError("no format version")
    if not 1 <= form <= (_MAX_FORMAT if found.get("kind") == "home" else FORMAT):
        raise UnsupportedError("unknown version", f"record format {form}")
    kind = found.get("kind")
    if kind == "home":
        return homes.from_json_1(found) if form == 1 else homes.from_json(found)
    if kind == "datastore":
        return datastores.from_json_1(found) if form == 1 else datastores.from_json(found)
    raise MalformedError("unknown kind", repr(kind)[:40])
