"""The kernel's list of mounts, as far as ioflt asks it. Format: proc_pid_mountinfo(5)."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass

_TYPE = b"fuse.ioflt"
_IDS = re.compile(rb"(?:^|,)(user_id|group_id)=([0-9]+)")
#: How the kernel writes blanks and backslashes; all other bytes stand for themselves.
_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mounted:
    """One mount: the kernel's number, the datastore that it shows, the ids that FUSE asks its users for.

    `device`: major:minor of its file system, the same in every mount namespace.
    """

    number: int
    device: str
    source: str
    uid: int
    gid: int


def find(target: str) -> Mounted | None:
    """The topmost ioflt mount at that real path; None when there is none. Asks nothing of the mount."""
    real = os.fsencode(target)
    found = None
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            left, _, right = line.partition(b" - ")
            fields = left.split(b" ")
            kind, shown, options = right.rstrip(b"\n").split(b" ")
            if kind == _TYPE and _unescape(fields[4]) == real:
                ids = dict(_IDS.findall(options))
                uid, gid = int(ids[b"user_id"]), int(ids[b"group_id"])
                found = Mounted(int(fields[0]), fields[2].decode(), os.fsdecode(_unescape(shown)), uid, gid)
    return found


def mount_id(target: str) -> int | None:
    """The kernel's number for the mount that `find` gives."""
    found = find(target)
    return None if found is None else found.number


def source(target: str) -> str | None:
    """The datastore that this mount shows; None when there is none."""
    found = find(target)
    return None if found is None else found.source


def holder(device: str) -> int | None:
    """A process whose mount namespace, not ours, has the file system of that device; None: of those that we
    may look at none has.
    """
    looked_at = {os.stat("/proc/self/ns/mnt").st_ino}
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):  # it ended, or is another user's
            namespace = os.stat(f"/proc/{pid}/ns/mnt").st_ino
            if namespace in looked_at:
                continue
            with open(f"/proc/{pid}/mountinfo", "rb") as lines:
                if any(line.split(b" ", 3)[2] == device.encode() for line in lines):
                    return int(pid)
            looked_at.add(namespace)
    return None


def _unescape(path: bytes) -> bytes:
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), path)
