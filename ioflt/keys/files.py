"""Files that hold keys or stand for them: read with a limit, and written whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ioflt import syscalls
from ioflt.crypto.rng import random_bytes
from ioflt.errors import ExistsError, NotFoundError, StorageError


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
    with _temporary(path, data) as temporary:
        try:
            syscalls.renameat2(
                syscalls.AT_FDCWD, temporary, syscalls.AT_FDCWD, path, syscalls.RENAME_NOREPLACE
            )
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            os.link(temporary, path)  # FAT knows no links, file systems in user space no such rename


def replace(path: Path, data: bytes | memoryview) -> None:
    """The file with mode 0600 and new content, durable. Raises StorageError."""
    with _temporary(path, data) as temporary:
        os.rename(temporary, path)


@contextlib.contextmanager
def _temporary(path: Path, data: bytes | memoryview) -> Iterator[Path]:
    """A synced file beside `path`, to be put in its place; the directory is synced after that."""
    temporary = path.with_name(f".{path.name}.{random_bytes(8).hex()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        descriptor = os.open(temporary, flags, 0o600)
        try:
            _write_all(descriptor, data)
            yield temporary
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
        _sync_directory(path.parent)
    except FileExistsError:
        raise ExistsError("it exists already", file=path) from None
    except OSError as error:
        raise StorageError("cannot write", error.errno or 0, file=path) from error


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    """All of `data`, durable; a nearly full file system takes part of it. Closes the descriptor."""
    left = memoryview(data)
    with open(descriptor, "wb", buffering=0) as file:  # no buffer: it would keep a copy of a key
        while left:
            left = left[file.write(left) :]
        os.fsync(descriptor)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
