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
    found = _topmost(target)
    return None if found is None else found[0]


def source(target: str) -> str | None:
    """The datastore that this mount shows; None when there is none."""
    found = _topmost(target)
    return None if found is None else found[1]


def _topmost(target: str) -> tuple[int, str] | None:
    real = os.fsencode(target)
    found = None
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            left, _, right = line.partition(b" - ")
            fields = left.split(b" ")
            kind, shown, *_ = right.split(b" ")
            if kind == _TYPE and _unescape(fields[4]) == real:
                found = int(fields[0]), os.fsdecode(_unescape(shown))
    return found


def _unescape(path: bytes) -> bytes:
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), path)
