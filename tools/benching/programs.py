"""Other programs, run to the end; ioflt's command is one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

IOFLT = Path(sys.executable).parent / "ioflt"


class BenchError(Exception):
    """A measurement cannot be made; the reason in words."""


def run(*command: object) -> str:
    """Its standard output. Raises BenchError if it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(
            f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr}{done.stdout}".rstrip()
        )
    return done.stdout


def ioflt(*arguments: object) -> str:
    return run(IOFLT, *arguments)


def need(*programs: str) -> None:
    """Raises BenchError if one is not installed."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise BenchError(
            f"not installed: {', '.join(missing)}; as root, tools/setup.sh build bench installs them"
        )
