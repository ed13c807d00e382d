"""Waiting for what another process does: for a signal where there is one, else by looking again."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

#: Seconds after which what is waited for does not come any more. Only a test that fails waits so long: a busy
#: machine makes no test fail.
PATIENCE_S: Final = 60.0


def await_end(pidfd: int) -> None:
    """Wait until the process has ended."""
    assert select.select([pidfd], [], [], PATIENCE_S)[0], "the process does not end"


def eventually(condition: Callable[[], object]) -> None:
    """Wait until `condition()` is true."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.01)


def listening(path: Path) -> None:
    """Wait until connections to the unix socket at `path` are taken: one is made, and closed."""

    def is_taken() -> bool:
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(str(path)) == 0

    eventually(is_taken)
