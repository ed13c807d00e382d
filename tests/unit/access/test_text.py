"""access.json: what is written is read again, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt import access
from ioflt.access import principals, text
from ioflt.access.state import AccessState, first
from ioflt.errors import CorruptDataError, MalformedError
from tests.unit.access.states import states


@given(states())
def test_round_trip(state: AccessState) -> None:
    written = text.write(state)
    assert text.parse(written) == state
    assert text.write(text.parse(written)) == written


@given(states(), st.data())
def test_a_changed_byte_is_another_state_or_none(state: AccessState, data: st.DataObject) -> None:
    written = bytearray(text.write(state))
    at = data.draw(st.integers(0, len(written) - 1))
    written[at] ^= data.draw(st.integers(1, 255))
    try:
        parsed = text.parse(bytes(written))
    except CorruptDataError:
        return
    assert text.write(parsed) == bytes(written)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(CorruptDataError):
        text.parse(data)


def test_the_example_of_the_specification() -> None:
    spec = (Path(access.__file__).parent / "SPEC.md").read_text()
    example = next(part for part in spec.split("```") if part.startswith('\n{\n "format"'))
    assert text.write(first(principals.user("root"))) == example.lstrip("\n").encode()


FOLDER = {"name": "t", "members": [], "provider": None}
MEMBER = {"kind": "vm", "id": "00000000-0000-0000-0000-000000000001", "shown": "web01"}
ROLE = {"id": "r", "privileges": ["System.Read"]}


@pytest.mark.parametrize(
    ("reason", "changed"),
    [
        ("missing", {"roles": ...}),
        ("unknown field", {"extra": 1}),
        ("unknown version", {"format": 2}),
        ("no format version", {"format": True}),
        ("wrong type", {"separate_duties": 1}),
        ("wrong type", {"roles": {}}),
        ("wrong type", {"roles": [1]}),
        ("bad value", {"roles": [ROLE | {"privileges": ["System.Read", "Cryptographer.Acess"]}]}),
        ("bad value", {"roles": [ROLE | {"privileges": []}]}),
        ("not canonical", {"roles": [ROLE | {"privileges": ["System.Read", "Cryptographer.DirectAccess"]}]}),
        ("twice", {"roles": [ROLE | {"id": "administrator"}]}),
        ("twice", {"folders": [FOLDER, FOLDER]}),
        ("twice", {"folders": [FOLDER | {"members": [MEMBER, MEMBER | {"shown": "other"}]}]}),
        ("twice", {"folders": [FOLDER | {"members": [MEMBER]}, FOLDER | {"name": "u", "members": [MEMBER]}]}),
        ("bad value", {"folders": [FOLDER | {"name": "../x"}]}),
        ("wrong type", {"folders": [FOLDER | {"events": 1}]}),
        ("wrong type", {"folders": [FOLDER | {"events": None}]}),
        ("not canonical", {"folders": [FOLDER | {"events": False}]}),
        ("not canonical", {"folders": [{"events": True} | FOLDER]}),
        ("bad value", {"services": [{"name": "s", "certificate": "00"}]}),
        ("bad value", {"permissions": [{"who": "alice", "role": "nobody", "on": MEMBER}]}),
        ("bad value", {"permissions": [{"who": "service:s", "role": "read-only", "on": MEMBER}]}),
        ("bad value", {"permissions": [{"who": "gang:s", "role": "read-only", "on": MEMBER}]}),
        ("not canonical", {"permissions": [{"who": "alice", "role": "read-only", "on": MEMBER}]}),
        (
            "unknown kind",
            {"permissions": [{"who": "a", "role": "read-only", "on": MEMBER | {"kind": "host"}}]},
        ),
    ],
)
def test_refused(reason: str, changed: dict[str, object]) -> None:
    whole = json.loads(text.write(AccessState())) | changed
    whole = {name: value for name, value in whole.items() if value is not ...}
    with pytest.raises(CorruptDataError) as caught:
        text.parse(json.dumps(whole, indent=1).encode() + b"\n")
    assert caught.value.reason == reason


def test_oversized() -> None:
    with pytest.raises(MalformedError, match="oversized"):
        text.parse(b" " * (text.MAX_SIZE + 1))
