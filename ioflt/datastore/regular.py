"""The files below a home, by path: found and opened through no symlink."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from ioflt import syscalls
from ioflt.datastore import files
from ioflt.datastore.home import Home
from ioflt.datastore.standing import is_private
from ioflt.errors import IofltError, StorageError


@dataclass(frozen=True, slots=True)
class Entry:
    """A regular file of a home; `path` is relative to the home."""

    path: str
    info: os.stat_result


def directories(home: Home) -> Iterator[tuple[str, list[str], list[str], int]]:
    """As os.fwalk, but none is left out because it cannot be read (OSError); what is gone meanwhile is.

    A name may be gone when it is looked at.
    """
    return os.fwalk(".", dir_fd=home.fd, onerror=_unless_gone)


def regular_files(home: Home) -> list[Entry]:
    """All regular files of the home but our own, sorted by path. Raises OSError."""
    found = []
    for root, below, names, fd in directories(home):
        if root == ".":
            below[:] = [name for name in below if not is_private(name)]
            names = [name for name in names if not is_private(name)]
        for name in names:
            with suppress(FileNotFoundError):
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISREG(info.st_mode):
                    found.append(Entry(os.path.normpath(os.path.join(root, name)), info))
    return sorted(found, key=lambda entry: entry.path)


@contextmanager
def parent(home: Home, path: str) -> Iterator[tuple[int, str]]:
    """The directory of that path, open, and the name in it. Raises OSError."""
    directory, name = os.path.split(path)
    fd = syscalls.open_beneath(home.fd, directory or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd, name
    finally:
        os.close(fd)


def open_file(home: Home, path: str) -> int:
    """A descriptor, for reading, of the regular file at that path. Raises OSError, MalformedError."""
    with parent(home, path) as (dir_fd, name):
        return files.open_regular(dir_fd, name, os.O_RDONLY)


@contextmanager
def opened(home: Home, path: str) -> Iterator[int]:
    """As `open_file`, closed at the end."""
    fd = open_file(home, path)
    try:
        yield fd
    finally:
        os.close(fd)


def full_path(home: Home, path: str = "") -> str:
    """The absolute path of a home, or of a file in it, as users are told it."""
    return os.path.join(home.volume.path, *filter(None, (home.name, path)))


@contextmanager
def named(home: Home, path: str = "") -> Iterator[None]:
    """Errors that leave the block name the file, or the home; none is an OSError any more."""
    where = full_path(home, path)
    try:
        yield
    except OSError as error:
        raise StorageError("the datastore's file system failed", error.errno or 0, file=where) from error
    except IofltError as error:
        if error.file is None or not os.path.isabs(error.file):
            error.file = where
        raise


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
