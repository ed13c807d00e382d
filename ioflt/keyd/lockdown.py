"""Locking all mounts of this host together: all, or none."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from ioflt.errors import IofltError, PeerError
from ioflt.keys.mounts import MountControl, sockets
from ioflt.paths import Paths
from ioflt.transport.unix import NotListening
from ioflt.wire.keyd.replies import Locked
from ioflt.wire.keyd.values import LockMode

_log = logging.getLogger(__name__)

#: Most paths of a report.
_MAX_PATHS = 1024


class Lockdown:
    """One lock over the mounts. `spread` may be called again for mounts that came since."""

    def __init__(self, where: Paths, mode: LockMode, *, rollback: bool = True) -> None:
        self._paths = where
        self._mode: LockMode = mode
        self._rollback = rollback
        self._asked: set[Path] = set()
        self._open: list[str] = []
        self._unflushed: list[str] = []

    def spread(self) -> None:
        """Lock the mounts that are not locked yet. When one refuses: unlock all again, and raise its error.

        In mode "force" a mount that does not answer is reported as not flushed, and the others are locked.
        """
        for path in sockets(self._paths):
            if path in self._asked:
                continue
            try:
                self._lock(path)
            except PeerError as error:
                if self._mode != "force":
                    self._undo()
                    raise
                self._unflushed.append(str(error))
            except IofltError:
                self._undo()
                raise
            self._asked.add(path)

    def _undo(self) -> None:
        if self._rollback:
            unlock(self._asked)
            self._asked.clear()

    def report(self) -> Locked:
        """What was open, and what could not be flushed."""
        return Locked(tuple(self._open[:_MAX_PATHS]), tuple(self._unflushed[:_MAX_PATHS]))

    def _lock(self, path: Path) -> None:
        with contextlib.suppress(NotListening), MountControl(path) as mount:
            locked = mount.lock(self._mode)
            top = mount.status.mountpoint
            self._open += [f"{top}/{name}" for name in locked.open]
            self._unflushed += [f"{top}/{name}" for name in locked.unflushed]


def unlock_all(where: Paths) -> None:
    """Unlock every mount that answers."""
    unlock(set(sockets(where)))


def unlock(paths: set[Path]) -> None:
    """Unlock these mounts. What a mount has to say about it goes to the log: the others are unlocked."""
    for path in sorted(paths):
        try:
            with contextlib.suppress(NotListening), MountControl(path) as mount:
                mount.unlock()
        except IofltError as error:
            _log.error("unlock of a mount: %s", error)
