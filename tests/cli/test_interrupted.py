"""Ctrl-C before a command has begun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

#: In the place of the first module of others' that the command loads.
LOADED = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"


def test_nothing_is_said_while_modules_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text(LOADED)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "ioflt", "--version"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
