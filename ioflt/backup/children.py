"""Programs that work for this process, ended with what they did for it."""

from __future__ import annotations

import subprocess
from contextlib import suppress


def end(process: subprocess.Popen[bytes], patience_s: float) -> None:
    """SIGTERM, and after so many seconds SIGKILL; returns when it has ended. May be called again.

    One that waits in the kernel, for a file system that hangs, cannot be killed before that answers: after as
    many seconds again it is left alone, so that what it waits for can be ended next.
    """
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
