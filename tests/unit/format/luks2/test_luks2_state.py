"""State blocks: two slots, the newest whose MAC verifies."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, BugError, CorruptDataError
from ioflt.format.luks2 import state
from ioflt.format.luks2.layout import (
    DATA_OFFSET,
    STATE_OFFSET,
    STATE_SIZE,
    STATE_SLOT_OFFSETS,
    STATE_SLOT_SIZE,
)
from ioflt.format.luks2.state import MAX_LENGTH, StateBlock
from ioflt.types import SECTOR_SIZE

UUID = "6f9b0bfc-4757-4952-88c9-99092a4ffcba"
DEK = Secret(hashlib.sha512(b"a test key").digest())
KEY = state.mac_key(DEK, UUID)
EMPTY = bytes(STATE_SLOT_SIZE)
FILE_ID = 1 << 62 | 77

blocks = st.builds(
    StateBlock,
    st.integers(1, 2**63 - 1),
    st.none() | st.integers(0, MAX_LENGTH),
    st.integers(1 << 62, (1 << 63) - 1),
    st.none() | st.integers(0, MAX_LENGTH // SECTOR_SIZE).map(lambda sectors: sectors * SECTOR_SIZE),
)


def slots(*written: StateBlock) -> list[bytes]:
    """Both slots after these blocks were written one after the other."""
    found = [EMPTY, EMPTY]
    for block in written:
        found[state.slot_of(block)] = state.pack(block, KEY)
    return found


def test_the_slots_lie_before_the_data_and_apart() -> None:
    assert STATE_OFFSET + STATE_SIZE == DATA_OFFSET
    assert STATE_SLOT_OFFSETS == (STATE_OFFSET, STATE_OFFSET + 65536)


@given(block=blocks)
def test_round_trip(block: StateBlock) -> None:
    written = slots(block)
    assert state.load(*written, KEY) == block
    assert state.peek(*written) == block
    assert state.peek(*(slot[:96] for slot in written)) == block
    assert state.pack(state.load(*written, KEY), KEY) == written[state.slot_of(block)]


@given(first=st.integers(1, 2**62), lengths=st.lists(st.integers(0, MAX_LENGTH), min_size=1, max_size=6))
def test_the_newest_counts(first: int, lengths: list[int]) -> None:
    written = [StateBlock(first + n, length, FILE_ID) for n, length in enumerate(lengths)]
    assert state.load(*slots(*written), KEY) == written[-1]


@given(block=blocks, cut=st.integers(0, 96))
def test_a_torn_write_leaves_the_block_before(block: StateBlock, cut: int) -> None:
    before = StateBlock(2**61 | (block.sequence + 1) % 2, 5, FILE_ID)
    after = StateBlock(before.sequence + 1, block.length, block.file_id, block.initialised)
    older = StateBlock(before.sequence - 1, 1234, FILE_ID)
    found = slots(older, before)
    target = state.slot_of(after)
    found[target] = state.pack(after, KEY)[:cut] + found[target][cut:]
    assert state.load(*found, KEY) in (before, after)


@given(block=blocks, offset=st.integers(0, 95), bit=st.integers(0, 7))
def test_every_flipped_bit_is_seen(block: StateBlock, offset: int, bit: int) -> None:
    found = slots(block)
    changed = bytearray(found[state.slot_of(block)])
    changed[offset] ^= 1 << bit
    found[state.slot_of(block)] = bytes(changed)
    with pytest.raises(CorruptDataError):
        state.load(*found, KEY)


@given(slot0=st.binary(max_size=200), slot1=st.binary(max_size=200))
def test_peek_takes_any_bytes(slot0: bytes, slot1: bytes) -> None:
    assert state.peek(slot0, slot1) is None
    state.peek(b"IOFLTst\n\0\0\0\1" + slot0, b"IOFLTst\n\0\0\0\1" + slot1)


@pytest.mark.parametrize("key", [state.mac_key(DEK, UUID[:-1] + "b"), state.mac_key(Secret(bytes(64)), UUID)])
def test_a_block_of_another_container_does_not_count(key: Secret) -> None:
    with pytest.raises(AuthenticationError, match="no valid state block"):
        state.load(*slots(StateBlock(1, 5, FILE_ID)), key)


@pytest.mark.parametrize(
    "block",
    [
        StateBlock(0, 5, FILE_ID),
        StateBlock(2**63, 5, FILE_ID),
        StateBlock(1, -1, FILE_ID),
        StateBlock(1, MAX_LENGTH + 1, FILE_ID),
        StateBlock(1, 5, 1 << 61),
        StateBlock(1, 5, 3 << 62),
        StateBlock(1, 5, FILE_ID, 100),
        StateBlock(1, 5, FILE_ID, -SECTOR_SIZE),
    ],
)
def test_nonsense_is_not_written(block: StateBlock) -> None:
    with pytest.raises(BugError):
        state.pack(block, KEY)


def test_the_longest_file_fits_below_2_63() -> None:
    assert DATA_OFFSET + MAX_LENGTH + SECTOR_SIZE <= 2**63


def test_bytes_of_the_spec() -> None:
    head = state.pack(StateBlock(2, 12345, FILE_ID), KEY)[:64]
    assert head.hex(" ", 8) == (
        "494f464c5473740a 0000000100000001 0000000000000002 0000000000003039"
        " 0000000000000000 400000000000004d 0000000000000000 0000000000000000"
    )
