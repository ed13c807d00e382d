"""Headers: made, changed, written and read again."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, BugError, MalformedError, UnsupportedError, UsageError
from ioflt.format.luks2 import header
from ioflt.format.luks2.layout import BINARY_SIZE, HEADER_SIZE
from ioflt.format.luks2.token import IofltToken, aad
from ioflt.types import KeyRef

UUID = "6f9b0bfc-4757-4952-88c9-99092a4ffcba"
DEK = Secret(hashlib.sha512(b"a test key").digest())
TOKEN = IofltToken(KeyRef("local", "key-1"), True, bytes(range(92)))
SLOT = {"type": "luks2", "key_size": 64, "area": {"type": "raw", "offset": "32768", "size": "258048"}}

printable = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=40)
keys = st.builds(KeyRef, printable, printable)
tokens = st.builds(IofltToken, keys, st.booleans(), st.binary(min_size=65, max_size=300))


@pytest.fixture
def made() -> header.Header:
    return header.new(UUID, DEK, TOKEN)


def area(made: header.Header) -> bytes:
    return b"".join(header.serialize(made))


@given(found=st.lists(tokens, min_size=1, max_size=4), sequence=st.integers(1, 2**63 - 1))
def test_round_trip(found: list[IofltToken], sequence: int) -> None:
    made = header.new(UUID, DEK, found[0]).with_tokens(found).with_sequence(sequence)
    written = area(made)
    read = header.parse(written)
    assert read == made
    assert read.tokens == tuple(found)
    assert area(read) == written


def test_a_new_header_is_of_the_profile(made: header.Header) -> None:
    header.check_profile(made)
    header.verify_digest(made, DEK)
    assert (made.sequence, made.thin, made.keyslots, made.tokens) == (1, True, (), (TOKEN,))


def test_foreign_json_is_kept_byte_for_byte(made: header.Header) -> None:
    """What others wrote is not reformatted, as long as nothing in it is changed."""
    text = json.dumps(made.metadata, indent=1).replace("1000", "1000 ").encode()
    loose = header.Header(UUID, 7, "a label", "a=b", made.salts, text, json.loads(text))
    assert area(header.parse(area(loose))) == area(loose)


def test_salts_of_a_lost_copy_are_replaced(made: header.Header) -> None:
    primary, secondary = header.serialize(made)
    assert header.parse(bytes(HEADER_SIZE) + secondary).salts == (made.salts[1],) * 2
    assert header.parse(primary + bytes(HEADER_SIZE)).salts == (made.salts[0],) * 2


def test_each_write_has_new_salts(made: header.Header) -> None:
    assert set(made.salts).isdisjoint(made.with_sequence(2).salts)


def test_the_newer_copy_counts(made: header.Header) -> None:
    newer = made.with_tokens([TOKEN, TOKEN]).with_sequence(2)
    old, new = header.serialize(made), header.serialize(newer)
    assert header.parse(old[0] + new[1]).text == newer.text
    assert header.parse(new[0] + old[1]).text == newer.text


def test_keyslots_come_and_go_with_their_names(made: header.Header) -> None:
    bound = made.metadata["tokens"] | {"3": {"type": "systemd-fido2", "keyslots": ["0", "1"]}}
    made = made._with("tokens", bound)
    two = made.with_keyslot(0, SLOT).with_keyslot(1, SLOT)
    assert two.keyslots == (0, 1)
    assert two.metadata["digests"]["0"]["keyslots"] == ["0", "1"]
    one = two.without_keyslot(0)
    assert one.keyslots == (1,)
    assert one.metadata["digests"]["0"]["keyslots"] == ["1"]
    assert one.metadata["tokens"]["3"]["keyslots"] == ["1"]
    assert two.keyslots == (0, 1), "headers are never changed in place"
    with pytest.raises(UsageError):
        one.without_keyslot(0)
    with pytest.raises(BugError):
        one.with_keyslot(1, SLOT)


def test_tokens_leave_foreign_ones_their_numbers(made: header.Header) -> None:
    foreign = {"type": "systemd-tpm2", "keyslots": []}
    made = made._with("tokens", {"0": foreign, "2": TOKEN.to_json()})
    other = IofltToken(KeyRef("kms", "k"), True, bytes(100))
    changed = made.with_tokens([TOKEN, other])
    assert changed.metadata["tokens"]["0"] == foreign
    assert list(changed.metadata["tokens"]) == ["0", "1", "2"]
    assert changed.tokens == (TOKEN, other)
    with pytest.raises(UsageError, match="at most 32"):
        made.with_tokens([TOKEN] * 32)


def test_a_full_header_is_said_so(made: header.Header) -> None:
    with pytest.raises(UsageError, match="header is full"):
        made.with_tokens([IofltToken(KeyRef("a", "k" * 1024), True, bytes(92))] * 20)


def test_a_forged_sequence_does_not_roll_over(made: header.Header) -> None:
    last = header.parse(area(made.with_sequence(2**63 - 1)))
    with pytest.raises(UnsupportedError, match="sequence exhausted"):
        last.with_sequence(last.sequence + 1)


@pytest.mark.parametrize("length", [0, 32, 63, 65, 128])
def test_a_key_of_another_length_never_fits_the_digest(made: header.Header, length: int) -> None:
    key = Secret((bytes(DEK.view()) + bytes(64))[:length])
    with pytest.raises(AuthenticationError, match="wrong volume key"):
        header.verify_digest(made, key)


def test_a_short_key_with_zeros_behind_it_is_another_key() -> None:
    """PBKDF2 cannot tell a key from the same key with zeros behind it."""
    short = bytes(DEK.view())[:60]
    made = header.new(UUID, Secret(short + bytes(4)), TOKEN)
    with pytest.raises(AuthenticationError):
        header.verify_digest(made, Secret(short))


def test_every_single_bit_of_the_binary_header_counts(made: header.Header) -> None:
    """Magic, fields, reserved bytes, checksum: with one copy, no flip goes unseen."""
    primary = bytearray(header.serialize(made)[0])
    for offset in range(0, BINARY_SIZE, 7):
        primary[offset] ^= 1 << offset % 8
        with pytest.raises((MalformedError, UnsupportedError)):
            header.parse(bytes(primary) + bytes(HEADER_SIZE))
        primary[offset] ^= 1 << offset % 8


def test_aad_of_the_spec() -> None:
    bound = (
        b"\0\0\0\x13ioflt luks2 token 1"
        b"\0\0\0\x246f9b0bfc-4757-4952-88c9-99092a4ffcba"
        b"\0\0\0\x0faes-xts-plain64"
        b"\0\0\0\x08\0\0\0\0\0\0\x10\0"
        b"\0\0\0\x08\0\0\0\0\0\x10\0\0"
        b"\0\0\0\x04thin"
        b"\0\0\0\x05local"
        b"\0\0\0\x05key-1"
    )
    assert aad(UUID, True, KeyRef("local", "key-1")) == hashlib.sha256(bound).digest()
    assert aad(UUID, True, KeyRef("local", "key-1")).hex() == (
        "9692f7f1a0f14fd1b058901959720ccdd69ee826b1c2357e76bd9247532185c2"
    )


@given(one=tokens, other=tokens)
def test_aad_is_unambiguous(one: IofltToken, other: IofltToken) -> None:
    same = (one.key, one.thin) == (other.key, other.thin)
    assert (one.aad(UUID) == other.aad(UUID)) == same


def test_nothing_secret_shows(made: header.Header) -> None:
    assert repr(made) == f"Header(uuid='{UUID}', sequence=1, label='', subsystem='')"
    assert "blob" not in repr(TOKEN)
