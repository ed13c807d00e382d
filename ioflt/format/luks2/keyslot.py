"""Passphrase slots, as stock cryptsetup makes and opens them: passphrase → KDF → area key → stripes → DEK."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from ioflt.crypto.kdf import HashName, argon2id, pbkdf2
from ioflt.crypto.rng import random_bytes
from ioflt.crypto.secret import Secret
from ioflt.crypto.xts import xts_area_decrypt, xts_area_encrypt
from ioflt.errors import AuthenticationError, MalformedError, UnsupportedError, UsageError
from ioflt.format.luks2 import af, profile
from ioflt.format.luks2.header import Header, verify_digest
from ioflt.format.luks2.layout import CIPHER, KEY_SIZE, KEYSLOTS_OFFSET, KEYSLOTS_SIZE
from ioflt.format.luks2.profile import STRIPES, KeyslotArea
from ioflt.format.luks2.token import base64_field

#: Bytes of a slot's area: 4000 stripes of a 64-byte key, rounded up to 4096.
AREA_SIZE = 258048

_MATERIAL = KEY_SIZE * STRIPES
_SALT_SIZE = 32

# Bounds on what a slot may cost whoever opens it: for memory and lanes the most that cryptsetup accepts
# (4 GiB, 4), for time some minutes, where cryptsetup aims at two seconds.
_MAX_MEMORY_KIB = 4 << 20
_MAX_LANES = 4
_MAX_KIB_PASSES = 1 << 28
_MAX_ROUNDS = 1 << 28


@dataclass(frozen=True, slots=True)
class Argon2idCost:
    """Argon2id: passes over memory, KiB of memory, lanes."""

    iterations: int
    memory_kib: int
    lanes: int


@dataclass(frozen=True, slots=True)
class Pbkdf2Cost:
    """PBKDF2-HMAC with a hash, and its rounds."""

    hash_name: HashName
    rounds: int


#: The memory-constrained choice of RFC 9106, with one pass more because cryptsetup wants at least four.
#: A home has a slot in each file, so this is paid per file: about 0.2 s, where cryptsetup would take 2 s.
RECOVERY_COST = Argon2idCost(iterations=4, memory_kib=65536, lanes=4)


def make_keyslot(
    header: Header,
    passphrase: Secret,
    dek: Secret,
    cost: Argon2idCost | Pbkdf2Cost = RECOVERY_COST,
    *,
    avoid: Iterable[KeyslotArea] = (),
) -> tuple[Header, int, bytes]:
    """The header with a new slot, and where (offset in the container) which area bytes go.

    The area is written before the header, and lies over none of `avoid`. Raises UsageError when all three
    places are taken, and AuthenticationError when `dek` is not this container's.
    """
    verify_digest(header, dek)
    number = next(n for n in range(profile.MAX_OBJECTS) if n not in header.keyslots)
    offset = _free_area([*(area_of(header, slot) for slot in header.keyslots), *avoid])
    salt = random_bytes(_SALT_SIZE)
    keyslot = {
        "type": "luks2",
        "key_size": KEY_SIZE,
        "af": {"type": "luks1", "stripes": STRIPES, "hash": "sha256"},
        "area": {
            "type": "raw",
            "offset": str(offset),
            "size": str(AREA_SIZE),
            "encryption": CIPHER,
            "key_size": KEY_SIZE,
        },
        "kdf": _cost_to_json(cost) | {"salt": b64encode(salt).decode()},
    }
    added = header.with_keyslot(number, keyslot)
    with _stretch(cost, passphrase, salt, KEY_SIZE) as area_key, af.split(dek, STRIPES) as material:
        xts_area_encrypt(area_key, material.buffer(), 0)
        return added, offset, bytes(material.view()) + random_bytes(AREA_SIZE - _MATERIAL)


def open_keyslot(header: Header, number: int, area: bytes, passphrase: Secret) -> Secret:
    """The DEK that slot `number` holds; `area` are the bytes at `area_of(header, number)`.

    Raises AuthenticationError("wrong passphrase"), UnsupportedError for a slot that only stock cryptsetup
    reads, MalformedError, and UsageError when there is no such slot.
    """
    keyslot = _keyslot(header, number)
    cost, salt = _cost_from_json(keyslot.get("kdf"))
    if keyslot.get("af") != {"type": "luks1", "stripes": STRIPES, "hash": "sha256"}:
        raise UnsupportedError("foreign keyslot", "stripes")
    if len(area) < _MATERIAL:
        raise MalformedError("truncated keyslot")
    with (
        _stretch(cost, passphrase, salt, keyslot["area"]["key_size"]) as area_key,
        Secret(area[:_MATERIAL]) as material,
    ):
        xts_area_decrypt(area_key, material.buffer(), 0)
        dek = af.merge(material, STRIPES)
    try:
        verify_digest(header, dek)
    except AuthenticationError:
        dek.wipe()
        raise AuthenticationError("wrong passphrase") from None
    return dek


def has_room(header: Header) -> bool:
    """Whether `make_keyslot` finds a place for one more."""
    try:
        _free_area(area_of(header, number) for number in header.keyslots)
    except UsageError:
        return False
    return True


def area_of(header: Header, number: int) -> KeyslotArea:
    """Where slot `number` keeps its material: what is overwritten when the slot is removed."""
    return profile.keyslot_area(_keyslot(header, number))


def _keyslot(header: Header, number: int) -> Mapping[str, Any]:
    found = profile.numbered(header.metadata, "keyslots")
    if number not in found:
        raise UsageError(f"there is no keyslot {number}")
    return found[number]


def _free_area(taken: Iterable[KeyslotArea]) -> int:
    """The first gap of the keyslots area that holds a slot."""
    taken = sorted(taken, key=lambda area: area.offset)
    offset = KEYSLOTS_OFFSET
    for area in taken:
        if area.offset - offset >= AREA_SIZE:
            break
        offset = area.offset + area.size
    if offset + AREA_SIZE > KEYSLOTS_OFFSET + KEYSLOTS_SIZE:
        raise UsageError(f"no room for another passphrase: {len(taken)} are there")
    return offset


def _stretch(cost: Argon2idCost | Pbkdf2Cost, passphrase: Secret, salt: bytes, length: int) -> Secret:
    if isinstance(cost, Pbkdf2Cost):
        return pbkdf2(cost.hash_name, passphrase, salt, cost.rounds, length)
    return argon2id(
        passphrase,
        salt,
        iterations=cost.iterations,
        lanes=cost.lanes,
        memory_kib=cost.memory_kib,
        length=length,
    )


def _cost_to_json(cost: Argon2idCost | Pbkdf2Cost) -> dict[str, Any]:
    if isinstance(cost, Pbkdf2Cost):
        return {"type": "pbkdf2", "hash": cost.hash_name, "iterations": cost.rounds}
    return {"type": "argon2id", "time": cost.iterations, "memory": cost.memory_kib, "cpus": cost.lanes}


def _cost_from_json(kdf: object) -> tuple[Argon2idCost | Pbkdf2Cost, bytes]:
    if not isinstance(kdf, dict):
        raise MalformedError("bad keyslot", "kdf")
    salt = base64_field(kdf.get("salt"), 64, "bad keyslot", "salt")
    if len(salt) < 8:
        raise MalformedError("bad keyslot", "salt")
    if kdf.get("type") == "argon2id":
        lanes = _number(kdf, "cpus", 1, _MAX_LANES)
        memory = _number(kdf, "memory", 8 * lanes, _MAX_MEMORY_KIB)
        return Argon2idCost(_number(kdf, "time", 1, _MAX_KIB_PASSES // memory), memory, lanes), salt
    if kdf.get("type") == "pbkdf2":
        for hash_name in get_args(HashName):
            if kdf.get("hash") == hash_name:
                return Pbkdf2Cost(hash_name, _number(kdf, "iterations", 1, _MAX_ROUNDS)), salt
    raise UnsupportedError("unknown keyslot KDF", f"{kdf.get('type')} {kdf.get('hash')}"[:60])


def _number(kdf: Mapping[str, Any], name: str, least: int, most: int) -> int:
    value = kdf.get(name)
    if type(value) is not int or not least <= value <= most:
        raise MalformedError("absurd keyslot cost", name)
    return value
