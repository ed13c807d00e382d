"""The encrypt-and-MAC box: every fault looks the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.crypto import sealed
from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, BugError, UnsupportedError

MACS = st.sampled_from(["HMAC-SHA-1", "HMAC-SHA-1-128", "HMAC-SHA-256"])
KEYS = st.binary(min_size=32, max_size=32) | st.binary(min_size=64, max_size=64)


@given(KEYS, st.binary(max_size=100), MACS)
def test_round_trip(key: bytes, plain: bytes, mac: str) -> None:
    blob = sealed.seal(Secret(key), plain, mac)
    assert bytes(sealed.open_(Secret(key), blob, mac).view()) == plain


@given(st.binary(min_size=64, max_size=64), st.binary(max_size=50), MACS, st.data())
def test_every_fault_is_the_same_error(key: bytes, plain: bytes, mac: str, data: st.DataObject) -> None:
    blob = bytearray(sealed.seal(Secret(key), plain, mac))
    position = data.draw(st.integers(0, len(blob) - 1))
    blob[position] ^= data.draw(st.integers(1, 255))
    for bad in (bytes(blob), bytes(blob[:-1]), bytes(blob[:position]), b""):
        with pytest.raises(AuthenticationError) as caught:
            sealed.open_(Secret(key), bad, mac)
        assert str(caught.value) == "sealed box does not verify"


def test_all_of_a_long_key_counts() -> None:
    blob = sealed.seal(Secret(b"k" * 64), b"text", "HMAC-SHA-256")
    with pytest.raises(AuthenticationError):
        sealed.open_(Secret(b"k" * 63 + b"l"), blob, "HMAC-SHA-256")
    with pytest.raises(AuthenticationError):
        sealed.open_(Secret(b"k" * 32), blob, "HMAC-SHA-256")


def test_wrong_arguments() -> None:
    with pytest.raises(UnsupportedError, match="unknown MAC"):
        sealed.seal(Secret(bytes(32)), b"", "HMAC-MD5")
    with pytest.raises(BugError):
        sealed.seal(Secret(bytes(16)), b"", "HMAC-SHA-1")
    with pytest.raises(BugError):
        sealed.seal(Secret(bytes(32)), b"", "HMAC-SHA-1", iv=bytes(12))
