"""Each vector of tests/vectors/luks2 gives what its header lines say; damage gives named errors only."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.crypto.kdf import hkdf
from ioflt.crypto.secret import Secret
from ioflt.crypto.wrap import unwrap
from ioflt.errors import CorruptDataError
from ioflt.format.luks2 import header, state
from ioflt.format.luks2.layout import HEADERS_SIZE, STATE_SLOT_OFFSETS, STATE_SLOT_SIZE
from ioflt.testing.vectors import Vector, read

ROOT = Path(__file__).parents[4]
VECTORS = read(ROOT / "tests/vectors/luks2")


def opened(area: bytes, kek: Secret) -> tuple[header.Header, Secret, state.StateBlock]:
    """What an open does with the bytes before the data."""
    found = header.parse(area[:HEADERS_SIZE])
    header.check_profile(found)
    token = found.tokens[0]
    dek = unwrap(hkdf(kek, "dek-wrap"), token.blob, token.aad(found.uuid))
    header.verify_digest(found, dek)
    slots = [area[offset : offset + STATE_SLOT_SIZE] for offset in STATE_SLOT_OFFSETS]
    return found, dek, state.load(*slots, state.mac_key(dek, found.uuid))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_vector(vector: Vector) -> None:
    kek = Secret(bytes.fromhex(vector.headers["kek"]))
    if vector.expect != "ok":
        with pytest.raises(CorruptDataError) as caught:
            opened(vector.body, kek)
        assert caught.value.reason == vector.expect
        return
    found, dek, block = opened(vector.body, kek)
    assert hashlib.sha256(dek.view()).hexdigest() == vector.headers["dek"]
    assert str(found.sequence) == vector.headers["sequence"]
    fields = (block.sequence, block.length, block.file_id, block.initialised)
    assert " ".join("-" if value is None else str(value) for value in fields) == vector.headers["state"]


def test_the_vectors_are_what_the_tool_writes() -> None:
    subprocess.run([sys.executable, "tools/make_vectors.py", "--check"], cwd=ROOT, check=True)


def test_most_vectors_fail() -> None:
    failing = [vector for vector in VECTORS if vector.expect != "ok"]
    assert len(failing) > 3 * len(VECTORS) // 4


def test_the_bytes_of_the_spec_are_those_of_the_vector() -> None:
    area = next(vector.body for vector in VECTORS if vector.name == "thin")
    header_dump, state_dump, _tags_dump, _recrypt_dump = re.findall(
        r"```\n((?:[0-9a-f]{4}  .*\n)+)```", (ROOT / "ioflt/format/luks2/SPEC.md").read_text()
    )
    for dump, base in ((header_dump, 0), (state_dump, STATE_SLOT_OFFSETS[1])):
        for line in dump.splitlines():
            start = base + int(line[:4], 16)
            assert bytes.fromhex(line[6:53]) == area[start : start + 16]


@given(
    vector=st.sampled_from([vector for vector in VECTORS if len(vector.body) > HEADERS_SIZE]),
    changes=st.lists(
        st.tuples(st.integers(0, HEADERS_SIZE - 1) | st.integers(4096, 5000), st.integers(0, 255)), max_size=8
    ),
)
def test_damage_gives_a_named_error_or_a_header_that_is_written_as_read(
    vector: Vector, changes: list[tuple[int, int]]
) -> None:
    area = bytearray(vector.body[:HEADERS_SIZE])
    for offset, value in changes:
        area[offset] = value
    try:
        found = header.parse(bytes(area))
        header.check_profile(found)
    except CorruptDataError:
        return
    again = b"".join(header.serialize(found))
    assert header.parse(again) == found
