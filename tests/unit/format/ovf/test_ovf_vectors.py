"""OVF envelopes and manifests against the vectors."""

from pathlib import Path

import pytest

from ioflt.errors import CorruptDataError
from ioflt.format.ovf import manifest, reader, writer
from ioflt.testing import vectors

FOLDER = Path(__file__).parents[3] / "vectors" / "ovf"


@pytest.mark.parametrize("vector", vectors.read(FOLDER), ids=lambda vector: vector.name)
def test_vector(vector: vectors.Vector) -> None:
    kind = vector.headers["kind"]
    if vector.expect != "ok":
        with pytest.raises(CorruptDataError) as caught:
            (reader.parse if kind == "envelope" else manifest.parse)(vector.body)
        assert caught.value.reason == vector.expect
    elif kind == "envelope":
        envelope = reader.parse(vector.body)
        assert envelope.name == "web01"
        assert envelope.disks[0].capacity == 15 << 20
        assert reader.parse(writer.write(envelope)) == envelope
    else:
        entries = manifest.parse(vector.body)
        assert manifest.parse(manifest.write(entries)) == entries
