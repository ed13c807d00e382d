"""For tests that let system calls fail in the middle: keyd, here in the same process, makes some, too."""

from __future__ import annotations

import os


def is_event_log(fd: object) -> bool:
    """Whether that is a file of keyd's event log."""
    return isinstance(fd, int) and "/state/events/" in os.readlink(f"/proc/self/fd/{fd}")
