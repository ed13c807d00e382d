"""Programs that work for this process, ended with what they did for it."""

from __future__ import annotations

import subprocess


def end(process: subprocess.Popen[bytes], patience_s: float) -> None:
    """SIGTERM, and after so many seconds SIGKILL; returns when it has ended. May be called again."""
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
