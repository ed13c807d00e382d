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
    """Its standard output. Raises BenchError if it fails.

    When we are ended it is waited for, not killed: the process of a mount that it began, or keyd, would come
    after all was cleaned up.
    """
    words = [str(word) for word in command]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True) as process:
        out, err = process.communicate()
    if process.returncode != 0:
        raise BenchError(f"{' '.join(words)}: exit code {process.returncode}\n{err}{out}".rstrip())
    return out


def ioflt(*arguments: object) -> str:
    return run(IOFLT, *arguments)


def need(*programs: str) -> None:
    """Raises BenchError if one is not installed."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise BenchError(
            f"not installed: {', '.join(missing)}; as root, tools/setup.sh build bench installs them"
        )
