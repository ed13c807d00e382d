"""Tags of sectors: the C loop, its twin, and what they are made of."""

import hashlib
import hmac
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.crypto.secret import Secret
from ioflt.crypto.sectortags import TAG_SIZE, PythonSectorTags, SectorTags
from ioflt.errors import BugError

CONTAINER = "6f9b0bfc-4757-4952-88c9-99092a4ffcba"
KEY = hashlib.sha256(b"a test key").digest()


def loops():
    return SectorTags(Secret(KEY), CONTAINER), PythonSectorTags(Secret(KEY), CONTAINER)


@given(
    st.lists(st.integers(0, 255), max_size=5),
    st.sampled_from([0, 1, 2**32, 2**51 - 8]),
    st.integers(0, 4095),
)
def test_both_loops_are_hmac(fillings, first, where):
    data = bytearray(b"".join(bytes([filling]) * 4096 for filling in fillings))
    for index, filling in enumerate(fillings):
        data[index * 4096 + where] ^= filling  # 0 stays a hole
    wanted = b""
    for index in range(len(fillings)):
        sector = data[index * 4096 : (index + 1) * 4096]
        message = UUID(CONTAINER).bytes + (first + index).to_bytes(8) + (sector if any(sector) else b"")
        wanted += hmac.digest(KEY, message, "sha256")[:TAG_SIZE]
    for loop in loops():
        assert loop.of(data, first) == wanted
        assert loop.of(memoryview(bytes(data)), first) == wanted


def test_holes():
    for loop in loops():
        assert loop.of_holes(3, 7) == loop.of(bytes(3 * 4096), 7)
        assert loop.of_holes(0, 7) == b""


def test_one_bit_in_the_last_byte_of_a_sector():
    for loop in loops():
        assert loop.of(bytes(4095) + b"\1", 0) != loop.of(bytes(4096), 0)


def test_misuse():
    for loop in loops():
        with pytest.raises(BugError):
            loop.of(bytes(4095), 0)
        loop.wipe()
        with pytest.raises(BugError):
            loop.of(bytes(4096), 0)
        with pytest.raises(BugError):
            loop.of_holes(1, 0)
    with pytest.raises(BugError):
        SectorTags(Secret(bytes(16)), CONTAINER)
