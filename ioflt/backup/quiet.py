"""Who uses a home that is backed up, and how nothing changes in it meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from ioflt import paths
from ioflt.datastore.home import Home
from ioflt.errors import BusyError, IofltError
from ioflt.format.manifest.model import Consistency
from ioflt.keys.mounts import MountControl, sockets


@dataclass(frozen=True, slots=True)
class Quiet:
    """`held`: the mounts that hold writes back; none where nobody has a file open."""

    home: Home
    consistency: Consistency
    held: list[MountControl]

    def check(self) -> None:
        """See that nobody wrote so far. Raises BusyError where a mount ended, or another one began."""
        if not self.held:
            return
        try:
            asked = {mount.refresh().pid for mount in self.held}
        except IofltError as error:
            raise BusyError(f"its mount ended meanwhile: {error.message}", file=self.home.name) from error
        with ExitStack() as opened:
            for mount in _mounts(self.home.volume.path, opened):
                if mount.status.pid not in asked:
                    raise BusyError("another mount of its datastore began meanwhile", file=self.home.name)


@contextmanager
def quiet(home: Home) -> Iterator[Quiet]:
    """Nobody has a file of it open; or the mounts of its datastore hold writes back until the block ends, as
    long as they live: `check` comes before anybody relies on what was read.

    Raises BusyError where its files are in use and no mount can be asked.
    """
    with users(home) as mounts:
        for mount in mounts:
            try:
                mount.quiesce()
            except IofltError as why:
                raise BusyError(f"in use, and its mount holds no writes back: {why.message}") from why
        yield Quiet(home, "crash-consistent" if mounts else "powered off", mounts)


@contextmanager
def users(home: Home) -> Iterator[list[MountControl]]:
    """The mounts that may write to it meanwhile; none, if nobody has a file of it open.

    Raises BusyError where its files are in use and no mount can be asked.
    """
    with ExitStack() as held:
        mounts: list[MountControl] = []
        try:
            held.enter_context(home.exclusive())
        except BusyError:
            mounts = _mounts(home.volume.path, held)
            if not mounts:
                raise
            held.enter_context(home.shared())
        yield mounts


def _mounts(datastore: str, opened: ExitStack) -> list[MountControl]:
    """The mounts of a datastore that can be asked, and written to; `opened` closes them."""
    found = []
    for path in sockets(paths.find()):
        try:
            mount = MountControl(path)
        except (IofltError, OSError):  # gone, or not ours to ask
            continue
        if _same(mount.status.datastore, datastore) and not mount.status.read_only:
            found.append(mount)
            opened.callback(mount.close)
        else:
            mount.close()
    return found


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
