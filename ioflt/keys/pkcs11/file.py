"""The pkcs11 provider's file: bytes ↔ frozen object. Layout, limits and reasons in SPEC.md."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from ioflt.keys import provider_file
from ioflt.keys.provider_file import VERSION, AbsolutePath, Meta, Name, Uuid, convert

PKCS11_FORMAT: Final = "ioflt pkcs11 provider"

#: Seconds for each answer of the module unless the file says otherwise: some tokens take several to log in.
TIMEOUT: Final = 10.0

#: CK_TOKEN_INFO has room for 32 bytes of a label, filled up with spaces.
TokenLabel = Annotated[str, Meta(pattern=r"^[^\0-\x1f\x7f]{0,31}[^\0- \x7f]\Z")]
KeyLabel = Annotated[str, Meta(pattern=r"^[^\0-\x1f\x7f]{1,255}\Z")]

#: A variable of the environment, by which modules are told where their configuration is.
Variable = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}\Z")]
Value = Annotated[str, Meta(pattern=r"^[^\0]*\Z", max_length=4095)]


class Pkcs11File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A key of a token, under which KEKs are wrapped.

    `pin_file`: where the PIN is read, which stays there; None: a person gives it. `environment`: what the
    module finds in its environment.
    """

    format: Literal["ioflt pkcs11 provider"] = PKCS11_FORMAT
    version: Literal[1] = VERSION
    name: Name
    uuid: Uuid
    module: AbsolutePath
    token: TokenLabel
    key: KeyLabel
    pin_file: AbsolutePath | None
    environment: Annotated[dict[Variable, Value], Meta(max_length=16)] = {}
    timeout: Annotated[float, Meta(gt=0, le=60)] = TIMEOUT


def parse(data: bytes) -> Pkcs11File:
    """A pkcs11 provider's file. Raises MalformedError, UnsupportedError."""
    return convert(provider_file.parse(data, PKCS11_FORMAT), Pkcs11File)
