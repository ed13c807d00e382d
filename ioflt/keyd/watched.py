"""The mounts through which a VM is written, asked for one connection: what is written, and to wait.

Mounts listen to root and to whom they belong to. For who may back up that VM keyd asks them: about that VM
alone, and for a bounded time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Final

from ioflt.errors import BusyError, IofltError, NotFoundError
from ioflt.keys.mounts import MountControl, sockets
from ioflt.paths import Paths
from ioflt.transport.unix import NotListening
from ioflt.wire.control.messages import Home, WrittenAreas

#: Seconds that the mounts may take for one request, all together: less than clients wait for keyd. A hold may
#: wait for as long as the one before it lasted, which is 30 s at the most, and for what is written back.
ANSWER_S: Final = 45.0


class Watched:
    """For one thread at a time; ends with `close`. Errors name the mount."""

    def __init__(self, where: Paths, home: Home, shown: str) -> None:
        """From now on the mounts note what is written to it.

        Raises NotFoundError where none shows it, PeerError where one does not answer.
        """
        self._paths = where
        self._home = home
        self._shown = shown
        self._mounts: dict[Path, MountControl] = {}
        self._next = 0  # which mount is asked next what was written
        self._until = monotonic() + ANSWER_S
        try:
            for path in sockets(where):
                if (mount := self._reached(path)) is not None:
                    self._mounts[path] = mount
            if not self._mounts:
                raise NotFoundError("no mount of this host shows it", file=shown)
        except BaseException:  # nobody else closes them
            self.close()
            raise

    @property
    def mountpoints(self) -> list[str]:
        """Where those mounts are."""
        return [mount.status.mountpoint for mount in self._mounts.values()]

    def take(self) -> WrittenAreas:
        """What was written since it began, or since it was taken last, or the first part of that."""
        self._until = monotonic() + ANSWER_S
        mounts = list(self._mounts.values())
        with self._asking(mounts[self._next]) as mount:
            found = mount.take_written()
        if not found.more:
            self._next = (self._next + 1) % len(mounts)
        return WrittenAreas(found.areas, more=found.more or self._next != 0)

    def hold(self, limit: int) -> None:
        """Writes wait in all mounts, for so many seconds at the most, or in none.

        Raises BusyError, PeerError.
        """
        self._until = monotonic() + ANSWER_S
        with ExitStack() as undone:
            for each in self._mounts.values():
                with self._asking(each) as mount:
                    mount.quiesce(limit, self._home)
                undone.callback(self._resume_if_possible, each)
            undone.pop_all()

    def resume(self) -> None:
        """Writes go on. Raises BusyError where they did before, or another mount began, PeerError where one
        ended.
        """
        self._until = monotonic() + ANSWER_S
        with ExitStack() as each:
            for mount in self._mounts.values():
                each.callback(self._resume, mount)
            for path in sockets(self._paths):
                if path not in self._mounts and (new := self._reached(path)) is not None:
                    new.close()
                    raise BusyError("another mount of it began meanwhile", file=self._shown)

    def close(self) -> None:
        """Mounts end with the connections what was asked over them. May be called again."""
        for mount in self._mounts.values():
            mount.close()

    def _reached(self, path: Path) -> MountControl | None:
        """The mount there, which watches; None for one that is gone, or through which nobody writes to it."""
        try:
            mount = MountControl(path, self._left())
        except NotListening:
            return None
        with ExitStack() as unused:
            unused.callback(mount.close)
            if mount.status.read_only:
                return None
            try:
                with self._asking(mount):
                    mount.watch(self._home)
            except NotFoundError:
                return None
            unused.pop_all()
            return mount

    def _resume(self, each: MountControl) -> None:
        with self._asking(each) as mount:
            mount.resume()

    def _resume_if_possible(self, each: MountControl) -> None:
        with suppress(IofltError):  # what went wrong is said in any case
            self._resume(each)

    @contextmanager
    def _asking(self, mount: MountControl) -> Iterator[MountControl]:
        mount.timeout = self._left()
        try:
            yield mount
        except IofltError as error:
            error.file = error.file or mount.status.mountpoint
            raise

    def _left(self) -> float:
        return max(0.1, self._until - monotonic())
