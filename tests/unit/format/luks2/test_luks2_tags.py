"""The file of tags: where each lies, and its journal."""

import hashlib
import hmac
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, BugError, CorruptDataError, MalformedError, UnsupportedError
from ioflt.format.luks2 import tags
from ioflt.format.luks2.tags import GROUPS_OFFSET, SLOT_SIZE, Journal

ROOT = Path(__file__).parents[4]
UUID = "6f9b0bfc-4757-4952-88c9-99092a4ffcba"
DEK = Secret(hashlib.sha512(b"a test key").digest())
KEY = tags.keys(DEK, UUID).journal
EMPTY = bytes(SLOT_SIZE)

areas = st.sets(st.integers(0, 3000) | st.integers(2**41 - 300, 2**41 - 1), max_size=200)


def slots(*written):
    """Both slots after these journals were written one after the other."""
    found = [EMPTY, EMPTY]
    for journal in written:
        found[journal.sequence % 2] = tags.pack(journal, KEY)
    return found


@given(areas, st.integers(1, 2**63 - 1))
def test_round_trip(named, sequence):
    journal = Journal(sequence, tags.runs_of(named))
    assert tags.load(*slots(journal), KEY) == journal
    assert journal.areas == named


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_every_tag_has_a_place_of_its_own(first, count):
    """Runs cover a range once, in order; in a run tags lie side by side, and between two runs are marks."""
    at, end = first, None
    for start, step in tags.tag_runs(first, count):
        assert start == at
        assert step > 0
        assert tags.tag_offset(start + step - 1) == tags.tag_offset(start) + (step - 1) * 16
        if end is not None:
            assert tags.tag_offset(start) == end + 4096
        at, end = start + step, tags.tag_offset(start) + step * 16
    assert at == first + count


def test_layout():
    assert tags.mark_offset(0) == GROUPS_OFFSET == 128 << 10
    assert tags.tag_offset(0) == GROUPS_OFFSET + 4096
    assert tags.mark_offset(255) + 16 == tags.tag_offset(0)
    assert tags.mark_offset(256) == tags.tag_offset(256 * 1024 - 1) + 16
    assert list(tags.mark_runs(250, 10)) == [(250, 6), (256, 4)]


def test_the_newest_that_verifies_counts():
    old, new = Journal(4, ((1, 1),)), Journal(5, ())
    assert tags.load(*slots(old, new), KEY) == new
    torn = tags.pack(new, KEY)[:100].ljust(SLOT_SIZE, b"\0")
    assert tags.load(slots(old)[0], torn[:60] + bytes(SLOT_SIZE - 60), KEY) == old


@given(st.integers(0, SLOT_SIZE - 17), st.integers(1, 255))
def test_damage_gives_a_named_error(offset, value):
    slot = bytearray(tags.pack(Journal(2, ((3, 4), (9, 1))), KEY))
    slot[offset] ^= value
    with pytest.raises(CorruptDataError):
        tags.load(bytes(slot), EMPTY, KEY)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_named_error(data):
    with pytest.raises(CorruptDataError):
        tags.load(data.ljust(SLOT_SIZE, b"\0"), EMPTY, KEY)


def forged(head, runs=b""):
    """A slot whose MAC verifies."""
    runs = runs.ljust(SLOT_SIZE - 64 - 16, b"\0")
    return (head + hmac.digest(KEY.view(), head + runs, "sha256") + runs).ljust(SLOT_SIZE, b"\0")


HEAD = struct.Struct(">8sIIQQ")


@pytest.mark.parametrize(
    ("head", "runs", "kind"),
    [
        ((b"IOFLTtg\n", 2, 0, 2, 0), b"", UnsupportedError),
        ((b"IOFLTtg\n", 1, 1, 2, 0), b"", UnsupportedError),
        ((b"IOFLTtg\n", 1, 0, 1, 0), b"", MalformedError),
        ((b"IOFLTtg\n", 1, 0, 0, 0), b"", MalformedError),
        ((b"IOFLTtg\n", 1, 0, 2, 1025), b"", MalformedError),
        ((b"IOFLTtg\n", 1, 0, 2, 2**63), b"", MalformedError),
        ((b"IOFLTtg\n", 1, 0, 2, 0), struct.pack(">QQ", 1, 1), MalformedError),
        ((b"IOFLTtg\n", 1, 0, 2, 1), struct.pack(">QQ", 1, 0), MalformedError),
        ((b"IOFLTtg\n", 1, 0, 2, 1), struct.pack(">QQ", 2**41, 1), MalformedError),
        ((b"IOFLTtg\n", 1, 0, 2, 2), struct.pack(">QQQQ", 5, 2, 6, 1), MalformedError),
    ],
)
def test_nonsense_with_a_mac(head, runs, kind):
    with pytest.raises(kind):
        tags.load(forged(HEAD.pack(*head), runs), EMPTY, KEY)


def test_other_keys_do_not_verify():
    slot = tags.pack(Journal(2), KEY)
    other = tags.keys(DEK, "11111111-2222-4333-8444-555555555555").journal
    with pytest.raises(AuthenticationError, match="no valid tag journal"):
        tags.load(slot, EMPTY, other)
    with pytest.raises(MalformedError, match="truncated"):
        tags.load(slot[:-1], EMPTY, KEY)


def test_nonsense_is_not_written():
    for journal in (Journal(0), Journal(1, ((5, 1), (5, 1))), Journal(1, ((2**41, 1),))):
        with pytest.raises(BugError):
            tags.pack(journal, KEY)


def test_the_bytes_of_the_spec():
    """Area 3 alone, in the journal with number 1; made here from the standard library alone."""
    made = tags.pack(Journal(1, ((3, 1),)), KEY)
    info = b"ioflt/1\0tag-journal\0" + bytes.fromhex(UUID.replace("-", ""))
    key = hmac.digest(DEK.view(), info + b"\1", "sha256")  # HKDF-Expand
    head, runs = HEAD.pack(b"IOFLTtg\n", 1, 0, 1, 1), struct.pack(">QQ", 3, 1)
    mac = hmac.digest(key, head + runs.ljust(SLOT_SIZE - 80, b"\0"), "sha256")
    assert made == (head + mac + runs).ljust(SLOT_SIZE, b"\0")
    text = (ROOT / "ioflt/format/luks2/SPEC.md").read_text()
    for start in range(0, 80, 16):
        assert f"{start:04x}  {made[start : start + 16].hex(' ')}  " in text
