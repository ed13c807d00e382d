"""Manifests against the vectors, which `tools/make_manifest_vectors.py` writes without our code."""

import subprocess
import sys
from pathlib import Path

import pytest

from ioflt.backup import sealing
from ioflt.errors import CorruptDataError
from ioflt.format.manifest import text
from ioflt.testing import vectors

ROOT = Path(__file__).parents[4]
FOLDER = ROOT / "tests" / "vectors" / "manifest"


@pytest.mark.parametrize("vector", vectors.read(FOLDER), ids=lambda vector: vector.name)
def test_vector(vector: vectors.Vector) -> None:
    if vector.expect == "ok":
        document = text.parse(vector.body)
        sealing.check(document, document.signed.key)
        assert text.digest(document.manifest).hex() == vector.headers["sha256"]
        assert text.write(document.manifest, document.signed) == vector.body
        assert sealing.attested(document) == ("user:alice", "2026-11-27T06:12:01Z")
    else:
        with pytest.raises(CorruptDataError) as caught:
            sealing.check(text.parse(vector.body), None)
        assert caught.value.reason == vector.expect


def test_the_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "make_manifest_vectors.py", tmp_path], check=True)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in FOLDER.iterdir()}
