"""Change ids are read and written just as VMware prints them, and in no other way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.errors import BugError, UsageError
from ioflt.format.cbt import changeid
from ioflt.format.cbt.changeid import MAX_SEQUENCE, ChangeId

# From VMware's documentation of changed block tracking.
TEXT = "52 ab f5 21 86 ad f2 ff-5b ef c0 f2 3b 53 eb 3b/78"


def test_vmwares_example():
    found = changeid.parse(TEXT)
    assert found == ChangeId(bytes.fromhex("52abf52186adf2ff5befc0f23b53eb3b"), 78)
    assert str(found) == TEXT


@given(st.builds(ChangeId, st.binary(min_size=16, max_size=16), st.integers(0, MAX_SEQUENCE)))
def test_written_is_read(identity):
    assert changeid.parse(str(identity)) == identity


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*",
        TEXT.upper(),
        TEXT + " ",
        " " + TEXT,
        TEXT + "\n",
        TEXT.replace("-", " "),
        TEXT.replace(" ", ""),
        TEXT.replace(" ", "  ", 1),
        TEXT.replace("/", " /"),
        TEXT.replace("/78", ""),
        TEXT.replace("/78", "/"),
        TEXT.replace("/78", "/078"),
        TEXT.replace("/78", "/-1"),
        TEXT.replace("/78", "/+78"),
        TEXT.replace("/78", "/7 8"),
        TEXT.replace("/78", "/0x4e"),
        TEXT.replace("/78", f"/{MAX_SEQUENCE + 1}"),
        TEXT.replace("/78", "/99999999999"),
        TEXT.replace("78", "٧٨"),
        TEXT.replace("52", "5g"),
        TEXT.replace("52 ", ""),
        "52 " + TEXT,
        f"{TEXT}/{TEXT}",
        "52abf521-86ad-f2ff-5bef-c0f23b53eb3b/78",
    ],
)
def test_other_texts_are_refused(text):
    with pytest.raises(UsageError, match="no change id"):
        changeid.parse(text)


@pytest.mark.parametrize(
    ("uuid", "sequence"), [(bytes(15), 1), (bytes(17), 1), (bytes(16), -1), (bytes(16), 2**32)]
)
def test_none_is_made_that_would_not_be_read(uuid, sequence):
    with pytest.raises(BugError):
        ChangeId(uuid, sequence)
