"""What processes are that use keys: as they say of themselves in /proc, to be shown and not believed."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: Bytes of a command line that are looked at.
_MAX_COMMAND = 16 << 10

_MOUNT = [b"-m", b"ioflt.fuse"]


@dataclass(frozen=True, slots=True)
class Process:
    """One that is connected to keyd. `mountpoint`: it serves that mount; else `command` is its name."""

    pid: int
    uid: int
    mountpoint: str | None
    command: str | None

    def __str__(self) -> str:
        what = f"mount {self.mountpoint}" if self.mountpoint is not None else self.command or "?"
        return f"{what} (pid {self.pid}, uid {self.uid})"


def process(pid: int, uid: int) -> Process:
    """What that process is; of one that has ended only its number is known."""
    place = Path(f"/proc/{pid}")
    with suppress(OSError):
        with (place / "cmdline").open("rb") as file:
            words = file.read(_MAX_COMMAND).split(b"\0")
        if _MOUNT in (words[at : at + 2] for at in range(len(words))):
            begin = words.index(_MOUNT[1]) + 1
            if len(words) > begin + 1:
                return Process(pid, uid, os.fsdecode(words[begin + 1]), None)
        name = (place / "comm").read_bytes().removesuffix(b"\n")
        return Process(pid, uid, None, os.fsdecode(name))
    return Process(pid, uid, None, None)
