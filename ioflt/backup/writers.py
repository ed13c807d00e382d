"""What writes to a VM that runs: the mounts of its datastore, which tell what is written, and have it wait.

Who may open their control sockets asks them; for anybody else keyd does, if he may back up that VM.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, Protocol

from ioflt import paths
from ioflt.datastore.home import Home
from ioflt.errors import BusyError, IofltError
from ioflt.keys.mounts import MountControl, sockets
from ioflt.keys.watch_requests import WatchedVm
from ioflt.wire.control import messages
from ioflt.wire.keyd.values import MAX_HOLD_S

#: Seconds after which mounts let writes go on whatever became of us: a destination that hangs, say. Ten times
#: what a disk of 10 MB/s takes for the most that is copied meanwhile.
HOLD_S: Final = MAX_HOLD_S


class Watcher(Protocol):
    """keyd."""

    def watch_vm(self, home_id: str, shown: str, device: int, inode: int) -> WatchedVm:
        """Raises DeniedError unless he may back it up, NotFoundError where no mount shows it, PeerError."""
        ...


class Writers(Protocol):
    """For one thread. Each may raise BusyError, PeerError."""

    def watch(self) -> None:
        """From now on they note what is written to the VM."""

    def take_written(self) -> Iterator[tuple[int, int, int, int]]:
        """What was written since then, or since it was taken last: device and inode number of a stored file,
        offset and length in bytes.
        """
        ...

    def hold(self) -> None:
        """All is written back, and what is written waits until `resume`, or for `HOLD_S` seconds."""

    def resume(self) -> None:
        """Writes go on. Raises BusyError where they did before."""

    def check(self) -> None:
        """See that nobody wrote of whom nobody told: that a mount ended, or another one began."""


@contextmanager
def held(writers: Writers) -> Iterator[None]:
    """Writes wait. Raises BusyError where they went on before the end."""
    with ExitStack() as stack:
        stack.callback(writers.resume)
        writers.hold()
        yield


class Mounts:
    """As `Writers`: those whose control sockets one may open."""

    def __init__(self, home: Home, mounts: list[MountControl]) -> None:
        self._home = home
        self._mounts = mounts

    def watch(self) -> None:
        where = named(self._home)
        for mount in self._mounts:
            mount.watch(where)

    def take_written(self) -> Iterator[tuple[int, int, int, int]]:
        for mount in self._mounts:
            more = True
            while more:
                answer = mount.take_written()
                yield from answer.areas
                more = answer.more

    def hold(self) -> None:
        where = named(self._home)
        for mount in self._mounts:
            mount.quiesce(HOLD_S, where)

    def hold_all(self) -> None:
        """Writes to all of their datastore wait until this process is gone, or the connections are closed."""
        for mount in self._mounts:
            mount.quiesce()

    def resume(self) -> None:
        with ExitStack() as each:
            for mount in self._mounts:
                each.callback(mount.resume)

    def check(self) -> None:
        """Raises BusyError where a mount ended, or another one began."""
        try:
            asked = {mount.refresh().pid for mount in self._mounts}
        except IofltError as error:
            raise BusyError(f"its mount ended meanwhile: {error.message}", file=self._home.name) from error
        with ExitStack() as opened:
            for mount in mounts_of(self._home.volume.path, opened):
                if mount.status.pid not in asked:
                    raise BusyError("another mount of its datastore began meanwhile", file=self._home.name)


class Asked:
    """As `Writers`: by keyd, over a connection of its own."""

    def __init__(self, watched: WatchedVm) -> None:
        self._watched = watched

    def watch(self) -> None:
        """Nothing: they do, since keyd was asked."""

    def take_written(self) -> Iterator[tuple[int, int, int, int]]:
        return self._watched.take_written()

    def hold(self) -> None:
        self._watched.hold(HOLD_S)

    def resume(self) -> None:
        self._watched.resume()

    def check(self) -> None:
        """Nothing: keyd does, when they are to go on."""


def mounts_of(datastore: str, opened: ExitStack) -> list[MountControl]:
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


def named(home: Home) -> messages.Home:
    """What mounts are told of which VM it is. Raises BusyError for one that has no record."""
    record = home.unverified().record
    if record is None:
        raise BusyError("in use, and has no record by which its mount would know it", file=home.name)
    info = os.fstat(home.fd)
    return messages.Home(info.st_dev, info.st_ino, record.home_id)


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
