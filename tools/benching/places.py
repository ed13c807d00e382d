"""The file systems that are measured, and a directory in each.

All have their backing directories side by side on one file system, and stay mounted through a run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from bare_mount import CACHE_S as BARE_S
from ioflt.fuse import kernel
from ioflt.fuse.nodes import CACHE_S as IOFLT_S

from . import processes
from .filesystem import FileSystem, Served
from .luks import Luks
from .programs import IOFLT, ioflt, need, run

_BARE = Path(__file__).resolve().parents[1] / "bare_mount.py"

#: Seconds for which gocryptfs 2.3 lets the kernel keep names and attributes.
_GOCRYPTFS_S = 1.0


#: VMs of a datastore: encrypted, clear, encrypted with tags.
HOMES = ("ioflt", "clear", "integrity")

_System = TypeVar("_System", bound=FileSystem)


class Ioflt(FileSystem):
    """A datastore with VMs of each kind; $IOFLT_HOME says whose keyd it has."""

    cache_s = IOFLT_S

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        for name in HOMES:
            (self.store / name).mkdir()
        ioflt("datastore", "init", self.store, "--encrypt")
        for name in ("clear", "integrity"):  # empty, and therefore encrypted
            ioflt("vm", "decrypt", self.store / name)
        ioflt("vm", "encrypt", self.store / "integrity", "--integrity")

    def mount(self) -> None:
        ioflt("mount", self.store, self.mountpoint)
        self._pids: list[int] = []
        self._keyd: int | None = None

    def unmount(self) -> None:
        ioflt("umount", self.mountpoint)

    def pids(self) -> Sequence[int]:
        """The mount and its broker."""
        self._pids = self._pids or list(processes.with_arguments("ioflt.fuse", self.mountpoint))
        return self._pids

    def helpers(self) -> Sequence[int]:
        """keyd."""
        self._keyd = self._keyd or json.loads(ioflt("keyd", "status", "--json"))["pid"]
        return [self._keyd]


class Bare(Served):
    """`tools/bare_mount.py`. The kernel reads ahead in it as much as in an ioflt mount of root's."""

    cache_s = BARE_S

    def mount(self) -> None:
        super().mount()
        device = self.mountpoint.stat().st_dev  # answered once the session began, which would put it back
        kernel.read_ahead(f"{os.major(device)}:{os.minor(device)}")

    def _command(self) -> Sequence[object]:
        return (sys.executable, _BARE, self.store, self.mountpoint)


class Gocryptfs(Served):
    """As Debian has it, with its own defaults. The password is weak to make it quick; it is asked once."""

    cache_s = _GOCRYPTFS_S

    def __init__(self, base: Path) -> None:
        need("gocryptfs")
        super().__init__(base)
        self._password = base / "password"
        self._password.write_text("bench\n")
        run("gocryptfs", "-init", "-q", "-scryptn", 10, "-passfile", self._password, self.store)

    def _command(self) -> Sequence[object]:
        return ("gocryptfs", "-fg", "-q", "-passfile", self._password, self.store, self.mountpoint)


@dataclass(frozen=True)
class Place:
    """A directory through a file system: `name` is its column."""

    name: str
    system: FileSystem
    directory: Path

    def pids(self) -> list[int]:
        """All whose work is for it."""
        return [*self.system.pids(), *self.system.helpers()]


class Places:
    """Each is made and mounted when it is first asked for. In the end nothing is left mounted or running."""

    def __init__(self, base: Path, cleanup: ExitStack, size: int) -> None:
        """`size`: of the disk of LUKS. $IOFLT_HOME becomes a directory in `base`, for all that is started."""
        self.base = base
        self._cleanup = cleanup
        self._size = size
        self._systems: dict[str, FileSystem] = {}
        os.environ["IOFLT_HOME"] = str(base / "home")
        cleanup.callback(_stop_keyd)

    def __getitem__(self, name: str) -> Place:
        if name in HOMES:
            system = self._system("ioflt")
            return Place(name, system, system.mountpoint / name)
        system = self._system(name)
        return Place(name, system, system.mountpoint)

    def _system(self, name: str) -> FileSystem:
        if name not in self._systems:
            self._systems[name] = self.another(self._kind(name), name)
            self._systems[name].mount()
        return self._systems[name]

    def _kind(self, name: str) -> Callable[[Path], FileSystem]:
        if name == "luks":
            return partial(Luks, size=self._size)
        return {"ioflt": Ioflt, "bare": Bare, "gocryptfs": Gocryptfs}[name]

    def another(self, make: Callable[[Path], _System], name: str) -> _System:
        """One that is no place, not mounted yet."""
        system = make(self.base / name)
        self._cleanup.callback(system.close)
        return system


def _stop_keyd() -> None:
    subprocess.run([IOFLT, "keyd", "stop"], capture_output=True, check=False)  # perhaps nothing started it
