"""What the files of all kinds of providers share: bytes ↔ frozen objects.

Reasons: those of `format.strict_json`, and "too large", "wrong format", "unknown version", "bad field".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeVar

import msgspec

from ioflt.errors import MalformedError, UnsupportedError
from ioflt.format.strict_json import parse_object

VERSION: Final = 1

#: Longest file, in bytes.
MAX_FILE: Final = 64 << 10

Meta = msgspec.Meta

#: Provider names are file names, and appear in lists and locators.
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
Uuid = Annotated[str, Meta(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")]

AbsolutePath = Annotated[str, Meta(pattern=r"^/[^\0]*\Z", max_length=4095)]


class _Identified(msgspec.Struct):
    uuid: Uuid


_FORMAT = re.compile(r"ioflt ([a-z0-9]{1,16}) provider")

_File = TypeVar("_File", bound=msgspec.Struct)


def write(file: msgspec.Struct) -> bytes:
    """The file's bytes: JSON, one field a line."""
    return msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"


def parse(data: bytes, wanted: str) -> Mapping[str, Any]:
    """The fields of a file of the format `wanted`. Raises MalformedError, UnsupportedError."""
    if len(data) > MAX_FILE:
        raise MalformedError("too large", f"{len(data)} bytes")
    value = parse_object(data)
    if value.get("format") != wanted:
        raise MalformedError("wrong format", f"not an {wanted}")
    version = value.get("version")
    if version != VERSION or not isinstance(version, int) or isinstance(version, bool):
        raise UnsupportedError("unknown version", str(version)[:20])
    return value


def convert(value: Mapping[str, Any], kind: type[_File]) -> _File:
    """The fields as an object. Raises MalformedError."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise MalformedError("bad field", str(error)) from None
    except UnicodeEncodeError:  # a lone surrogate
        raise MalformedError("bad field", "not UTF-8") from None


def kind_of(data: bytes) -> str:
    """Of which kind a file says that it is, "" when it says nothing. It may be broken all the same."""
    try:
        found = _FORMAT.fullmatch(str(parse_object(data).get("format")))
    except MalformedError:
        return ""
    return found[1] if found else ""


def uuid_of(data: bytes) -> str:
    """The uuid that a file of any kind names. Raises MalformedError."""
    return convert({"uuid": parse_object(data).get("uuid")}, _Identified).uuid


def is_name(text: str) -> bool:
    """Whether a provider may have that name."""
    try:
        msgspec.convert(text, Name)
    except msgspec.ValidationError:
        return False
    return True
