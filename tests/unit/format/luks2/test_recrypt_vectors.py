"""Each vector of tests/vectors/recrypt gives what its header lines say; damage gives named errors only."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.crypto.kdf import hkdf
from ioflt.crypto.secret import Secret
from ioflt.crypto.wrap import unwrap
from ioflt.errors import AuthenticationError, CorruptDataError, UnsupportedError, UsageError
from ioflt.format.luks2 import header, recrypt, sidecar
from ioflt.format.luks2.layout import DATA_OFFSET, HEADERS_SIZE
from ioflt.format.luks2.sidecar import SLOT_OFFSETS, SLOT_SIZE, Slot
from ioflt.format.luks2.token import IofltToken
from ioflt.testing.vectors import Vector, read

ROOT = Path(__file__).parents[4]
VECTORS = read(ROOT / "tests/vectors/recrypt")


def unwrapped(token: IofltToken, uuid: str, kek: Secret) -> Secret:
    return unwrap(hkdf(kek, "dek-wrap"), token.blob, token.aad(uuid))


def resumed(area: bytes, kek: Secret) -> tuple[Secret, Secret, Slot]:
    """What a recrypt that goes on reads first."""
    found = header.parse(area[:HEADERS_SIZE])
    change = recrypt.of(found)
    if change is None:
        raise UnsupportedError("no recrypt")
    old = unwrapped(found.tokens[0], found.uuid, kek)
    new = unwrapped(change.tokens[0], change.uuid, kek)
    header.verify_digest(found, old)
    header.verify_digest(recrypt.end(found, change), new)
    beside = area[DATA_OFFSET:]
    slots = [beside[offset : offset + SLOT_SIZE] for offset in SLOT_OFFSETS]
    for slot in sidecar.load(*slots, sidecar.mac_key(old, new, found.uuid, change.uuid)):
        start = sidecar.journal_offset(slot.sequence, slot.segment)
        if sidecar.has_journal(slot, beside[start : start + slot.hot]):
            return old, new, slot
    raise AuthenticationError("no valid recrypt journal")


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_vector(vector: Vector) -> None:
    kek = Secret(bytes.fromhex(vector.headers["kek"]))
    if vector.expect != "ok":
        with pytest.raises(CorruptDataError) as caught:
            resumed(vector.body, kek)
        assert caught.value.reason == vector.expect
        return
    old, new, slot = resumed(vector.body, kek)
    assert hashlib.sha256(old.view()).hexdigest() == vector.headers["dek"]
    assert hashlib.sha256(new.view()).hexdigest() == vector.headers["new-dek"]
    assert f"{slot.sequence} {slot.done} {slot.hot}" == vector.headers["slot"]


def test_most_vectors_fail() -> None:
    failing = [vector for vector in VECTORS if vector.expect != "ok"]
    assert len(failing) > 3 * len(VECTORS) // 4


@pytest.mark.parametrize("vector", [one for one in VECTORS if one.expect == "ok"], ids=lambda one: one.name)
def test_nobody_opens_it_meanwhile_and_everybody_afterwards(vector: Vector) -> None:
    found = header.parse(vector.body[:HEADERS_SIZE])
    with pytest.raises(UnsupportedError, match="recrypt under way"):
        header.check_profile(found)
    change = recrypt.of(found)
    assert change is not None
    ended = recrypt.end(found, change)
    header.check_profile(ended)
    assert (ended.uuid, ended.sequence, ended.tokens) == (change.uuid, found.sequence + 1, change.tokens)
    assert ended.keyslots == tuple(int(number) for number in change.slots)


def test_begin_and_end_keep_what_is_not_theirs() -> None:
    vector = next(one for one in VECTORS if one.name == "begun")
    begun = header.parse(vector.body[:HEADERS_SIZE])
    change = recrypt.of(begun)
    assert change is not None
    metadata = {
        **begun.metadata,
        "tokens": {
            "0": begun.metadata["tokens"]["0"],
            "4": {"type": "other", "keyslots": []},
            "7": {"type": "opens-a-slot", "keyslots": ["0"]},
        },
        "config": {"json_size": "12288", "keyslots_size": "786432", "flags": ["allow-discards"]},
    }
    plain = begun.with_metadata(metadata)
    again = recrypt.begin(plain, change)
    assert recrypt.of(again) == change
    assert recrypt.of(plain) is None
    ended = recrypt.end(again, change)
    assert [token["type"] for token in ended.metadata["tokens"].values()] == ["ioflt", "other"]
    assert ended.metadata["config"] == metadata["config"]
    assert recrypt.Recrypt.to(ended) == change


def test_a_header_without_room_is_refused() -> None:
    vector = next(one for one in VECTORS if one.name == "begun")
    begun = header.parse(vector.body[:HEADERS_SIZE])
    change = recrypt.of(begun)
    assert change is not None
    tokens = {str(number): begun.metadata["tokens"]["0"] for number in range(32)}
    full = begun.with_metadata({**begun.metadata, "tokens": tokens, "config": {}})
    with pytest.raises(UsageError, match="at most 32 tokens"):
        recrypt.begin(full, change)


def test_the_bytes_of_the_spec_are_those_of_the_vector() -> None:
    beside = next(one.body for one in VECTORS if one.name == "begun")[DATA_OFFSET:]
    text = (ROOT / "ioflt/format/luks2/SPEC.md").read_text()
    (dump,) = re.findall(r"```\n((?:[0-9a-f]{4}  .*\n)+)```\n\n\(The vector `recrypt", text)
    for line in dump.splitlines():
        start = SLOT_OFFSETS[1] + int(line[:4], 16)
        assert bytes.fromhex(line[6:53]) == beside[start : start + 16]


@given(
    changes=st.lists(
        st.tuples(st.integers(0, 200) | st.integers(4096, 8192), st.integers(0, 255)), min_size=1, max_size=8
    )
)
def test_damaged_slots_give_named_errors(changes: list[tuple[int, int]]) -> None:
    vector = next(one for one in VECTORS if one.name == "hot")
    area = bytearray(vector.body)
    for offset, value in changes:
        area[DATA_OFFSET + offset] = value
        area[DATA_OFFSET + SLOT_OFFSETS[1] + offset] ^= value
    try:
        _, _, slot = resumed(bytes(area), Secret(bytes.fromhex(vector.headers["kek"])))
    except CorruptDataError:
        return
    assert slot.sequence in (1, 2)
