"""The OASIS cases in the tree pass, and the tool says so when one does not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).parent / "kmip" / "oasis"
TOOLS = Path(__file__).parents[2] / "tools"


def run(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, TOOLS / "kmip_cases.py", directory]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_all_pass() -> None:
    result = run(CASES)
    assert result.returncode == 0, result.stdout
    assert result.stdout == f"{len(list(CASES.rglob('*.xml')))} passed, 0 failed\n"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('value="Create"', 'value="Creates"', "bad value"),
        ("<BatchCount", "<BatchCounts", "unknown tag"),
        ("</KMIP>", "", "not XML"),
        ('BatchCount type="Integer" value="1"', 'BatchCount type="Integer" value="2"', "wrong batch count"),
        ('value="Success"', 'value="OperationUndone"', None),
    ],
)
def test_a_changed_case_is_named(tmp_path: Path, old: str, new: str, reason: str | None) -> None:
    name = "SKLC-M-1-14.xml"
    (tmp_path / "below").mkdir()
    text = (CASES / "v1.4" / name).read_text()
    assert old in text
    (tmp_path / "below" / name).write_text(text.replace(old, new))
    shutil.copy(CASES / "v1.4" / "SKLC-M-2-14.xml", tmp_path)
    result = run(tmp_path)
    last = result.stdout.splitlines()[-1]
    if reason is None:  # another story, and a consistent one
        assert (result.returncode, last) == (0, "2 passed, 0 failed")
        return
    assert (result.returncode, last) == (1, "1 passed, 1 failed")
    assert result.stdout.startswith(f"below/{name}: ")
    assert reason in result.stdout


def test_no_cases_is_a_failure(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert (result.returncode, result.stdout) == (1, "0 passed, 0 failed\n")


def test_the_malformed_vectors_are_what_the_generator_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, TOOLS / "make_kmip_vectors.py", tmp_path], check=True)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    there = Path(__file__).parent / "kmip" / "malformed"
    assert made == {path.name: path.read_bytes() for path in there.iterdir()}
