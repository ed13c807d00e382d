"""Names of what we put into somebody's QEMU, each with a lock: while that is held, its process lives."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ioflt import paths


@contextmanager
def held(name: str) -> Iterator[None]:
    """The lock of a name. Raises BlockingIOError where another process has it."""
    path = paths.find().ensure().run / f"{name}.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(fd)
