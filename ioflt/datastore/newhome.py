"""A VM home that appears complete, or not at all, and one that goes the same way.

While it is made, or removed, it lies in the datastore's `.ioflt.d` as `home-…`, locked, where no mount shows
it. What a crash leaves there goes at the next mount, and at the next import. One that is erased lies there as
`erase-…`, and is the business of `erase`.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from ioflt import syscalls
from ioflt.crypto.mac import sha256
from ioflt.crypto.rng import random_bytes
from ioflt.datastore import records
from ioflt.datastore.atomic import PRIVATE_DIR, make_private_dir
from ioflt.datastore.home import Home
from ioflt.datastore.standing import is_private
from ioflt.datastore.volume import Volume
from ioflt.errors import (
    BusyError,
    CorruptDataError,
    DeniedError,
    ExistsError,
    IofltError,
    MalformedError,
    ReadOnlyError,
    UsageError,
)
from ioflt.format.record.record import HomeRecord
from ioflt.format.vmdk.descriptor import confine
from ioflt.policy.model import StoragePolicy

#: Longest name of an imported VM, bytes: `NAME_123-flat.vmdk` must be a file name.
MAX_NAME: Final = 200

_DRAFT: Final = "home-"

#: What the name of a hidden home begins with that is restored.
RESUMED: Final = "restore-"

#: What the name of a hidden home begins with that is being erased.
ERASED: Final = "erase-"

_log = logging.getLogger(__name__)


@contextmanager
def new_home(
    volume: Volume,
    name: str,
    record: HomeRecord | None = None,
    policy: StoragePolicy | None = None,
    *,
    integrity: bool = False,
) -> Iterator[Home]:
    """A new home, locked, which gets its name when the block ends well.

    It has that first record, or one by that policy, else by the datastore's own, which is verified for all;
    with `integrity` its files have tags, whatever that says.

    Raises ReadOnlyError, UsageError for the name, ExistsError, KeyUnavailableError, OSError.
    """
    place = check_name(volume, name)
    volume.root.check_writable()
    remove_unfinished(volume.fd)
    make_private_dir(volume.fd)
    draft = f"{PRIVATE_DIR}/{_DRAFT}{random_bytes(8).hex()}"
    os.mkdir(draft, 0o755, dir_fd=volume.fd)
    home = volume.adopt(name, _open_directory(volume.fd, draft))
    try:
        with home.exclusive():
            first = home.store(record or volume.fresh_record(name, policy, integrity=integrity), new=True)
            yield home
            with home.appearing(first):
                os.fsync(home.fd)
                _publish(volume.fd, draft, name, place)
    except BaseException:  # also after Ctrl-C: nothing half made stays
        volume.forget(home)
        shutil.rmtree(draft, dir_fd=volume.fd)
        raise
    os.fsync(volume.fd)


@contextmanager
def resumed_home(volume: Volume, name: str, token: str, first: Callable[[], HomeRecord]) -> Iterator[Home]:
    """As `new_home`, but what interrupts it leaves what is complete: the next one of that name and `token`
    (of hex digits) goes on with it. One of another token takes its place, and starts anew.

    `first`: the first record. Data that is not as it must be, what makes no sense, or may not be done leaves
    nothing; nor does what ends before there is a record.
    """
    place = check_name(volume, name)
    volume.root.check_writable()
    draft = _resumed(volume, name, token)
    home = volume.adopt(name, _open_directory(volume.fd, draft))
    try:
        with home.exclusive():
            record = home.standing().record if records.stamp(home.fd) is not None else None
            if record is None:
                record = home.store(first(), new=True)
            yield home
            with home.appearing(record):
                os.fsync(home.fd)
                _publish(volume.fd, draft, name, place)
    except BaseException as error:
        final = isinstance(error, CorruptDataError | UsageError | DeniedError)
        if final or records.stamp(home.fd) is None:
            volume.forget(home)
            shutil.rmtree(draft, dir_fd=volume.fd)
        raise
    os.fsync(volume.fd)


@contextmanager
def resumed_directory(volume: Volume, name: str, token: str) -> Iterator[int]:
    """The same for a home whose files are put there as they are stored, its record included: the descriptor
    of its directory.

    Raises ReadOnlyError, UsageError for the name, ExistsError, BusyError, OSError.
    """
    place = check_name(volume, name)
    draft = _resumed(volume, name, token)
    fd = _open_directory(volume.fd, draft)
    try:
        if not syscalls.try_flock(fd, fcntl.LOCK_EX):
            raise BusyError("another command restores it", file=place)
        yield fd
        os.fsync(fd)
        _publish(volume.fd, draft, name, place)
    except (CorruptDataError, UsageError, ExistsError):
        shutil.rmtree(draft, dir_fd=volume.fd)
        raise
    finally:
        os.close(fd)
    os.fsync(volume.fd)


def _resumed(volume: Volume, name: str, token: str) -> str:
    """The path of the hidden directory of a home that is restored, which is there; others of that name go."""
    make_private_dir(volume.fd)
    kind = f"{RESUMED}{sha256(os.fsencode(name)).hex()[:16]}-"
    draft = f"{PRIVATE_DIR}/{kind}{token}"

    def remove(path: str, _fd: int) -> None:
        if path != draft:
            shutil.rmtree(path, dir_fd=volume.fd)

    finish(volume.fd, kind, remove)
    with suppress(FileExistsError):
        os.mkdir(draft, 0o755, dir_fd=volume.fd)
    return draft


def dispose(volume: Volume, home: Home) -> None:
    """Remove a home with all its content: its name goes at once, and all else with it or at the next mount.

    The caller has exclusive use of it. Raises OSError.
    """
    shutil.rmtree(hide(volume, home, _DRAFT), dir_fd=volume.fd)


def hide(volume: Volume, home: Home, kind: str) -> str:
    """Take the home's name from it, durably; its path in the datastore from now on, which begins with `kind`.

    The caller has exclusive use of it. Raises OSError.
    """
    make_private_dir(volume.fd)
    hidden = f"{PRIVATE_DIR}/{kind}{random_bytes(8).hex()}"
    os.rename(home.name, hidden, src_dir_fd=volume.fd, dst_dir_fd=volume.fd)
    fd = _open_directory(volume.fd, PRIVATE_DIR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    os.fsync(volume.fd)
    volume.forget(home)
    return hidden


def remove_unfinished(top_fd: int) -> None:
    """Remove the homes in the making that nobody holds the lock of. What cannot be removed is logged."""

    def remove(path: str, _fd: int) -> None:
        shutil.rmtree(path, dir_fd=top_fd)

    finish(top_fd, _DRAFT, remove)


def finish(top_fd: int, kind: str, end: Callable[[str, int], None]) -> list[str]:
    """Have `end` finish the hidden homes of that kind that nobody holds the lock of; paths of the finished.

    It gets the path and the open directory. What raises an error stays, and is logged.
    """
    try:
        fd = _open_directory(top_fd, PRIVATE_DIR)
    except OSError:  # none there, or something else: who makes one tells
        return []
    finished = []
    try:
        for name in os.listdir(fd):
            path = f"{PRIVATE_DIR}/{name}"
            if name.startswith(kind):
                try:
                    _end_unheld(fd, name, path, end)
                except (FileNotFoundError, BlockingIOError):
                    continue
                except (OSError, IofltError) as error:
                    _log.warning("left over, and cannot be removed, %s: %s", path, error)
                    continue
                finished.append(path)
    finally:
        os.close(fd)
    return finished


def check_name(volume: Volume, name: str) -> str:
    """The path of a home that can be made there. Raises ReadOnlyError, UsageError, ExistsError."""
    if volume.read_only:
        raise ReadOnlyError("the datastore is open for reading only", file=volume.path)
    if (why := no_changes(volume.fd)) is not None:
        raise ReadOnlyError(f"takes no new VM: {why}", file=volume.path)
    place = f"{volume.path}/{name}"
    try:
        confine(name, "VM")
    except MalformedError:
        raise UsageError("not a name for a VM", file=place) from None
    if is_private(name) or len(os.fsencode(name)) > MAX_NAME:
        raise UsageError("not a name for a VM", file=place)
    if os.path.lexists(place):
        raise ExistsError("is there already", file=place)
    return place


def no_changes(fd: int) -> str | None:
    """Why no name can be made in, or removed from, that directory, as far as it can be told before."""
    if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
        return "its file system is mounted read-only"
    if not os.access(f"/proc/self/fd/{fd}", os.W_OK | os.X_OK, effective_ids=True):
        return "its directory may not be written"
    return None


def _open_directory(dir_fd: int, name: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=dir_fd)


def _publish(top_fd: int, draft: str, name: str, place: str) -> None:
    try:
        try:
            syscalls.renameat2(top_fd, draft, top_fd, name, syscalls.RENAME_NOREPLACE)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # the file system has no such rename; what appeared meanwhile is replaced only if it is empty
            os.rename(draft, name, src_dir_fd=top_fd, dst_dir_fd=top_fd)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise ExistsError("is there already", file=place) from error
        raise


def _end_unheld(dir_fd: int, name: str, path: str, end: Callable[[str, int], None]) -> None:
    fd = _open_directory(dir_fd, name)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        end(path, fd)
    finally:
        os.close(fd)
