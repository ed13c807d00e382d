"""A second implementation agrees with the vectors, and says so when it does not."""

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
TOOL = HERE.parents[2] / "tools" / "check_vectors.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TOOL, *arguments], capture_output=True, text=True, check=False)


def test_pycryptodome_agrees() -> None:
    result = run(HERE)
    assert result.returncode == 0, result.stderr
    assert " 0 disagree" in result.stdout


def test_a_changed_vector_is_named(tmp_path: Path) -> None:
    copy = tmp_path / "mac-plain.vector"
    shutil.copy(HERE / "mac-plain.vector", copy)
    with copy.open("ab") as file:
        file.write(b"\0")
    result = run(tmp_path)
    assert result.returncode == 1
    assert result.stderr == "mac-plain.vector: pycryptodome disagrees\n"


def test_no_vectors_is_a_failure(tmp_path: Path) -> None:
    assert run(tmp_path).returncode == 1


def test_make_writes_the_same_files(tmp_path: Path) -> None:
    shutil.copy(HERE / "make.py", tmp_path)
    subprocess.run([sys.executable, tmp_path / "make.py"], check=True)
    made = {path.name: path.read_bytes() for path in tmp_path.glob("*.vector")}
    assert made == {path.name: path.read_bytes() for path in HERE.glob("*.vector")}
