"""qcow2 images against the vectors, which `tools/make_disk_vectors.py` writes without our code."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from ioflt.errors import CorruptDataError
from ioflt.format.qcow2.reader import Reader
from ioflt.testing import vectors
from tests.unit.format.images import content, reading

ROOT = Path(__file__).parents[4]
FOLDER = ROOT / "tests" / "vectors" / "qcow2"


@pytest.mark.parametrize("vector", vectors.read(FOLDER), ids=lambda vector: vector.name)
def test_vector(vector: vectors.Vector) -> None:
    if vector.expect == "ok":
        image = Reader(reading(vector.body))
        assert hashlib.sha256(content(image, reading(vector.body))).hexdigest() == vector.headers["sha256"]
        assert (image.header.backing or "-") == vector.headers.get("backing", "-")
        assert (image.header.backing_format or "-") == vector.headers.get("format", "-")
    else:
        with pytest.raises(CorruptDataError) as caught:
            content(Reader(reading(vector.body)), reading(vector.body))
        assert caught.value.reason == vector.expect


def test_the_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "make_disk_vectors.py", tmp_path], check=True)
    for folder in tmp_path.iterdir():
        made = {vector.name: vector for vector in vectors.read(folder)}
        assert made == {vector.name: vector for vector in vectors.read(FOLDER.parent / folder.name)}
