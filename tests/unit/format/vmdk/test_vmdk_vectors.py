"""VMDK descriptors and sparse headers against the vectors."""

from pathlib import Path

import pytest

from ioflt.errors import CorruptDataError
from ioflt.format.vmdk import descriptor, sparse
from ioflt.testing import vectors

FOLDER = Path(__file__).parents[3] / "vectors" / "vmdk"


def read(vector: vectors.Vector) -> descriptor.Descriptor:
    if vector.headers["kind"] == "descriptor":
        return descriptor.parse(vector.body, vector.headers["own"])
    sparse.parse(vector.body)
    return descriptor.parse(sparse.descriptor_of(vector.body) or b"")


@pytest.mark.parametrize("vector", vectors.read(FOLDER), ids=lambda vector: vector.name)
def test_vector(vector: vectors.Vector) -> None:
    if vector.expect == "ok":
        disk = read(vector)
        assert disk.extents[0].sectors == 20480
        assert disk.ddb["adapterType"] == "lsilogic"
    else:
        with pytest.raises(CorruptDataError) as caught:
            read(vector)
        assert caught.value.reason == vector.expect
