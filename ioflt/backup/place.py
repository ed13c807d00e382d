"""The private directory of one export, or of one reader of it, below the run directory.

exports/<8 hex>/         0711: only its owner lists or changes it
  lock                   locked as long as its process lives: who starts next removes the places of dead ones
  mnt/                   the mount point of an export, or the reader's
  client/                0700, of the user for whom it is: the socket, and the ticket
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from ioflt import syscalls
from ioflt.errors import StorageError
from ioflt.paths import Paths
from ioflt.transport import owned

_LOCK = "lock"
_MOUNTPOINT = "mnt"


class Place:
    """Ours until `close`, which removes it. A context manager."""

    def __init__(self, where: Paths, path: Path, lock: int) -> None:
        self._where = where
        self.path = path
        self._lock = lock

    @classmethod
    def make(cls, where: Paths) -> Place:
        """A new one. What processes left that were killed is removed before. Raises StorageError."""
        top = where.exports
        try:
            top.mkdir(mode=0o711, exist_ok=True)
            making = os.open(top / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(making, fcntl.LOCK_EX)
                _remove_dead(where)
                path = top / secrets.token_hex(4)
                path.mkdir(mode=0o700)
                lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                fcntl.flock(lock, fcntl.LOCK_EX)
            finally:
                os.close(making)
            for name in (path / _MOUNTPOINT, path / "client"):
                name.mkdir(mode=0o700)
            path.chmod(0o711)
            top.chmod(0o711)
        except OSError as error:
            raise StorageError(
                "cannot make a private directory", error.errno or 0, file=error.filename or top
            ) from error
        return cls(where, path, lock)

    @property
    def mountpoint(self) -> Path:
        return self.path / _MOUNTPOINT

    @property
    def client(self) -> Path:
        """What whom it is for comes to."""
        return self.path / "client"

    def give(self, uid: int, gid: int) -> None:
        """`client` and what is in it are that user's."""
        for path in (*self.client.iterdir(), self.client):
            os.chown(path, uid, gid, follow_symlinks=False)

    def close(self) -> None:
        """Remove it with all that is in it. May be called again."""
        if self._lock >= 0:
            _remove(self._where, self.path)
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _remove_dead(where: Paths) -> None:
    """Call while nobody else makes one: then one without a lock is what is left of one."""
    for path in where.exports.iterdir():
        with suppress(OSError):
            try:
                lock = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                _remove(where, path)
                continue
            try:
                if syscalls.try_flock(lock, fcntl.LOCK_EX):
                    _remove(where, path)
            finally:
                os.close(lock)


def _remove(where: Paths, path: Path) -> None:
    """A mount that is left there is taken away first, whatever is below it is not touched; then what its
    process left if it was killed.
    """
    mountpoint = path / _MOUNTPOINT
    if not _is_gone(mountpoint):
        command = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
        subprocess.run([*command, str(mountpoint)], capture_output=True, check=False)
        if not _is_gone(mountpoint):
            return
    with suppress(OSError):
        owned.remove_stale(where.control_socket(str(mountpoint)))
    shutil.rmtree(path, ignore_errors=True)


def _is_gone(mountpoint: Path) -> bool:
    """Whether it could be removed, or was before; also where it is mounted in another mount namespace.

    That it cannot be looked at does not tell: so it is with a mount that nobody serves any more.
    """
    try:
        mountpoint.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
