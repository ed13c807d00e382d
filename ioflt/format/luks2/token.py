"""The token of type `ioflt`: a DEK wrapped by a KEK, and what the wrapping binds."""

from __future__ import annotations

import binascii
import struct
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ioflt.crypto.mac import sha256
from ioflt.errors import MalformedError, UnsupportedError
from ioflt.format.luks2.layout import CIPHER, DATA_OFFSET, KEY_SIZE
from ioflt.types import MAX_KEY_ID, MAX_PROVIDER_NAME, SECTOR_SIZE, KeyRef

#: The `type` of our tokens in LUKS2 metadata.
TYPE = "ioflt"
#: The version of tokens of containers without tags, and with.
VERSION = 1
TAGGED_VERSION = 2

_AAD_LABEL = b"ioflt luks2 token "
_MAX_BLOB = 1024  # an AES-256-GCM blob has 92; a DEK wrapped to a public key has some hundred
_PROVISIONING = {True: "thin", False: "thick"}
#: The kind of tags, in words.
INTEGRITY = "hmac-sha256-128"
_FIELDS = {"type", "keyslots", "version", "provider", "key_id", "provisioning", "wrapped"}


@dataclass(frozen=True, slots=True)
class IofltToken:
    """`blob` is the DEK wrapped under a key derived from the KEK `key`, with `aad(uuid)` as associated data.

    `thin`: a sector whose ciphertext is all zero was never written. `tagged`: there is a file of tags.
    """

    key: KeyRef
    thin: bool
    blob: bytes = field(repr=False)
    tagged: bool = False

    def aad(self, uuid: str) -> bytes:
        """What the wrapped DEK of the container `uuid` is bound to."""
        return aad(uuid, self.thin, self.key, tagged=self.tagged)

    def to_json(self) -> dict[str, Any]:
        """The token as LUKS2 metadata."""
        made: dict[str, Any] = {
            "type": TYPE,
            "keyslots": [],
            "version": TAGGED_VERSION if self.tagged else VERSION,
            "provider": self.key.provider,
            "key_id": self.key.key_id,
            "provisioning": _PROVISIONING[self.thin],
        }
        if self.tagged:
            made["integrity"] = INTEGRITY
        return made | {"wrapped": b64encode(self.blob).decode()}

    @classmethod
    def from_json(cls, token: Mapping[str, Any]) -> IofltToken:
        """The token in LUKS2 metadata. Raises MalformedError("bad token") and UnsupportedError."""
        if "version" in token and token["version"] not in (VERSION, TAGGED_VERSION):
            raise UnsupportedError("unknown token version", repr(token["version"])[:40])
        tagged = token.get("version") == TAGGED_VERSION
        if tagged and token.get("integrity") != INTEGRITY:
            raise UnsupportedError("unknown integrity", repr(token.get("integrity"))[:40])
        if (
            set(token) - ({"integrity"} if tagged else set()) != _FIELDS
            or token["keyslots"] != []
            or type(token["version"]) is not int
        ):
            raise MalformedError("bad token", "fields")
        if token["provisioning"] not in _PROVISIONING.values():
            raise MalformedError("bad token", "provisioning")
        key = KeyRef(
            _text(token, "provider", MAX_PROVIDER_NAME),
            _text(token, "key_id", MAX_KEY_ID),
        )
        blob = base64_field(token["wrapped"], _MAX_BLOB, "bad token", "wrapped")
        if len(blob) <= KEY_SIZE:
            raise MalformedError("bad token", "wrapped key too short")
        return cls(key, token["provisioning"] == "thin", blob, tagged)


def aad(uuid: str, thin: bool, key: KeyRef, *, tagged: bool = False) -> bytes:
    """The associated data of a wrapped DEK, 32 bytes: a header in which any was changed does not unwrap.

    SHA-256 over the token's version, container UUID, cipher, sector size, data offset, thin or thick,
    provider and key id, and for a container with tags their kind, each with its length (32 bits, big endian)
    in front. Hashed: a long key id makes no long message to keyd.
    """
    version = TAGGED_VERSION if tagged else VERSION
    fields = (
        _AAD_LABEL + str(version).encode(),
        uuid.encode(),
        CIPHER.encode(),
        struct.pack(">Q", SECTOR_SIZE),
        struct.pack(">Q", DATA_OFFSET),
        _PROVISIONING[thin].encode(),
        key.provider.encode(),
        key.key_id.encode(),
        *([INTEGRITY.encode()] if tagged else []),
    )
    return sha256(b"".join(struct.pack(">I", len(part)) + part for part in fields))


def base64_field(value: object, limit: int, reason: str, detail: str) -> bytes:
    """The bytes, at most `limit`, of a canonical base64 string. Raises MalformedError(reason, detail)."""
    if not isinstance(value, str) or len(value) > limit * 4 // 3 + 4:
        raise MalformedError(reason, detail)
    try:
        data = b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedError(reason, detail) from None
    if len(data) > limit or b64encode(data).decode() != value:
        raise MalformedError(reason, detail)
    return data


def _text(token: Mapping[str, Any], name: str, limit: int) -> str:
    value = token[name]
    if not isinstance(value, str) or not 0 < len(value) <= limit or not value.isprintable():
        raise MalformedError("bad token", name)
    return value
