"""The kernel's list of mounts, as far as ioflt asks it. Format: proc_pid_mountinfo(5)."""

from __future__ import annotations

import os
import re

_TYPE = b"fuse.ioflt"
#: How the kernel writes blanks and backslashes; all other bytes stand for themselves.
_ESCAPE = re.compile(rb"\\([0-7]{3})")


def mount_id(target: str) -> int | None:
    """The kernel's number for the topmost ioflt mount at that real path; None when there is none.

    Asks nothing of the mount itself.
    """
    real = os.fsencode(target)
    found = None
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            left, _, right = line.partition(b" - ")
            fields = left.split(b" ")
            if right.split(b" ")[0] == _TYPE and _unescape(fields[4]) == real:
                found = int(fields[0])
    return found


def _unescape(path: bytes) -> bytes:
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), path)
