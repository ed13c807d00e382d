"""A container's header: 32 KiB ↔ `Header`, the profile check, and the digest of the DEK.

`serialize(parse(x)) == x` when both copies of `x` are valid and agree: salts and JSON text are kept as found.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from ioflt.crypto.kdf import pbkdf2
from ioflt.crypto.rng import random_bytes
from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, BugError, CorruptDataError, UnsupportedError, UsageError
from ioflt.format.luks2 import binary, profile
from ioflt.format.luks2.layout import (
    CIPHER,
    DATA_OFFSET,
    HEADER_SIZE,
    HEADERS_SIZE,
    JSON_SIZE,
    KEY_SIZE,
    KEYSLOTS_SIZE,
)
from ioflt.format.luks2.profile import Digest
from ioflt.format.luks2.token import TYPE, IofltToken
from ioflt.format.strict_json import parse_object
from ioflt.types import SECTOR_SIZE

_DIGEST_ROUNDS = 1000  # cryptsetup's least; the DEK is random, so stretching it adds nothing


@dataclass(frozen=True)
class Header:
    """The newest valid copy of a header. `metadata` is the JSON `text` as objects, never changed in place.

    `salts` are the random 64 bytes of the primary and the secondary copy.
    """

    uuid: str
    sequence: int
    label: str
    subsystem: str
    salts: tuple[bytes, bytes] = field(repr=False)
    text: bytes = field(repr=False)
    metadata: dict[str, Any] = field(repr=False, compare=False)

    @cached_property
    def tokens(self) -> tuple[IofltToken, ...]:
        """The ioflt tokens, in order of their numbers. Raises MalformedError and UnsupportedError."""
        return profile.tokens(self.metadata)

    @property
    def thin(self) -> bool:
        """Whether a sector of zero ciphertext was never written. For a header that passed `check_profile`."""
        return self.tokens[0].thin

    @property
    def tagged(self) -> bool:
        """Whether its sectors have tags, in a file beside it. For a header that passed `check_profile`."""
        return self.tokens[0].tagged

    @property
    def keyslots(self) -> tuple[int, ...]:
        """The numbers of the passphrase slots."""
        return tuple(sorted(profile.numbered(self.metadata, "keyslots")))

    def with_sequence(self, sequence: int) -> Header:
        """The same header for its next write: another sequence number and, as cryptsetup does, new salts.

        Raises UnsupportedError when a forged header left no number to count to.
        """
        if sequence > binary.MAX_SEQUENCE:
            raise UnsupportedError("sequence exhausted")
        return replace(self, sequence=sequence, salts=_new_salts())

    def with_tokens(self, tokens: Iterable[IofltToken]) -> Header:
        """With these ioflt tokens in place of those it has; foreign tokens keep their numbers.

        Raises UsageError when they do not fit.
        """
        found = profile.numbered(self.metadata, "tokens")
        kept = {number: token for number, token in found.items() if token["type"] != TYPE}
        free = [number for number in range(profile.MAX_OBJECTS) if number not in kept]
        ours = [token.to_json() for token in tokens]
        if len(ours) > len(free):
            raise UsageError(f"a container holds at most {profile.MAX_OBJECTS} tokens")
        merged = dict(sorted((kept | dict(zip(free, ours, strict=False))).items()))
        return self._with("tokens", {str(number): token for number, token in merged.items()})

    def with_keyslot(self, number: int, keyslot: Mapping[str, Any]) -> Header:
        """With a new passphrase slot, bound to the digest. Raises UsageError when it does not fit."""
        if number in self.keyslots:
            raise BugError(f"keyslot {number} is taken")
        added = self._with("keyslots", {**self.metadata["keyslots"], str(number): dict(keyslot)})
        return added._with_digest_keyslots()

    def without_keyslot(self, number: int) -> Header:
        """Without that passphrase slot, whose area is still to be overwritten. Raises UsageError: no such."""
        if number not in self.keyslots:
            raise UsageError(f"there is no keyslot {number}")
        name = str(number)
        left = {key: value for key, value in self.metadata["keyslots"].items() if key != name}
        tokens = {
            key: token | {"keyslots": [slot for slot in token.get("keyslots", []) if slot != name]}
            for key, token in self.metadata["tokens"].items()
        }
        return self._with("keyslots", left)._with("tokens", tokens)._with_digest_keyslots()

    def _with_digest_keyslots(self) -> Header:
        entry = self.metadata["digests"]["0"] | {"keyslots": list(self.metadata["keyslots"])}
        return self._with("digests", {"0": entry})

    def with_metadata(self, metadata: dict[str, Any]) -> Header:
        """With other metadata, which the caller judges. Raises UsageError when it does not fit."""
        return replace(self, metadata=metadata, text=_to_text(metadata))

    def _with(self, section: str, value: dict[str, Any]) -> Header:
        return self.with_metadata(self.metadata | {section: value})


def new(uuid: str, dek: Secret, token: IofltToken) -> Header:
    """The header of a new container, sequence 1, that no passphrase opens yet. `dek` has 64 bytes."""
    if len(dek) != KEY_SIZE:
        raise BugError(f"a DEK has {KEY_SIZE} bytes")
    salt = random_bytes(32)
    with pbkdf2("sha256", dek, salt, _DIGEST_ROUNDS, 32) as value:
        digest = {
            "type": "pbkdf2",
            "keyslots": [],
            "segments": ["0"],
            "hash": "sha256",
            "iterations": _DIGEST_ROUNDS,
            "salt": b64encode(salt).decode(),
            "digest": b64encode(value.view()).decode(),
        }
    segment = {
        "type": "crypt",
        "offset": str(DATA_OFFSET),
        "size": "dynamic",
        "iv_tweak": "0",
        "encryption": CIPHER,
        "sector_size": SECTOR_SIZE,
    }
    metadata = {
        "keyslots": {},
        "tokens": {"0": token.to_json()},
        "segments": {"0": segment},
        "digests": {"0": digest},
        "config": {"json_size": str(JSON_SIZE), "keyslots_size": str(KEYSLOTS_SIZE)},
    }
    return Header(uuid, 1, "", "", _new_salts(), _to_text(metadata), metadata)


def parse(area: bytes) -> Header:
    """The newest valid copy in the first 32 KiB of a container; one valid copy is enough.

    Only structure and checksum are judged; `check_profile` follows before the container is used.
    Raises the primary copy's MalformedError or UnsupportedError when neither is valid.
    """
    primary = _parse_copy(area[:HEADER_SIZE], 0)
    texts = {primary.text: primary.metadata} if isinstance(primary, Header) else {}
    found = [primary, _parse_copy(area[HEADER_SIZE:HEADERS_SIZE], 1, texts)]
    valid = [result for result in found if isinstance(result, Header)]
    if not valid:
        raise next(result for result in found if isinstance(result, CorruptDataError))
    newest = max(valid, key=lambda header: header.sequence)
    return replace(newest, salts=(valid[0].salts[0], valid[-1].salts[0]))


def serialize(header: Header) -> tuple[bytes, bytes]:
    """The primary and the secondary copy, 16 KiB each."""
    common = (header.uuid, header.sequence, header.label, header.subsystem)
    primary, secondary = (
        binary.pack(binary.HeaderCopy(*common, header.salts[which], header.text), which) for which in (0, 1)
    )
    return primary, secondary


def check_profile(header: Header) -> None:
    """Raises UnsupportedError or MalformedError with the reason why we do not read such a container."""
    profile.check(header.metadata)


def is_recrypting(header: Header) -> bool:
    """Whether it is of our profile but for a recrypt in place under way. Raises as `check_profile`."""
    return profile.is_recrypting(header.metadata)


def verify_digest(header: Header, dek: Secret) -> None:
    """Raises AuthenticationError("wrong volume key") unless `dek` is this container's."""
    check_digest(digest_of(header), dek)


def digest_of(header: Header) -> Digest:
    """By what the container's DEK is recognised."""
    return profile.digest(header.metadata)


def check_digest(expected: Digest, dek: Secret) -> None:
    """Raises AuthenticationError("wrong volume key") unless `dek` is the one."""
    # PBKDF2 pads short keys with zeros and hashes long ones: without this, several keys would fit one digest
    if len(dek) != KEY_SIZE:
        raise AuthenticationError("wrong volume key", f"{len(dek)} bytes")
    with pbkdf2("sha256", dek, expected.salt, expected.rounds, 32) as value, Secret(expected.value) as known:
        if value != known:
            raise AuthenticationError("wrong volume key")


def _parse_copy(
    area: bytes, which: int, known: Mapping[bytes, dict[str, Any]] = MappingProxyType({})
) -> Header | CorruptDataError:
    """`known`: texts that were parsed already, as both copies mostly have the same."""
    try:
        copy = binary.unpack(area, which)
        metadata = known.get(copy.text) or parse_object(copy.text)
    except CorruptDataError as error:
        return error
    salts = (copy.salt, copy.salt)
    return Header(copy.uuid, copy.sequence, copy.label, copy.subsystem, salts, copy.text, metadata)


def _to_text(metadata: Mapping[str, Any]) -> bytes:
    text = json.dumps(metadata, separators=(",", ":")).encode()
    if len(text) >= JSON_SIZE:
        raise UsageError(f"the container's header is full: {len(text)} bytes of JSON")
    return text


def _new_salts() -> tuple[bytes, bytes]:
    return random_bytes(binary.SALT_SIZE), random_bytes(binary.SALT_SIZE)
