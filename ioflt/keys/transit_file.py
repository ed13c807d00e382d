"""The transit provider's file: bytes ↔ frozen object. Layout, limits and reasons in SPEC.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from ioflt.errors import MalformedError, UnsupportedError
from ioflt.format.strict_json import parse_object
from ioflt.keys.kmip_file import Host
from ioflt.keys.native_file import MAX_FILE, Name, Uuid

TRANSIT_FORMAT: Final = "ioflt transit provider"
VERSION: Final = 1

Meta = msgspec.Meta

_SEGMENT = r"[0-9A-Za-z_][0-9A-Za-z_.-]*"  # so that none is `..`

#: Where an engine or a way to log in is on the server, and a name there: parts of a URL's path.
MountPath = Annotated[str, Meta(pattern=rf"^{_SEGMENT}(/{_SEGMENT})*\Z", max_length=250)]
ServerName = Annotated[str, Meta(pattern=rf"^{_SEGMENT}\Z", max_length=128)]
AbsolutePath = Annotated[str, Meta(pattern=r"^/[^\0]*\Z", max_length=4095)]


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class TokenLogin(_Struct, frozen=True, tag_field="kind", tag="token"):
    """By the token in a file, which stays where it is: an agent may renew it."""

    file: AbsolutePath


class CertificateLogin(_Struct, frozen=True, kw_only=True, tag_field="kind", tag="certificate"):
    """By the private key and client certificate in a PEM file, which stays where it is.

    `role`: which of the server's entries for certificates; empty: any that fits.
    """

    file: AbsolutePath
    mount: MountPath = "cert"
    role: Annotated[str, Meta(pattern=rf"^({_SEGMENT})?\Z", max_length=128)] = ""


Login: TypeAlias = TokenLogin | CertificateLogin


class TransitFile(_Struct, frozen=True, kw_only=True):
    """A key of a transit engine, under which KEKs are wrapped.

    `anchors`: the certificates that the server's must lead to, in PEM.
    """

    format: Literal["ioflt transit provider"] = TRANSIT_FORMAT
    version: Literal[1] = VERSION
    name: Name
    uuid: Uuid
    host: Host
    port: Annotated[int, Meta(ge=1, le=65535)]
    mount: MountPath = "transit"
    key: ServerName
    login: Login
    anchors: Annotated[str, Meta(min_length=1, max_length=MAX_FILE // 2)]
    timeout: Annotated[float, Meta(gt=0, le=60)] = 5.0

    @property
    def server(self) -> str:
        """As it is shown to people."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def write(file: TransitFile) -> bytes:
    """The file's bytes: JSON, one field a line."""
    return msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"


def parse(data: bytes) -> TransitFile:
    """A transit provider's file. Raises MalformedError, UnsupportedError."""
    if len(data) > MAX_FILE:
        raise MalformedError("too large", f"{len(data)} bytes")
    value: Mapping[str, Any] = parse_object(data)
    if value.get("format") != TRANSIT_FORMAT:
        raise MalformedError("wrong format", f"not an {TRANSIT_FORMAT}")
    version = value.get("version")
    if version != VERSION or not isinstance(version, int) or isinstance(version, bool):
        raise UnsupportedError("unknown version", str(version)[:20])
    try:
        return msgspec.convert(value, TransitFile)
    except msgspec.ValidationError as error:
        raise MalformedError("bad field", str(error)) from None


def is_transit(data: bytes) -> bool:
    """Whether a provider's file says that it is of this kind. It may be broken all the same."""
    try:
        return parse_object(data).get("format") == TRANSIT_FORMAT
    except MalformedError:
        return False
