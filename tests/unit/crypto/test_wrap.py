"""Wrapping, derivation and MACs: properties. Fixed bytes are in tests/vectors/crypto."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.crypto import kdf, mac, wrap
from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, BugError

KEK = bytes(range(32))


@given(st.binary(min_size=1, max_size=100), st.binary(max_size=50))
def test_wrapped_unwraps(key: bytes, aad: bytes) -> None:
    blob = wrap.wrap(Secret(KEK), Secret(key), aad)
    assert len(blob) == len(key) + wrap.OVERHEAD
    assert wrap.unwrap(Secret(KEK), blob, aad) == Secret(key)


@given(st.data())
def test_any_change_is_noticed(data: st.DataObject) -> None:
    blob = bytearray(wrap.wrap(Secret(KEK), Secret(bytes(64)), b"bound"))
    bit = data.draw(st.integers(0, len(blob) * 8 - 1))
    blob[bit // 8] ^= 1 << bit % 8
    with pytest.raises(AuthenticationError, match="wrapped key does not verify"):
        wrap.unwrap(Secret(KEK), bytes(blob), b"bound")


@given(st.binary(max_size=120))
def test_garbage_does_not_unwrap(blob: bytes) -> None:
    with pytest.raises(AuthenticationError):
        wrap.unwrap(Secret(KEK), blob, b"")


def test_two_wraps_differ() -> None:
    key = Secret(bytes(64))
    assert wrap.wrap(Secret(KEK), key, b"") != wrap.wrap(Secret(KEK), key, b"")


def test_no_empty_key_and_no_short_wrapping_key() -> None:
    with pytest.raises(BugError, match="an empty key is not wrapped"):
        wrap.wrap(Secret(KEK), Secret(b""), b"")
    with pytest.raises(BugError, match="wrapping key of 31 bytes, not 32"):
        wrap.wrap(Secret(KEK[:31]), Secret(b"k"), b"")


def test_wiped_keys_are_refused() -> None:
    kek = Secret(KEK)
    blob = wrap.wrap(kek, Secret(bytes(64)), b"")
    kek.wipe()
    for use in (
        lambda: wrap.unwrap(kek, blob, b""),
        lambda: wrap.wrap(kek, Secret(b"k"), b""),
        lambda: wrap.wrap(Secret(KEK), kek, b""),
        lambda: kdf.hkdf(kek, "label"),
        lambda: mac.tag(kek, b""),
    ):
        with pytest.raises(BugError, match="a wiped secret is used"):
            use()


def test_labels_and_contexts_separate_keys() -> None:
    key = Secret(KEK)
    derived = [
        kdf.hkdf(key, "a"),
        kdf.hkdf(key, "b"),
        kdf.hkdf(key, "a", b"b"),
        kdf.hkdf(key, "a", b"\0b"),
        kdf.hkdf(key, "ab"),
    ]
    assert all(one != other for n, one in enumerate(derived) for other in derived[:n])


@pytest.mark.parametrize("label", ["", "a\0b", "schlüssel"])
def test_labels_that_are_refused(label: str) -> None:
    with pytest.raises(BugError, match="HKDF label"):
        kdf.hkdf(Secret(KEK), label)


@given(st.binary(max_size=100), st.integers(0, 255))
def test_any_changed_tag_is_refused(data: bytes, bit: int) -> None:
    key = Secret(KEK)
    tag = bytearray(mac.tag(key, data))
    mac.verify(key, data, bytes(tag))
    tag[bit // 8] ^= 1 << bit % 8
    with pytest.raises(AuthenticationError, match="bad MAC"):
        mac.verify(key, data, bytes(tag))
