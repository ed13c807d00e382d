"""A datastore with its keys and its mount, as a user has them: everything through the `ioflt` command.

Its daemons are programs that start, the command itself is a fork (tests/forked.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ioflt import paths
from ioflt.errors import PeerError
from ioflt.keys.mounts import MountControl
from tests import forked
from tests.daemons import end_keyd
from tests.waiting import await_end, eventually

#: Homes that `make_homes` makes, by kind. The empty name stands for the datastore's root.
HOMES = ("thin", "thick", "tagged", "clear")


class Place:
    """`datastore` and `mountpoint` below `base`; $IOFLT_HOME is that of the environment."""

    def __init__(self, base: Path, *, encrypt: bool = True) -> None:
        self.base = base
        self.datastore = base / "ds"
        self.mountpoint = base / "mnt"
        self.mountpoint.mkdir()
        self.ioflt("datastore", "init", self.datastore, "--encrypt" if encrypt else "--clear")

    def ioflt(self, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [forked.ioflt(), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )
        if check:
            assert result.returncode == 0, result.stdout + result.stderr
        return result

    def make_homes(self) -> None:
        """An empty home of each kind of `HOMES`; the datastore is encrypting and not mounted."""
        for name in HOMES:
            (self.datastore / name).mkdir()
        for name in ("thick", "tagged", "clear"):
            self.ioflt("vm", "decrypt", self.datastore / name)
        self.ioflt("vm", "encrypt", "--integrity", self.datastore / "tagged")
        self.ioflt("vm", "encrypt", "--thick", self.datastore / "thick")

    def mount(self, *options: str) -> Path:
        self.ioflt("mount", *options, self.datastore, self.mountpoint)
        return self.mountpoint

    def umount(self) -> None:
        self.ioflt("umount", self.mountpoint)

    def remount(self, *options: str) -> Path:
        self.umount()
        return self.mount(*options)

    @property
    def pid(self) -> int:
        """Of the mount's process."""
        with MountControl(paths.find().control_socket(str(self.mountpoint))) as control:
            return control.status.pid

    def kill(self) -> None:
        """SIGKILL the mount, and wait until it is gone. The mount point stays, as a dead one."""
        self.kill_when(lambda: True)

    def kill_when(self, condition: Callable[[], object]) -> None:
        """The same, as soon as `condition()` is true: whatever the mount is doing then."""
        pidfd = os.pidfd_open(self.pid)  # it is asked, and then not again
        try:
            eventually(condition)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            await_end(pidfd)
        finally:
            os.close(pidfd)

    @property
    def log(self) -> str:
        """What mounts have logged."""
        return (paths.find().logs / "mount.log").read_text()

    def complaints(self) -> list[str]:
        """Lines of the log that are warnings or worse, and tracebacks."""
        return [line for line in self.log.splitlines() if " INFO " not in line]

    def end(self) -> None:
        """Leave nothing mounted or running: a mount that goes on would start a keyd for its last event."""
        process = None
        with suppress(PeerError, OSError):  # there is none
            process = os.pidfd_open(self.pid)
        try:
            if self.ioflt("umount", self.mountpoint, check=False).returncode:
                subprocess.run(["umount", "-l", str(self.mountpoint)], capture_output=True, check=False)
                if process is not None:
                    with suppress(ProcessLookupError):
                        signal.pidfd_send_signal(process, signal.SIGKILL)
                    await_end(process)
        finally:
            if process is not None:
                os.close(process)
        end_keyd()
