"""The transit provider's file: bytes ↔ frozen object. Layout, limits and reasons in SPEC.md."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from ioflt.keys import provider_file
from ioflt.keys.kmip.file import Host
from ioflt.keys.provider_file import MAX_FILE, VERSION, AbsolutePath, Meta, Name, Uuid, convert

TRANSIT_FORMAT: Final = "ioflt transit provider"
_SEGMENT = r"[0-9A-Za-z_][0-9A-Za-z_.-]*"  # so that none is `..`

#: Where an engine or a way to log in is on the server, and a name there: parts of a URL's path.
MountPath = Annotated[str, Meta(pattern=rf"^{_SEGMENT}(/{_SEGMENT})*\Z", max_length=250)]
ServerName = Annotated[str, Meta(pattern=rf"^{_SEGMENT}\Z", max_length=128)]


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


def parse(data: bytes) -> TransitFile:
    """A transit provider's file. Raises MalformedError, UnsupportedError."""
    return convert(provider_file.parse(data, TRANSIT_FORMAT), TransitFile)
