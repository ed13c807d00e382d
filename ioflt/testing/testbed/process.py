"""Processes of a bed, which go on when the command that started them ends."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path
from typing import Final

import msgspec

from ioflt.errors import PeerError

_END_S: Final = 30.0


class Process(msgspec.Struct, frozen=True):
    """A process: its number may be another's later, its number and its start not."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process:
        return cls(pid, _started(pid))

    def kill(self) -> None:
        """End it at once, with its group if it leads one, and wait until it is gone. May be called again."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if _started(self.pid) == self.started:
                if os.getpgid(self.pid) == self.pid:
                    os.killpg(self.pid, signal.SIGKILL)
                else:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                if not select.select([pidfd], [], [], _END_S)[0]:
                    raise PeerError(f"the process {self.pid} does not end")
        except (ProcessLookupError, FileNotFoundError):
            return
        finally:
            os.close(pidfd)


def _started(pid: int) -> int:
    """When the process started, in ticks since the machine did."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
