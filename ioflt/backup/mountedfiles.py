"""Which file of which VM a path in a mount of this host is."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ioflt import paths
from ioflt.errors import DeniedError, PeerError
from ioflt.keys.mounts import MountControl, sockets


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount that answers on its control socket. `device`: of the files that it shows."""

    mountpoint: Path
    datastore: Path
    device: int


@dataclass(frozen=True, slots=True)
class Shown:
    """A file of a VM. `path`: in its home, whose name is `vm`; `real`: all of it, through no symlink."""

    mount: Mount
    vm: str
    path: str
    real: str


def mounts() -> list[Mount]:
    """Those of this user or host which answer."""
    found = []
    for socket in sockets(paths.find()):
        with suppress(PeerError, DeniedError, OSError), MountControl(socket) as control:
            top = Path(control.status.mountpoint)
            found.append(Mount(top, Path(control.status.datastore), os.stat(top).st_dev))
    return found


def locate(path: str, among: list[Mount]) -> Shown | None:
    """What that file is; None when it is in none of the mounts, or of no VM."""
    real = Path(os.path.realpath(path))
    for mount in among:
        if not real.is_relative_to(mount.mountpoint):
            continue
        with suppress(OSError):  # it is gone, or the mount is
            vm, *below = real.relative_to(mount.mountpoint).parts
            if below and os.stat(real).st_dev == mount.device:  # and nothing is mounted over it
                return Shown(mount, vm, os.path.join(*below), str(real))
    return None
