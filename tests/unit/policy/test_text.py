"""The text of policies: what is written is read again; what is not canonical is refused by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt import policy as room
from ioflt.errors import CorruptDataError, MalformedError, UnsupportedError, UsageError
from ioflt.policy import text
from ioflt.policy.bundled import BUNDLED, VM_ENCRYPTION
from ioflt.policy.model import CBT, Filter, StoragePolicy, encryption

EXAMPLE = StoragePolicy(
    "Gold",
    "0f0e0d0c-0b0a-4908-8706-050403020100",
    "",
    (encryption(),),
    "corp",
    "thick",
    recovery_slot=True,
)

words = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=30)
chains = st.sampled_from(
    [
        (encryption(),),
        (encryption(cleartext_filters=True),),
        (encryption(), Filter(CBT)),
        (Filter(CBT), encryption(cleartext_filters=True)),
    ]
)
encrypting = st.builds(
    StoragePolicy,
    words,
    st.uuids().map(str),
    st.just("") | words,
    chains,
    st.none() | words,
    st.sampled_from([None, "thick", "thin"]),
    st.booleans(),
    st.booleans(),
)
clear = st.builds(StoragePolicy, words, st.uuids().map(str), words, st.sampled_from([(), (Filter(CBT),)]))
policies = st.lists(encrypting | clear, max_size=4, unique_by=(lambda p: p.name, lambda p: p.id)).map(tuple)


def changed(**fields: Any) -> bytes:
    """The example's text with those fields of its policy changed."""
    found = json.loads(text.write([EXAMPLE]))
    found["policies"][0] |= fields
    return json.dumps(found, separators=(",", ":")).encode() + b"\n"


@given(policies)
def test_what_is_written_is_read(made: tuple[StoragePolicy, ...]) -> None:
    data = text.write(made)
    assert text.parse(data) == made
    assert text.write(text.parse(data)) == data


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_policies_or_an_error(data: bytes) -> None:
    try:
        found = text.parse(data)
    except CorruptDataError:
        return
    assert text.write(found) == data


@given(st.integers(0, 400), st.integers(1, 255))
def test_a_changed_byte_gives_another_policy_or_an_error(at: int, by: int) -> None:
    data = bytearray(text.write([EXAMPLE]))
    data[at % len(data)] ^= by
    try:
        found = text.parse(bytes(data))
    except CorruptDataError:
        return
    assert found != (EXAMPLE,)


def test_the_example_is_that_of_the_spec() -> None:
    spec = (Path(room.__file__).parent / "SPEC.md").read_text()
    assert text.write([EXAMPLE]).decode() in spec
    for policy in BUNDLED:
        assert f"| `{policy.name}` | `{policy.id}` |" in spec
    assert set(re.findall(r"`((?:vmwarevmcrypt|ioflt)@[A-Z]+)`", spec)) == {CBT, encryption().id}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b" " * (text.MAX_SIZE + 1), "oversized policies"),
        (b"[]", "not an object"),
        (b'{"policies":[]}\n', "no format version"),
        (b'{"format":true,"policies":[]}\n', "no format version"),
        (b'{"format":2,"policies":[]}\n', "unknown version"),
        (b'{"format":1}\n', "missing field"),
        (b'{"format":1,"policies":[],"more":1}\n', "unknown field"),
        (b'{"format":1,"policies":{}}\n', "bad field"),
        (b'{"format":1,"policies":[]}', "not canonical"),
        (b'{"format":1, "policies":[]}\n', "not canonical"),
        (changed(id="0F0E0D0C-0B0A-4908-8706-050403020100"), "bad uuid"),
        (changed(id=7), "bad uuid"),
        (changed(name=7), "bad field"),
        (changed(name=""), "bad policy"),
        (changed(name=" Gold"), "bad policy"),
        (changed(name="Go\nld"), "bad policy"),
        (changed(name="x" * 129), "bad policy"),
        (changed(name=VM_ENCRYPTION.name), "named twice"),
        (changed(id=VM_ENCRYPTION.id), "named twice"),
        (changed(description="x" * 1025), "bad policy"),
        (changed(provider=7), "bad field"),
        (changed(provider=""), "bad policy"),
        (changed(provisioning="eager"), "bad field"),
        (changed(integrity=1), "bad field"),
        (changed(filters=[]), "bad policy"),
        (changed(filters={}), "bad field"),
        (changed(filters=[{"id": "vmware@REPLICATION", "properties": {}}]), "unknown filter"),
        (changed(filters=[{"id": CBT, "properties": {"Speed": "True"}}]), "unknown field"),
        (changed(filters=[{"id": encryption().id, "properties": {}}]), "missing field"),
        (
            changed(filters=[{"id": encryption().id, "properties": {"AllowCleartextFilters": "yes"}}]),
            "bad policy",
        ),
        (
            changed(filters=[{"id": encryption().id, "properties": {"AllowCleartextFilters": False}}]),
            "bad field",
        ),
    ],
)
def test_what_is_no_text_of_policies_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises((MalformedError, UnsupportedError)) as caught:
        text.parse(data)
    assert caught.value.reason == reason


def test_a_filter_above_the_encryption_has_to_be_allowed() -> None:
    chain = [{"id": CBT, "properties": {}}]
    for allowed in ("True", "False"):
        properties = {"AllowCleartextFilters": allowed}
        data = changed(filters=[*chain, {"id": encryption().id, "properties": properties}])
        if allowed == "True":
            assert text.parse(data)[0].allows_cleartext_filters
        else:
            with pytest.raises(MalformedError, match="sees clear text"):
                text.parse(data)


def test_more_than_a_text_holds_is_not_written() -> None:
    many = [StoragePolicy(f"p{n}", f"00000000-0000-4000-8000-{n:012}") for n in range(text.MAX_POLICIES + 1)]
    with pytest.raises(UsageError, match="at most 256"):
        text.write(many)
    long = [StoragePolicy(f"p{n}", f"00000000-0000-4000-8000-{n:012}", "ä" * 1024) for n in range(200)]
    with pytest.raises(UsageError, match="1 MiB"):
        text.write(long)
