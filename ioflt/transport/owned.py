"""A path, mostly of a socket, that only one process can own, by `flock` on `<path>.lock` as long as it does.

Only the owner removes a stale socket and binds, so two daemons never serve one path and none removes the
other's live socket. Only he removes the lock file, too, and does so last, while he still has its lock: who
opened it before then, and gets its lock, has that of a file that is not there any more. So whoever gets a
lock looks whether it is that of the file which is there now, and else begins anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from ioflt import syscalls
from ioflt.errors import BusyError

_TRIES, _PAUSE_S = 20, 0.05  # a process that ends may own its socket a moment longer


def take(path: Path) -> int:
    """The lock's descriptor, for `give_free`. Raises BusyError when another process owns the path."""
    for _ in range(_TRIES):
        if (lock := try_take(path)) >= 0:
            return lock
        time.sleep(_PAUSE_S)
    raise BusyError("another process serves this socket", file=path)


def try_take(path: Path) -> int:
    """As `take`, without waiting; -1: another process has it, or just gave it free."""
    lock = os.open(_file(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    if syscalls.try_flock(lock, fcntl.LOCK_EX) and _is_there(lock, path):
        return lock
    os.close(lock)
    return -1


def give_free(path: Path, lock: int) -> None:
    """The socket is not there any more, or somebody else's to remove."""
    with contextlib.suppress(OSError):  # it stays, and does no harm
        os.unlink(_file(path))
    os.close(lock)


def wait_free(path: Path) -> None:
    """Return when no process owns the path."""
    try:
        lock = os.open(_file(path), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
    finally:
        os.close(lock)


def remove_stale(path: Path) -> None:
    """A socket whose owner was killed goes with its lock; one that is owned stays."""
    if (lock := try_take(path)) >= 0:
        path.unlink(missing_ok=True)
        give_free(path, lock)


def _is_there(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), os.stat(_file(path)))
    except FileNotFoundError:
        return False


def _file(path: Path) -> str:
    return f"{path}.lock"
