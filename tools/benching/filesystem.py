"""What all file systems that are measured have: a mount, the directory behind it, processes."""

from __future__ import annotations

import itertools
import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from .programs import BenchError, run

#: Seconds until a process serves, and until it has ended.
_PATIENCE_S = 60.0

_MIB = 1 << 20

#: The disk of a VM that the rows about data are measured by.
DISK = "disk-flat.vmdk"


class FileSystem(ABC):
    """One mount, in a directory of its own: `store` is behind it."""

    #: Seconds after which the kernel asks again for what it knows of a file.
    cache_s: float

    def __init__(self, base: Path) -> None:
        self.store = base / "store"
        self.mountpoint = base / "mnt"
        for path in (self.store, self.mountpoint):
            path.mkdir(parents=True)

    @property
    def mounted_at(self) -> Path:
        return self.mountpoint

    @abstractmethod
    def mount(self) -> None: ...

    @abstractmethod
    def unmount(self) -> None: ...

    @abstractmethod
    def pids(self) -> Sequence[int]:
        """Its processes. Those of daemons that serve several mounts are `helpers`."""

    def helpers(self) -> Sequence[int]:
        return ()

    def remount(self) -> None:
        """Begin anew: nothing is known of any file."""
        self.unmount()
        self.mount()

    def close(self) -> None:
        """Unmount, and end what else runs."""
        if os.path.ismount(self.mounted_at):
            try:
                self.unmount()
            except BenchError:  # interrupted, something may still be open in it
                run("umount", "--lazy", self.mounted_at)


class Served(FileSystem):
    """Of one process, our child. A terminal's Ctrl-C is not for it: it is unmounted."""

    _process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def _command(self) -> Sequence[object]: ...

    def mount(self) -> None:
        command = [str(word) for word in self._command()]
        with open(self.store.parent / "said", "wb") as said:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
            )
        for _ in range(int(_PATIENCE_S / 0.01)):
            if os.path.ismount(self.mounted_at):
                return
            try:
                self._process.wait(0.01)
            except subprocess.TimeoutExpired:
                continue
            break
        raise BenchError(f"{command}: {(self.store.parent / 'said').read_text()}")

    def unmount(self) -> None:
        run("umount", self.mounted_at)
        if self._process is not None:
            self._process.terminate()  # for who does not end by it
            self._process.wait(_PATIENCE_S)
            self._process = None

    def pids(self) -> Sequence[int]:
        return [self._process.pid] if self._process is not None else []

    def close(self) -> None:
        super().close()
        if self._process is not None:  # it was never mounted, or lives on unseen
            self._process.kill()
            self._process.wait()


def fill(path: Path, size: int) -> None:
    """Write noise over so many bytes of it, a MiB again and again: to make it took as long as to write."""
    noise = os.urandom(_MIB)
    with open(path, "r+b" if path.exists() else "wb") as file:
        file.writelines(itertools.repeat(noise, size // _MIB))
