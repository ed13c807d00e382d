"""The kmip provider's file: bytes ↔ frozen object. Layout, limits and reasons in SPEC.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec

from ioflt.errors import MalformedError, UnsupportedError
from ioflt.format.strict_json import parse_object
from ioflt.keys.native_file import MAX_FILE, Name, Uuid

KMIP_FORMAT: Final = "ioflt kmip provider"
VERSION: Final = 1

#: The port that IANA gave to KMIP.
PORT: Final = 5696

Meta = msgspec.Meta

#: A host name, an IPv4 or an IPv6 address, without brackets.
Host = Annotated[str, Meta(pattern=r"^[0-9A-Za-z:._-]{1,253}\Z")]
Fingerprint = Annotated[str, Meta(pattern=r"^[0-9A-F]{2}(:[0-9A-F]{2}){31}\Z")]


class KmipServer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One server of the cluster. `fingerprint`: only that certificate is accepted from it."""

    host: Host
    port: Annotated[int, Meta(ge=1, le=65535)] = PORT
    fingerprint: Fingerprint | None = None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class KmipFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A cluster of servers that have the same keys, in the order in which they are asked.

    `anchors`: the certificates that theirs must lead to, in PEM; empty until someone trusted them.
    """

    format: Literal["ioflt kmip provider"] = KMIP_FORMAT
    version: Literal[1] = VERSION
    name: Name
    uuid: Uuid
    servers: Annotated[tuple[KmipServer, ...], Meta(min_length=1, max_length=8)]
    anchors: Annotated[str, Meta(max_length=MAX_FILE // 2)] = ""
    timeout: Annotated[float, Meta(gt=0, le=60)] = 5.0


def write(file: KmipFile) -> bytes:
    """The file's bytes: JSON, one field a line."""
    return msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"


def parse(data: bytes) -> KmipFile:
    """A kmip provider's file. Raises MalformedError, UnsupportedError."""
    if len(data) > MAX_FILE:
        raise MalformedError("too large", f"{len(data)} bytes")
    value: Mapping[str, Any] = parse_object(data)
    if value.get("format") != KMIP_FORMAT:
        raise MalformedError("wrong format", f"not an {KMIP_FORMAT}")
    version = value.get("version")
    if version != VERSION or not isinstance(version, int) or isinstance(version, bool):
        raise UnsupportedError("unknown version", str(version)[:20])
    try:
        file = msgspec.convert(value, KmipFile)
    except msgspec.ValidationError as error:
        raise MalformedError("bad field", str(error)) from None
    if len({(server.host.lower(), server.port) for server in file.servers}) != len(file.servers):
        raise MalformedError("twice the same server")
    return file


def is_kmip(data: bytes) -> bool:
    """Whether a provider's file says that it is of this kind. It may be broken all the same."""
    try:
        return parse_object(data).get("format") == KMIP_FORMAT
    except MalformedError:
        return False
