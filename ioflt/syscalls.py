"""Linux calls that Python's `os` lacks: fallocate with modes, sync_file_range, openat2, renameat2, FICLONE,
OFD locks, inotify.

Every function raises OSError as `os` would. Flag values are those of the kernel's uapi headers.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_libc.syscall.restype = ctypes.c_long
_libc.futimens.argtypes = (ctypes.c_int, ctypes.c_char_p)
_libc.utimensat.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int)
_libc.linkat.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int)
_libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
_libc.fchownat.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_int)

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
FALLOC_FL_ZERO_RANGE = 0x10

_SYNC_FILE_RANGE_WRITE = 2

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

_SYS_RENAMEAT2 = {"x86_64": 316, "aarch64": 276}
_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_XDEV = 0x01
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08

#: In place of a directory's descriptor: the current directory.
AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_FICLONE = 0x40049409  # linux/fs.h

# linux/inotify.h: what changes in a directory when a file of it is written or made.
_IN_WRITTEN = 0x02 | 0x80 | 0x100  # IN_MODIFY, IN_MOVED_TO, IN_CREATE
_INOTIFY_READ = 16 << 10

# Two struct timespec: UTIME_OMIT for the access time, UTIME_NOW for the modification time.
_OMIT_AND_NOW = struct.pack("qqqq", 0, (1 << 30) - 2, 0, (1 << 30) - 1)

# struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid (0 for OFD locks).
_FLOCK = struct.Struct("hhqqi4x")
_F_OFD_GETLK = 36
_F_OFD_SETLK = 37

# flock(2) knows no time-out but a signal's: seconds between two tries.
_FLOCK_PAUSE_S = 0.002


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2); offset and length in bytes."""
    while True:
        try:
            _check(_libc.fallocate(fd, mode, offset, length))
            return
        except InterruptedError:
            continue


def begin_writing(fd: int) -> None:
    """sync_file_range(2): the kernel begins to write what of the file is not on the medium. Syncs nothing."""
    _check(_libc.sync_file_range(fd, 0, 0, _SYNC_FILE_RANGE_WRITE))


def touch(fd: int) -> None:
    """The file was modified now: sets mtime and ctime, by the kernel's clock, and leaves atime if it may."""
    try:
        _check(_libc.futimens(fd, _OMIT_AND_NOW))
    except PermissionError:  # who may write a file of somebody else may set both times to now, not one
        os.utime(fd)


def fchownat(fd: int, uid: int, gid: int) -> None:
    """chown(2) of the inode of an O_PATH descriptor, of a symlink itself; -1 leaves as it is."""
    _check(_libc.fchownat(fd, b"", uid & 0xFFFFFFFF, gid & 0xFFFFFFFF, _AT_EMPTY_PATH))


def link(fd: int, new_dir: int, new: str) -> None:
    """link(2) of the inode of an O_PATH descriptor, of a symlink itself.

    ENOENT: it has no name left, or an unprivileged caller before Linux 6.10.
    """
    _check(_libc.linkat(fd, b"", new_dir, os.fsencode(new), _AT_EMPTY_PATH))


def utimensat(fd: int, atime_ns: int, mtime_ns: int) -> None:
    """Set the times of the inode of an O_PATH descriptor, of a symlink itself. Needs Linux 5.8."""
    times = struct.pack("qqqq", *divmod(atime_ns, 10**9), *divmod(mtime_ns, 10**9))
    _check(_libc.utimensat(fd, b"", times, _AT_EMPTY_PATH))


def renameat2(
    old_dir: int, old: str | os.PathLike[str], new_dir: int, new: str | os.PathLike[str], flags: int
) -> None:
    """renameat2(2) with RENAME_NOREPLACE or RENAME_EXCHANGE."""
    number = _SYS_RENAMEAT2.get(os.uname().machine)
    if number is None:
        raise OSError(errno.EINVAL, "renameat2 is not known for this machine")
    arguments = (old_dir, os.fsencode(old), new_dir, os.fsencode(new), flags)
    _check(_libc.syscall(number, *arguments))


def reflink(target: int, source: int) -> bool:
    """Give `target` the blocks of `source`, shared until one is written; False where that cannot be."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS):
            return False
        raise
    return True


def open_beneath(dir_fd: int, name: str, flags: int) -> int:
    """Open `name` under `dir_fd` through no symlink, no mount point, and never above it.

    Returns a descriptor. Raises OSError (ELOOP for a symlink, EXDEV for what leaves the directory).
    """
    how = struct.pack(
        "QQQ",
        flags | os.O_CLOEXEC,
        0,
        _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_XDEV,
    )
    return _check(_libc.syscall(_SYS_OPENAT2, dir_fd, os.fsencode(name), how, len(how)))


@contextmanager
def watching(directory: str | os.PathLike[str]) -> Iterator[Callable[[], None]]:
    """inotify(7): gives a function that returns once a file there was written or made since it was called
    last, or since the block began.
    """
    fd = _check(_libc.inotify_init1(os.O_CLOEXEC))
    try:
        _check(_libc.inotify_add_watch(fd, os.fsencode(directory), _IN_WRITTEN))

        def wait() -> None:
            os.read(fd, _INOTIFY_READ)

        yield wait
    finally:
        os.close(fd)


def mount_id(fd: int) -> int:
    """The kernel's number for the mount by which `fd` was opened."""
    with open(f"/proc/self/fdinfo/{fd}") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("mnt_id:"))


def try_flock(fd: int, how: int, *, wait: float = 0) -> bool:
    """flock(2), `how` LOCK_SH or LOCK_EX; False when it is not to be had within `wait` seconds."""
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_FLOCK_PAUSE_S)
        else:
            return True


def try_write_lock(fd: int) -> bool:
    """Take a whole-file OFD write lock on `fd` (opened for writing); False when somebody else has one."""
    try:
        fcntl.fcntl(fd, _F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def is_write_locked(fd: int) -> bool:
    """Whether somebody else has an OFD write lock on the file."""
    found = fcntl.fcntl(fd, _F_OFD_GETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
    kind: int = _FLOCK.unpack(found)[0]
    return kind != fcntl.F_UNLCK


def unlock(fd: int) -> None:
    """Drop the OFD lock of `fd`."""
    fcntl.fcntl(fd, _F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))
