"""A second implementation agrees with the vectors of the crypto room, and says so when it does not."""

import shutil
import subprocess
import sys
from pathlib import Path

VECTORS = Path(__file__).parent / "crypto"
TOOLS = Path(__file__).parents[2] / "tools"


def check(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, TOOLS / "check_vectors.py", directory]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_pycryptodome_agrees() -> None:
    result = check(VECTORS)
    assert result.returncode == 0, result.stderr
    assert " 0 disagree" in result.stdout


def test_a_changed_vector_is_named(tmp_path: Path) -> None:
    copy = tmp_path / "mac-plain"
    shutil.copy(VECTORS / "mac-plain", copy)
    with copy.open("ab") as file:
        file.write(b"\0")
    result = check(tmp_path)
    assert result.returncode == 1
    assert result.stderr == "mac-plain: pycryptodome disagrees\n"


def test_no_vectors_is_a_failure(tmp_path: Path) -> None:
    assert check(tmp_path).returncode == 1


def test_the_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, TOOLS / "make_crypto_vectors.py", tmp_path], check=True)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in VECTORS.iterdir()}
