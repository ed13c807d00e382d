"""Sealed VMX files against the vectors, which PyCryptodome made."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from ioflt.crypto.secret import Secret
from ioflt.errors import CorruptDataError
from ioflt.format.vmx import passphrase, sealed
from ioflt.testing import vectors

ROOT = Path(__file__).parents[4]
FOLDER = ROOT / "tests" / "vectors" / "vmx"


def opened(vector: vectors.Vector) -> bytes:
    if vector.headers["form"] == "ioflt":
        return sealed.open_(vector.body, Secret(bytes.fromhex(vector.headers["wrapping"])))
    return passphrase.import_passphrase(vector.body, Secret(vector.headers["passphrase"].encode()))


@pytest.mark.parametrize("vector", vectors.read(FOLDER), ids=lambda vector: vector.name)
def test_vector(vector: vectors.Vector) -> None:
    if vector.expect == "ok":
        assert hashlib.sha256(opened(vector)).hexdigest() == vector.headers["plain"]
    else:
        with pytest.raises(CorruptDataError) as caught:
            opened(vector)
        assert caught.value.reason == vector.expect


def test_the_script_makes_these_vectors() -> None:
    script = ROOT / "tests" / "vectors" / "make_vmware.py"
    subprocess.run([sys.executable, script, "--check"], check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
