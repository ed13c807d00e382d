"""The kmip provider's file: bytes ↔ frozen object. Layout, limits and reasons in SPEC.md."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from ioflt.errors import MalformedError
from ioflt.keys import provider_file
from ioflt.keys.provider_file import MAX_FILE, VERSION, Meta, Name, Uuid, convert

KIND: Final = "kmip"
KMIP_FORMAT: Final = "ioflt kmip provider"

#: The port that IANA gave to KMIP.
PORT: Final = 5696

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


def parse(data: bytes) -> KmipFile:
    """A kmip provider's file. Raises MalformedError, UnsupportedError."""
    file = convert(provider_file.parse(data, KMIP_FORMAT), KmipFile)
    if len({(server.host.lower(), server.port) for server in file.servers}) != len(file.servers):
        raise MalformedError("twice the same server")
    return file
