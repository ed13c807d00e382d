"""COWD and seSparse extents against the vectors, which `tools/make_disk_vectors.py` writes."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.errors import CorruptDataError
from ioflt.format.vmdk.cowd import Cowd
from ioflt.format.vmdk.sesparse import SeSparse
from ioflt.testing import vectors
from tests.unit.format.images import content, reading

FOLDER = Path(__file__).parents[3] / "vectors"
FORMATS = {"cowd": Cowd, "sesparse": SeSparse}
CASES = [(kind, vector) for kind in FORMATS for vector in vectors.read(FOLDER / kind)]
SMALL = {kind: vectors.read(FOLDER / kind)[0].body for kind in FORMATS}


@pytest.mark.parametrize(("kind", "vector"), CASES, ids=[f"{kind}-{vector.name}" for kind, vector in CASES])
def test_vector(kind: str, vector: vectors.Vector) -> None:
    read = reading(vector.body)
    if vector.expect == "ok":
        assert hashlib.sha256(content(FORMATS[kind](read), read)).hexdigest() == vector.headers["sha256"]
    else:
        with pytest.raises(CorruptDataError) as caught:
            content(FORMATS[kind](read), read)
        assert caught.value.reason == vector.expect


@pytest.mark.parametrize("kind", FORMATS)
@given(changes=st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 255)), max_size=8))
def test_hostile_extents_are_read_or_refused(kind: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(SMALL[kind])
    for at, value in changes:
        data[at % len(data)] = value
    try:
        image = FORMATS[kind](reading(data))
        list(image.runs(0, min(image.capacity, 64 << 20)))
    except CorruptDataError:
        return
