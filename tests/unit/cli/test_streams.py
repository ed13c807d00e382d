"""A command whose standard streams are closed runs as with /dev/null."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "closed", [" ".join(words) for words in product(("", "<&-"), ("", ">&-"), ("", "2>&-"))]
)
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("inspect /etc/passwd", 0),
        ("provider backup none out", 10),
        ("provider create native x --ask-passphrase", 2),
    ],
)
def test_closed(tmp_path: Path, closed: str, command: str, code: int) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m ioflt {command} {closed}"],
        env={**os.environ, "IOFLT_HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
