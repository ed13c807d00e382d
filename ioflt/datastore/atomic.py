"""New files that appear whole, or not at all.

A draft has no name (O_TMPFILE) until it is published; where the file system has no such files, and for
the moment of a replacement, it is called `.ioflt.d/new-…`. What a crash leaves there goes at the next mount.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
from contextlib import suppress
from types import TracebackType

from ioflt.crypto.rng import random_bytes

#: Our directory at the top of a home (and of the datastore).
PRIVATE_DIR = ".ioflt.d"
#: The record at the top of a home (and of the datastore).
RECORD = ".ioflt"

_log = logging.getLogger(__name__)

_DRAFT = "new-"
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)


def make_private_dir(top_fd: int) -> None:
    """Make `.ioflt.d` if it is missing; refuse something else of that name (ENOTDIR)."""
    try:
        os.mkdir(PRIVATE_DIR, 0o700, dir_fd=top_fd)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(PRIVATE_DIR, dir_fd=top_fd, follow_symlinks=False).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), PRIVATE_DIR) from None


def remove_drafts(top_fd: int) -> None:
    """Remove what interrupted publications left: drafts that nobody holds the flock of.

    What cannot be removed, and is no draft of ours therefore, stays, and is logged.
    """
    try:
        fd = os.open(PRIVATE_DIR, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top_fd)
    except FileNotFoundError:
        return
    except OSError as error:
        _log_left(top_fd, error)
        return
    try:
        for name in os.listdir(fd):
            if name.startswith(_DRAFT):
                try:
                    _remove_unheld(fd, name)
                except (FileNotFoundError, BlockingIOError):
                    continue
                except OSError as error:
                    _log_left(fd, error)
    finally:
        os.close(fd)


class Draft:
    """A file in the making, open for reading and writing at `fd`, mode 0600, locked (flock) meanwhile.

    Leaving the `with` block without a publication throws it away. `take` hands the descriptor on.
    """

    def __init__(self, top_fd: int) -> None:
        self._top = top_fd
        self._name: str | None = None
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            self.fd = os.open(".", flags | os.O_TMPFILE, 0o600, dir_fd=top_fd)
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
            make_private_dir(top_fd)
            self._name = _draft_name()
            self.fd = os.open(self._name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=top_fd)
        fcntl.flock(self.fd, fcntl.LOCK_EX)  # "in use", for `remove_drafts` of a mount that starts meanwhile
        self._taken = False

    def take(self) -> int:
        """The descriptor, which the caller now owns."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        self._taken = True
        return self.fd

    def publish_new(self, parent_fd: int, name: str) -> None:
        """Give the file its name; FileExistsError when it is taken. Syncs nothing."""
        source = self._name or f"/proc/self/fd/{self.fd}"
        source_dir = None if self._name is None else self._top
        os.link(source, name, src_dir_fd=source_dir, dst_dir_fd=parent_fd, follow_symlinks=True)
        self._drop_name()

    def publish_over(self, parent_fd: int, name: str, *, instead_of: tuple[int, str] | None = None) -> None:
        """Put the file in place of `name`, and make both file and name durable.

        `instead_of`: a name (and its directory) that goes with it. A power cut leaves one of the two as a
        rename does where the file system keeps the order of changes: nothing is synced between them.
        """
        os.fsync(self.fd)
        if self._name is None:
            self._name = _link_draft(self._top, self.fd)
        os.rename(self._name, name, src_dir_fd=self._top, dst_dir_fd=parent_fd)
        self._name = None
        if instead_of is not None:
            os.unlink(instead_of[1], dir_fd=instead_of[0])
        sync_directory(parent_fd)

    def __enter__(self) -> Draft:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._drop_name()
        finally:
            if not self._taken:
                os.close(self.fd)

    def _drop_name(self) -> None:
        if self._name is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._name, dir_fd=self._top)
            self._name = None


def replace(
    top_fd: int, parent_fd: int, name: str, data: bytes, *, like: os.stat_result | None = None
) -> None:
    """Put a file with these bytes in place of `name`, durably; owner, mode and times as of `like`."""
    with Draft(top_fd) as draft:
        write_all(draft.fd, data)
        if like is not None:
            dress(draft.fd, like)
        draft.publish_over(parent_fd, name)


def link_over(top_fd: int, fd: int, parent_fd: int, name: str) -> None:
    """Put one more name of the open file `fd` in place of `name`, durably."""
    draft = _link_draft(top_fd, fd)
    try:
        os.rename(draft, name, src_dir_fd=top_fd, dst_dir_fd=parent_fd)
    except OSError:
        with suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=top_fd)
        raise
    sync_directory(parent_fd)


def sync_directory(dir_fd: int) -> None:
    """fsync of a directory, of which `dir_fd` may be an O_PATH descriptor."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | bytearray | memoryview, offset: int = 0) -> None:
    """Write all of `data`, at the beginning of the file or at byte `offset`."""
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)


def keep_times(fd: int, like: os.stat_result) -> None:
    """Give the file the times of `like`, if that may be done: who may write the file of another user may not
    set its times.
    """
    with suppress(PermissionError):
        os.utime(fd, ns=(like.st_atime_ns, like.st_mtime_ns))


def dress(fd: int, like: os.stat_result) -> None:
    """Give the file the owner, mode and times of `like`."""
    info = os.fstat(fd)
    if (info.st_uid, info.st_gid) != (like.st_uid, like.st_gid):
        with suppress(PermissionError):  # a user may own a file of a group that he left
            os.fchown(fd, like.st_uid, like.st_gid)
    os.fchmod(fd, like.st_mode & 0o7777)
    os.utime(fd, ns=(like.st_atime_ns, like.st_mtime_ns))


def _remove_unheld(dir_fd: int, name: str) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=dir_fd)
    finally:
        os.close(fd)


def _link_draft(top_fd: int, fd: int) -> str:
    make_private_dir(top_fd)
    draft = _draft_name()
    os.link(f"/proc/self/fd/{fd}", draft, dst_dir_fd=top_fd, follow_symlinks=True)
    return draft


def _log_left(dir_fd: int, error: OSError) -> None:
    where = os.readlink(f"/proc/self/fd/{dir_fd}")
    _log.warning("left over, and cannot be removed, in %r: %s", where, error.strerror)


def _draft_name() -> str:
    return f"{PRIVATE_DIR}/{_DRAFT}{random_bytes(8).hex()}"
