"""`make setup` as another user than root: it says what is missing, in one line, and does nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 65534


@pytest.mark.root
def test_another_user_gets_the_line_that_installs(short_tmp: Path) -> None:
    short_tmp.parent.chmod(0o711)
    short_tmp.chmod(0o755)
    shutil.copytree(ROOT / "tools", short_tmp / "tools")
    bare = short_tmp / "bin"  # a machine on which only gcc is installed
    bare.mkdir()
    (bare / "dpkg-query").write_text('#!/bin/sh\n[ "$4" = gcc ] && printf installed\n')
    (bare / "dpkg-query").chmod(0o755)
    done = subprocess.run(
        [short_tmp / "tools" / "setup.sh", "build", "test"],
        env={"PATH": f"{bare}:/usr/bin:/bin"},
        user=NOBODY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    lines = [line.split() for line in done.stderr.splitlines() if "apt-get" in line]
    assert len(lines) == 1
    assert lines[0][:4] == ["sudo", "apt-get", "install", "--no-install-recommends"]
    assert {"libfuse3-dev", "cryptsetup-bin"} <= set(lines[0])
    assert "gcc" not in lines[0]
    assert not (short_tmp / ".venv").exists()
