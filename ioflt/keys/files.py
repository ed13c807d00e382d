"""Small files, most of them secret: read with a limit, written so that a crash leaves the old or the new."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from ioflt import syscalls
from ioflt.crypto.rng import random_bytes
from ioflt.errors import ExistsError, NotFoundError, StorageError

#: What file systems say that have no files without a name.
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}")


def read(path: Path, limit: int) -> bytes:
    """The file, or its first `limit + 1` bytes. Raises NotFoundError, StorageError."""
    try:
        with path.open("rb", buffering=0) as file:
            return file.read(limit + 1)
    except FileNotFoundError:
        raise NotFoundError("it does not exist", file=path) from None
    except OSError as error:
        raise StorageError("cannot read", error.errno or 0, file=path) from error


def create(path: Path, data: bytes | memoryview) -> None:
    """A new file of mode 0600, durable. Raises ExistsError, StorageError."""
    with _telling(path), _directory(path.parent) as directory:
        try:
            descriptor = os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=directory)
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
            with _temporary(path, data) as temporary:
                _give_name(temporary, path)
            return
        with open(descriptor, "wb", buffering=0) as file:
            _put(file, data)
            source = f"/proc/self/fd/{descriptor}"
            os.link(source, path.name, dst_dir_fd=directory, follow_symlinks=True)
        os.fsync(directory)


def replace(path: Path, data: bytes | memoryview, mode: int = 0o600) -> None:
    """The file with that mode, but for the umask, and new content, durable. Raises StorageError."""
    with _telling(path), _temporary(path, data, mode) as temporary:
        os.rename(temporary, path)


def supersede(path: Path, data: bytes | memoryview) -> None:
    """As `replace` of a file that is there; what it held is overwritten as by `destroy`.

    Raises StorageError.
    """
    with _telling(path), _temporary(path, data) as temporary:
        try:
            syscalls.renameat2(
                syscalls.AT_FDCWD, temporary, syscalls.AT_FDCWD, path, syscalls.RENAME_EXCHANGE
            )
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            with open(path, "r+b", buffering=0) as old:  # file systems that cannot exchange two names
                os.rename(temporary, path)
                _put(old, bytes(os.fstat(old.fileno()).st_size))
            return
        with _directory(path.parent) as directory:
            os.fsync(directory)  # the new one has the name before the old one is gone
        destroy(temporary)


def remove_left(directory: Path) -> None:
    """Overwrite and remove what interrupted calls left there. Nobody else may be writing there now."""
    for entry in os.scandir(directory):
        if _TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            destroy(Path(entry.path))


def destroy(path: Path) -> None:
    """Overwrite and remove a file, durably; it may be gone. Raises StorageError.

    File systems and flash that write elsewhere may keep an old copy of it all the same.
    """
    with _telling(path), contextlib.suppress(FileNotFoundError), _directory(path.parent) as directory:
        with open(os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "wb", buffering=0) as file:
            _put(file, bytes(os.fstat(file.fileno()).st_size))
        path.unlink()
        os.fsync(directory)


def sync_directory(path: Path) -> None:
    """What was made or renamed in it is durable. Raises OSError."""
    with _directory(path) as directory:
        os.fsync(directory)


def _give_name(temporary: Path, path: Path) -> None:
    """Unlike os.rename, never in the place of another."""
    try:
        syscalls.renameat2(syscalls.AT_FDCWD, temporary, syscalls.AT_FDCWD, path, syscalls.RENAME_NOREPLACE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        os.link(temporary, path)  # FAT knows no links, file systems in user space no such rename


@contextlib.contextmanager
def _temporary(path: Path, data: bytes | memoryview, mode: int = 0o600) -> Iterator[Path]:
    """A synced file beside `path`, to be put in its place; the directory is synced after that."""
    temporary = path.with_name(f".{path.name}.{random_bytes(8).hex()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, mode)
    try:
        with open(descriptor, "wb", buffering=0) as file:
            _put(file, data)
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    sync_directory(path.parent)


def _put(file: FileIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
    os.fsync(file.fileno())


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise ExistsError("it exists already", file=path) from None
    except OSError as error:
        raise StorageError("cannot write", error.errno or 0, file=path) from error


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield directory
    finally:
        os.close(directory)
