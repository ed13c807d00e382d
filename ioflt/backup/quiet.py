"""A home in which nothing changes while it is backed up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ioflt import paths
from ioflt.datastore.home import Home
from ioflt.errors import BusyError, IofltError
from ioflt.format.manifest.model import Consistency
from ioflt.keys.mounts import MountControl, sockets


@contextmanager
def quiet(home: Home) -> Iterator[Consistency]:
    """Nobody has a file of it open; or the mounts of its datastore hold writes back until the block ends.

    Raises BusyError where its files are in use and no mount can be asked.
    """
    with ExitStack() as held:
        consistency: Consistency = "powered off"
        try:
            held.enter_context(home.exclusive())
        except BusyError as error:
            mounts = [mount for mount in _mounts(home.volume.path) if not mount.status.read_only]
            if not mounts:
                raise
            try:
                for mount in mounts:
                    held.callback(mount.close)
                    mount.quiesce()
            except IofltError as why:
                raise BusyError(f"in use, and its mount holds no writes back: {why.message}") from error
            held.enter_context(home.shared())
            consistency = "crash-consistent"
        yield consistency


def _mounts(datastore: str) -> list[MountControl]:
    """The mounts of a datastore that can be asked."""
    found = []
    for path in sockets(paths.find()):
        try:
            mount = MountControl(path)
        except (IofltError, OSError):  # gone, or not ours to ask
            continue
        if _same(mount.status.datastore, datastore):
            found.append(mount)
        else:
            mount.close()
    return found


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
