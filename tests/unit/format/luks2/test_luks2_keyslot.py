"""Passphrase slots made and opened by ourselves; tests/interop has stock cryptsetup do the other half."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, MalformedError, UnsupportedError, UsageError
from ioflt.format.luks2 import af, header, keyslot
from ioflt.format.luks2.keyslot import AREA_SIZE, Argon2idCost, Pbkdf2Cost
from ioflt.format.luks2.layout import KEYSLOTS_OFFSET, KEYSLOTS_SIZE
from ioflt.format.luks2.token import IofltToken
from ioflt.types import KeyRef

DEK = Secret(hashlib.sha512(b"a test key").digest())
MADE = header.new(
    "6f9b0bfc-4757-4952-88c9-99092a4ffcba", DEK, IofltToken(KeyRef("local", "key-1"), True, bytes(92))
)
CHEAP = Argon2idCost(iterations=1, memory_kib=32, lanes=2)
PBKDF2 = {"type": "pbkdf2", "hash": "sha256", "iterations": 1000, "salt": "A" * 44}
PASSPHRASE = Secret("Über alles die Brücke".encode())


@pytest.mark.parametrize(
    "cost",
    [CHEAP, Argon2idCost(4, 64, 4), *(Pbkdf2Cost(name, 1000) for name in ("sha1", "sha256", "sha512"))],
)
def test_what_is_made_opens(cost: Argon2idCost | Pbkdf2Cost) -> None:
    added, offset, area = keyslot.make_keyslot(MADE, PASSPHRASE, DEK, cost)
    header.check_profile(added)
    assert (offset, len(area)) == (KEYSLOTS_OFFSET, AREA_SIZE)
    assert keyslot.area_of(added, 0) == keyslot.KeyslotArea(offset, AREA_SIZE)
    assert keyslot.open_keyslot(added, 0, area, PASSPHRASE) == DEK
    with pytest.raises(AuthenticationError, match="wrong passphrase"):
        keyslot.open_keyslot(added, 0, area, Secret(b"Uber alles die Brucke"))


def test_three_fit_and_a_freed_place_is_used_again() -> None:
    found = MADE
    offsets = []
    for _ in range(3):
        found, offset, _ = keyslot.make_keyslot(found, PASSPHRASE, DEK, CHEAP)
        offsets.append(offset)
    header.check_profile(found)
    assert offsets == [KEYSLOTS_OFFSET + n * AREA_SIZE for n in range(3)]
    assert offsets[-1] + AREA_SIZE <= KEYSLOTS_OFFSET + KEYSLOTS_SIZE
    with pytest.raises(UsageError, match="no room for another passphrase: 3"):
        keyslot.make_keyslot(found, PASSPHRASE, DEK, CHEAP)
    again, offset, _ = keyslot.make_keyslot(found.without_keyslot(1), PASSPHRASE, DEK, CHEAP)
    assert (offset, again.keyslots) == (offsets[1], (0, 1, 2))
    header.check_profile(again)


def test_a_key_of_another_container_gets_no_slot() -> None:
    with pytest.raises(AuthenticationError, match="wrong volume key"):
        keyslot.make_keyslot(MADE, PASSPHRASE, Secret.random(64), CHEAP)


def test_each_stripe_is_needed() -> None:
    added, _, area = keyslot.make_keyslot(MADE, PASSPHRASE, DEK, CHEAP)
    for offset in (0, 100_000, 255_999):
        damaged = bytearray(area)
        damaged[offset] ^= 1
        with pytest.raises(AuthenticationError):
            keyslot.open_keyslot(added, 0, bytes(damaged), PASSPHRASE)


@given(key=st.binary(min_size=64, max_size=64), stripes=st.integers(1, 20))
def test_stripes_merge_again(key: bytes, stripes: int) -> None:
    material = af.split(Secret(key), stripes)
    assert len(material) == 64 * stripes
    assert af.merge(material, stripes) == Secret(key)


@pytest.mark.parametrize(
    ("path", "value", "error", "reason"),
    [
        ("kdf", None, MalformedError, "bad keyslot"),
        ("kdf/salt", "", MalformedError, "bad keyslot"),
        ("kdf/salt", 5, MalformedError, "bad keyslot"),
        ("kdf/type", "argon2i", UnsupportedError, "unknown keyslot KDF"),
        ("kdf/memory", 8 << 20, MalformedError, "absurd keyslot cost"),
        ("kdf/memory", 15, MalformedError, "absurd keyslot cost"),
        ("kdf/time", 2**32, MalformedError, "absurd keyslot cost"),
        ("kdf/time", 0, MalformedError, "absurd keyslot cost"),
        ("kdf/cpus", 5, MalformedError, "absurd keyslot cost"),
        ("kdf/cpus", True, MalformedError, "absurd keyslot cost"),
        ("kdf/salt", "A" * 92, MalformedError, "bad keyslot"),
        ("kdf", PBKDF2 | {"iterations": 2**31}, MalformedError, "absurd keyslot cost"),
        ("kdf", PBKDF2 | {"iterations": "1000"}, MalformedError, "absurd keyslot cost"),
        ("kdf", PBKDF2 | {"hash": "md5"}, UnsupportedError, "unknown keyslot KDF"),
        ("kdf", PBKDF2 | {"hash": ["sha256"]}, UnsupportedError, "unknown keyslot KDF"),
        ("af/stripes", 1, UnsupportedError, "foreign keyslot"),
        ("af/hash", "sha512", UnsupportedError, "foreign keyslot"),
    ],
)
def test_a_forged_slot_is_refused(path: str, value: object, error: type[Exception], reason: str) -> None:
    added, _, area = keyslot.make_keyslot(MADE, PASSPHRASE, DEK, CHEAP)
    slot: dict[str, Any] = copy.deepcopy(added.metadata["keyslots"]["0"])
    *parents, last = path.split("/")
    inner = slot
    for name in parents:
        inner = inner[name]
    inner[last] = value
    forged = added.without_keyslot(0).with_keyslot(0, slot)
    with pytest.raises(error) as caught:
        keyslot.open_keyslot(forged, 0, area, PASSPHRASE)
    assert getattr(caught.value, "reason", None) == reason


def test_a_cut_area_and_a_missing_slot_are_said_so() -> None:
    added, _, area = keyslot.make_keyslot(MADE, PASSPHRASE, DEK, CHEAP)
    with pytest.raises(MalformedError, match="truncated keyslot"):
        keyslot.open_keyslot(added, 0, area[:1000], PASSPHRASE)
    with pytest.raises(UsageError, match="no keyslot 1"):
        keyslot.open_keyslot(added, 1, area, PASSPHRASE)
