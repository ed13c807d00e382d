"""The one LUKS2 profile that is accepted: an allow-list over the metadata.

What stock cryptsetup adds to a container of ours (keyslots, their digest entries, foreign tokens) passes;
whatever would change where or how the data lies is refused by name. Nothing here checks the cost of a
keyslot's KDF: that is done when a slot is opened, so that a slot too dear does not close the container.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ioflt.errors import MalformedError, UnsupportedError
from ioflt.format.luks2.layout import (
    CIPHER,
    DATA_OFFSET,
    JSON_SIZE,
    KEY_SIZE,
    KEYSLOTS_OFFSET,
    KEYSLOTS_SIZE,
)
from ioflt.format.luks2.token import TYPE, IofltToken, base64_field
from ioflt.types import SECTOR_SIZE

#: Most keyslots, and most tokens, that LUKS2 allows; they are numbered from 0.
MAX_OBJECTS = 32
#: Anti-forensic stripes of a keyslot, fixed by LUKS2.
STRIPES = 4000

_SECTIONS = {"keyslots", "tokens", "segments", "digests", "config"}
_SEGMENT_FIELDS = {"type", "offset", "size", "iv_tweak", "encryption", "sector_size"}
_CONFIG_FIELDS = {"json_size", "keyslots_size", "flags", "requirements"}
#: What `cryptsetup open --persistent` may store: hints to dm-crypt, without effect on the bytes.
_HARMLESS_FLAGS = {
    "allow-discards",
    "same-cpu-crypt",
    "submit-from-crypt-cpus",
    "no-journal",
    "no-read-workqueue",
    "no-write-workqueue",
    "high-priority",
}
# a tuple: what a forged header has there need not be hashable
_REENCRYPT_AREAS = ("none", "journal", "checksum", "datashift", "datashift-journal", "datashift-checksum")
#: What keeps stock cryptsetup, and every other reader, from a container that is being recrypted in place.
RECRYPT_REQUIREMENT = "ioflt-recrypt-v1"
#: The `type` of the token that says what such a container becomes.
RECRYPT_TYPE = "ioflt-recrypt"
_MAX_DIGEST_ROUNDS = 1 << 20  # a DEK needs no stretching; what asks for more only costs time
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,19}")


@dataclass(frozen=True, slots=True)
class Digest:
    """The PBKDF2-SHA-256 digest by which a DEK is recognised; `value` has 32 bytes."""

    salt: bytes
    rounds: int
    value: bytes


@dataclass(frozen=True, slots=True)
class KeyslotArea:
    """Where a keyslot's material lies: offset in the container and size, in bytes."""

    offset: int
    size: int


def check(metadata: Mapping[str, Any]) -> None:
    """Raises UnsupportedError or MalformedError with the first reason why this is not of the profile."""
    if is_recrypting(metadata):
        raise UnsupportedError("recrypt under way")


def is_recrypting(metadata: Mapping[str, Any]) -> bool:
    """Whether this is of the profile but for a recrypt in place under way. Raises as `check`.

    What the container becomes is for `recrypt` to judge.
    """
    for name in _SECTIONS:
        _object(metadata, name)
    if set(metadata) != _SECTIONS:
        raise UnsupportedError("unknown section", ", ".join(sorted(set(metadata) - _SECTIONS))[:80])
    required = _check_config(metadata["config"])
    _check_keyslots(metadata)
    _check_segments(metadata["segments"])
    digest(metadata)
    for token in numbered(metadata, "tokens").values():
        _names(token.get("keyslots"))
    ours = tokens(metadata)
    if not ours:
        raise UnsupportedError("no ioflt token")
    if len({token.thin for token in ours}) != 1:
        raise MalformedError("tokens disagree", "thin and thick")
    if len({token.tagged for token in ours}) != 1:
        raise MalformedError("tokens disagree", "with and without tags")
    changes = [token for token in numbered(metadata, "tokens").values() if token["type"] == RECRYPT_TYPE]
    if len(changes) != int(required):
        raise MalformedError("bad recrypt state", f"{len(changes)} tokens, requirement: {required}")
    return required


def tokens(metadata: Mapping[str, Any]) -> tuple[IofltToken, ...]:
    """The ioflt tokens, in order of their numbers."""
    found = numbered(metadata, "tokens")
    return tuple(IofltToken.from_json(token) for _, token in sorted(found.items()) if token["type"] == TYPE)


def numbered(metadata: Mapping[str, Any], section: str) -> dict[int, dict[str, Any]]:
    """The objects of a section by number; each is an object with a `type`. Raises MalformedError."""
    made = {}
    for name in _object(metadata, section):
        if not _DECIMAL.fullmatch(name) or int(name) >= MAX_OBJECTS:
            raise MalformedError("bad object number", f"{section} {name[:20]!r}")
        item = _object(metadata[section], name)
        if not isinstance(item.get("type"), str):
            raise MalformedError("bad field", f"{section} {name} type")
        made[int(name)] = item
    return made


def digest(metadata: Mapping[str, Any]) -> Digest:
    """The one digest. Raises MalformedError and UnsupportedError."""
    found = numbered(metadata, "digests")
    if set(found) != {0}:
        raise UnsupportedError("foreign digest", f"{len(found)} digests")
    entry = found[0]
    if entry["type"] != "pbkdf2" or entry.get("hash") != "sha256":
        raise UnsupportedError("foreign digest", "not PBKDF2 with SHA-256")
    if entry.get("segments") != ["0"]:
        raise MalformedError("bad digest", "segments")
    if _names(entry.get("keyslots")) != set(_object(metadata, "keyslots")):
        raise MalformedError("bad digest", "keyslots")
    rounds = entry.get("iterations")
    if type(rounds) is not int or not 0 < rounds <= _MAX_DIGEST_ROUNDS:
        raise MalformedError("bad digest", "iterations")
    value = base64_field(entry.get("digest"), 64, "bad digest", "value")
    if len(value) != 32:
        raise MalformedError("bad digest", "value")
    return Digest(base64_field(entry.get("salt"), 64, "bad digest", "salt"), rounds, value)


def keyslot_area(keyslot: Mapping[str, Any]) -> KeyslotArea:
    """Where a keyslot's material lies. Raises MalformedError when that is outside the keyslots area."""
    area = _object(keyslot, "area")
    made = KeyslotArea(_decimal(area, "offset"), _decimal(area, "size"))
    if made.offset % SECTOR_SIZE or made.size % SECTOR_SIZE:
        raise MalformedError("bad keyslot area", "alignment")
    if made.offset < KEYSLOTS_OFFSET or made.offset + made.size > KEYSLOTS_OFFSET + KEYSLOTS_SIZE:
        raise MalformedError("keyslot outside its area", f"{made.offset}+{made.size}")
    return made


def _check_config(config: Mapping[str, Any]) -> bool:
    """Whether it has the requirement of a recrypt."""
    requirements = config.get("requirements", {})
    if not isinstance(requirements, dict) or not isinstance(requirements.get("mandatory", []), list):
        raise MalformedError("bad field", "config requirements")
    required: bool = requirements.get("mandatory", []) == [RECRYPT_REQUIREMENT]
    mandatory = ", ".join(sorted(_names(requirements.get("mandatory", []))))
    if "reencrypt" in mandatory:
        raise UnsupportedError("re-encryption state", mandatory[:80])
    if mandatory and not required:
        raise UnsupportedError("unknown requirement", mandatory[:80])
    unknown = _names(config.get("flags", [])) - _HARMLESS_FLAGS
    if unknown or set(requirements) - {"mandatory"} or set(config) - _CONFIG_FIELDS:
        raise UnsupportedError("unknown flag", ", ".join(sorted(unknown))[:80])
    if _decimal(config, "json_size") != JSON_SIZE:
        raise UnsupportedError("foreign JSON size")
    if _decimal(config, "keyslots_size") != KEYSLOTS_SIZE:
        raise UnsupportedError("foreign keyslots size")
    return required


def _check_segments(segments: Mapping[str, Any]) -> None:
    for name in segments:
        flags = _names(_object(segments, name).get("flags", []))
        if any(flag.startswith(("backup-", "in-reencryption")) for flag in flags):
            raise UnsupportedError("re-encryption state", "segment flags")
        if flags:
            raise UnsupportedError("unknown flag", ", ".join(sorted(flags))[:80])
    if set(segments) != {"0"}:
        raise UnsupportedError("foreign segments", f"{len(segments)} segments")
    segment = segments["0"]
    if segment.get("type") != "crypt":
        raise UnsupportedError("foreign segment type", str(segment.get("type"))[:40])
    if set(segment) - _SEGMENT_FIELDS - {"flags"}:
        raise UnsupportedError("unknown segment field")
    _check_cipher(segment.get("encryption"))
    if _decimal(segment, "offset") != DATA_OFFSET:
        raise UnsupportedError("foreign data offset", segment["offset"])
    if segment.get("size") != "dynamic":
        raise UnsupportedError("foreign data size")
    if _decimal(segment, "iv_tweak") != 0:
        raise UnsupportedError("foreign iv tweak")
    if type(segment.get("sector_size")) is not int or segment["sector_size"] != SECTOR_SIZE:
        raise UnsupportedError("foreign sector size", str(segment.get("sector_size"))[:20])


def _check_keyslots(metadata: Mapping[str, Any]) -> None:
    end = 0
    areas = []
    for number, keyslot in numbered(metadata, "keyslots").items():
        area = _object(keyslot, "area")
        if keyslot["type"] == "reencrypt" or area.get("type") in _REENCRYPT_AREAS:
            raise UnsupportedError("re-encryption state", f"keyslot {number}")
        if keyslot["type"] != "luks2" or area.get("type") != "raw":
            raise UnsupportedError("foreign keyslot", str(number))
        _check_cipher(area.get("encryption"))
        sizes = (keyslot.get("key_size"), area.get("key_size"))
        if sizes not in ((KEY_SIZE, 32), (KEY_SIZE, KEY_SIZE)) or float in map(type, sizes):  # 64.0 == 64
            raise UnsupportedError("foreign key size", f"keyslot {number}")
        areas.append(keyslot_area(keyslot))
    for place in sorted(areas, key=lambda place: place.offset):
        if place.size < KEY_SIZE * STRIPES:
            raise MalformedError("bad keyslot area", "too small")
        if place.offset < end:
            raise MalformedError("keyslots overlap")
        end = place.offset + place.size


def _check_cipher(encryption: object) -> None:
    if isinstance(encryption, str) and "null" in encryption:
        raise UnsupportedError("null cipher", encryption[:40])
    if encryption != CIPHER:
        raise UnsupportedError("foreign cipher", str(encryption)[:40])


def _object(parent: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = parent.get(name)
    if not isinstance(value, dict):
        raise MalformedError("bad field", name[:40])
    return value


def _names(values: object) -> set[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise MalformedError("bad field", "list of names")
    return set(values)


def _decimal(parent: Mapping[str, Any], name: str) -> int:
    """LUKS2 writes 64-bit numbers as decimal strings."""
    value = parent.get(name)
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value) or int(value) >= 2**64:
        raise MalformedError("bad field", name)
    return int(value)
