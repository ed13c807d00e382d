"""Who uses a home, and who must have it alone: advisory locks that mounts and commands of any process keep.

on its directory     shared: beside mounts, or a file of it is open | exclusive: nobody has a file open
on `.ioflt.d`        recrypting: the one command that changes its keys
on its record        unchanging: who makes and moves files by it | frozen: who changes it
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ioflt import syscalls
from ioflt.datastore import atomic, records
from ioflt.datastore.atomic import PRIVATE_DIR, RECORD
from ioflt.errors import BusyError

#: Seconds for which a change of files waits for a change of the record, and the other way round.
_RECORD_WAIT_S = 30.0
_RECORD_PAUSE_S = 0.002


class HomeLocks:
    """The locks of a directory with a record. Owns its descriptor `fd`; errors call it `name`."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd
        self._lock_fd: int | None = None
        self._users = 0
        #: Whether it is ours alone now.
        self.held = False
        #: Whether another process has it alone, and lets us in.
        self.held_for_us = False

    def close(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None
        os.close(self.fd)

    def enter(self) -> None:
        """Count one open file. Raises BusyError while the home is being converted."""
        if self._users == 0 and not self.held_for_us:
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(fd)
                raise BusyError("is being converted, or a command works on it", file=self.name) from error
            self._lock_fd = fd
        self._users += 1

    @property
    def in_use(self) -> bool:
        """Whether a file of it is open here."""
        return self._users > 0

    def leave(self) -> None:
        """One open file less."""
        self._users -= 1
        if self._users == 0 and self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Nobody has a file of the home open, here or in any mount. Raises BusyError."""
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BusyError("in use: a file of it is open in a mount", file=self.name) from error
            self.held = True
            yield
        finally:
            self.held = False
            os.close(fd)

    @contextmanager
    def recrypting(self) -> Iterator[None]:
        """The one command that changes the home's keys, while mounts may use it. Raises BusyError."""
        atomic.make_private_dir(self.fd)
        fd = os.open(PRIVATE_DIR, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            if not syscalls.try_flock(fd, fcntl.LOCK_EX):
                raise BusyError("another command changes its keys", file=self.name)
            with self.shared():
                yield
        finally:
            os.close(fd)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Nobody has exclusive use of the home; mounts may use it. Raises BusyError."""
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            if not syscalls.try_flock(fd, fcntl.LOCK_SH):
                raise BusyError("is being converted, or a command works on it", file=self.name)
            yield
        finally:
            os.close(fd)

    @contextmanager
    def unchanging(self) -> Iterator[None]:
        """The keys and names in the record stay as they are, whatever it says. Raises BusyError."""
        with self._record_held(os.O_RDONLY, _hold_shared):
            yield

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Nobody makes or moves a file of the home: who acted by the record is done. Raises BusyError."""
        with self._record_held(os.O_RDWR, _hold_alone):
            yield

    @contextmanager
    def _record_held(self, flags: int, hold: Callable[[int], bool]) -> Iterator[None]:
        """Lock the file of the record. It is replaced with each change: who waited looks again."""
        while True:
            fd = os.open(RECORD, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd)
            try:
                if not hold(fd):
                    raise BusyError("its keys are being changed, or files made and moved", file=self.name)
                if records.is_current(self.fd, fd):
                    yield
                    return
            finally:
                os.close(fd)


def _hold_shared(fd: int) -> bool:
    """The flock of a record, for reading. Who wants it alone has the OFD lock, too: he is let pass first."""
    free = _await(lambda: not syscalls.is_write_locked(fd))
    return free and syscalls.try_flock(fd, fcntl.LOCK_SH, wait=_RECORD_WAIT_S)


def _hold_alone(fd: int) -> bool:
    mine = _await(lambda: syscalls.try_write_lock(fd))
    return mine and syscalls.try_flock(fd, fcntl.LOCK_EX, wait=_RECORD_WAIT_S)


def _await(condition: Callable[[], bool]) -> bool:
    """Whether it came true in `_RECORD_WAIT_S` seconds."""
    deadline = time.monotonic() + _RECORD_WAIT_S
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_RECORD_PAUSE_S)
    return True
