"""The state in a file of changes: what is written is read, and of anything else there is no state."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ioflt
from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, BugError, MalformedError, UnsupportedError
from ioflt.format.cbt import sidecar
from ioflt.format.cbt.sidecar import Stamp, State

DEK = Secret(bytes(range(64)))
UUID = "0f0e0d0c-0b0a-4908-8706-050403020100"
KEY = sidecar.mac_key(DEK, UUID)
STATE = State(
    7,
    bytes.fromhex("52abf52186adf2ff5befc0f23b53eb3b"),
    79,
    Stamp(1234, 1 << 30, 1795768620_000000001, 0),
    ((1, 0), (5, 16384)),
    sidecar.root_of({}),
)
NONE = bytes(sidecar.SLOT_SIZE)

states = st.builds(
    State,
    st.integers(1, 2**63 - 1),
    st.binary(min_size=16, max_size=16),
    st.integers(3, 2**32 - 1),
    st.builds(
        Stamp,
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**64 - 1),
        st.integers(-(2**63), 2**63 - 1),
        st.integers(-(2**63), 2**63 - 1),
    ),
    st.sampled_from([(), ((1, 0),), ((1, 0), (3, 2**46))]),
    st.binary(min_size=32, max_size=32),
    st.booleans(),
)


def slots(state, slot):
    return (slot, NONE) if state.number % 2 == 0 else (NONE, slot)


def signed(slot, count=2):
    """The slot with a MAC that fits what was changed."""
    from ioflt.crypto.mac import tag

    tails = slot[144 : 144 + 16 * count]
    return slot[:112] + tag(KEY, slot[:112] + tails) + slot[144:]


@given(states)
def test_written_is_read(state):
    assert sidecar.load(*slots(state, sidecar.pack(state, KEY)), KEY) == state


def test_the_newest_that_is_whole_counts():
    old, new = sidecar.pack(STATE, KEY), sidecar.pack(replace(STATE, number=8, sequence=80), KEY)
    assert sidecar.load(new, old, KEY).sequence == 80
    torn = new[:300] + b"\1" + new[301:]
    assert sidecar.load(new[:100] + bytes(3996), old, KEY) == STATE
    with pytest.raises(MalformedError, match="padding"):
        sidecar.load(torn, old, KEY)


def test_the_specification_shows_these_bytes():
    spec = (Path(ioflt.__file__).parent / "format/cbt/SPEC.md").read_text()
    lines = re.findall(r"^([0-9a-f]{4})  ((?:[0-9a-f]{2} ){16})", spec, re.MULTILINE)
    packed = sidecar.pack(STATE, KEY)
    assert len(lines) == 11
    for offset, shown in lines:
        assert packed[int(offset, 16) :][:16].hex(" ") == shown.strip()


@pytest.mark.parametrize(
    ("offset", "value", "error", "reason"),
    [
        (0, b"X", AuthenticationError, "no valid state of changes"),
        (8, b"\0\0\0\2", UnsupportedError, "unknown version"),
        (12, b"\0\0\0\2", UnsupportedError, "unknown flag of changes"),
        (16, bytes(8), MalformedError, "bad state of changes"),
        (23, b"\x08", MalformedError, "state of changes in the wrong slot"),
        (40, bytes(4), MalformedError, "bad state of changes"),
        (44, b"\0\0\0\x41", AuthenticationError, "no valid state of changes"),
        (44, b"\xff\xff\xff\xff", AuthenticationError, "no valid state of changes"),
        (144, b"\0\0\0\0", MalformedError, "bad state of changes"),
        (160, b"\0\0\0\1", MalformedError, "bad state of changes"),
        (160, b"\0\0\0\x50", MalformedError, "bad state of changes"),
        (164, b"\0\0\0\1", MalformedError, "bad state of changes"),
        (168, bytes(8), MalformedError, "bad state of changes"),
        (168, b"\xff", MalformedError, "bad state of changes"),
        (4095, b"\1", MalformedError, "bad state of changes"),
    ],
)
def test_nonsense_is_refused_although_its_mac_fits(offset, value, error, reason):
    slot = bytearray(sidecar.pack(STATE, KEY))
    slot[offset : offset + len(value)] = value
    with pytest.raises(error) as caught:
        sidecar.load(*slots(STATE, signed(bytes(slot))), KEY)
    assert caught.value.reason == reason


@pytest.mark.parametrize("offset", [16, 24, 40, 50, 60, 70, 80, 111, 112, 143, 144, 175])
def test_a_changed_byte_is_found(offset):
    slot = bytearray(sidecar.pack(STATE, KEY))
    slot[offset] ^= 1
    with pytest.raises(AuthenticationError):
        sidecar.load(*slots(STATE, bytes(slot)), KEY)


def test_the_key_is_of_one_container():
    slot = slots(STATE, sidecar.pack(STATE, KEY))
    for other in (
        sidecar.clear_key(),
        sidecar.mac_key(DEK, UUID.replace("0f", "0e")),
        sidecar.mac_key(Secret(bytes(64)), UUID),
    ):
        with pytest.raises(AuthenticationError):
            sidecar.load(*slot, other)


@pytest.mark.parametrize("slot", [b"", NONE, NONE[:100], b"IOFLTcb\n"])
def test_nothing_is_no_state(slot):
    with pytest.raises(AuthenticationError):
        sidecar.load(slot, slot, KEY)


@pytest.mark.parametrize(
    "state",
    [
        replace(STATE, number=0),
        replace(STATE, sequence=0),
        replace(STATE, uuid=bytes(15)),
        replace(STATE, tails=((80, 0),)),
        replace(STATE, tails=((2, 5), (3, 5))),
        replace(STATE, tails=tuple((n + 1, n) for n in range(65))),
    ],
)
def test_none_is_written_that_would_not_be_read(state):
    with pytest.raises(BugError):
        sidecar.pack(state, KEY)


def test_the_root_is_of_pages_and_their_places():
    one, two = bytes(32), bytes([1]) * 32
    roots = [
        sidecar.root_of(pages)
        for pages in ({}, {0: one}, {1: one}, {0: two}, {0: one, 1: two}, {0: two, 1: one})
    ]
    assert len(set(roots)) == len(roots)
    assert sidecar.root_of({1: two, 0: one}) == roots[4]
