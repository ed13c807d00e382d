"""Directories of VMs copied between a home and the host's file system: sparse, with modes and times."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, Protocol

from ioflt import syscalls
from ioflt.datastore import files, regular
from ioflt.datastore.container import Progress
from ioflt.datastore.home import Home
from ioflt.datastore.openfile import OpenFile
from ioflt.datastore.plain import PlainFile
from ioflt.datastore.standing import is_private
from ioflt.errors import IofltError, UnsupportedError
from ioflt.filters.backing import Backing

_MAX_DEPTH: Final = 32


class Side(Protocol):
    """Where regular files are opened and made. `path` is relative to the top, `parent_fd` its directory."""

    def open(self, parent_fd: int, path: str) -> OpenFile:
        """Open a regular file for reading."""

    def create(self, parent_fd: int, path: str, mode: int) -> OpenFile:
        """Make a new file, open for writing."""


class HostSide:
    """Files of the host, as they are."""

    def open(self, parent_fd: int, path: str) -> OpenFile:
        return _plain(files.open_regular(parent_fd, os.path.basename(path), os.O_RDONLY))

    def create(self, parent_fd: int, path: str, mode: int) -> OpenFile:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return _plain(os.open(os.path.basename(path), flags, mode, dir_fd=parent_fd))


class HomeSide:
    """Files of a home, decrypted and encrypted as it says."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def open(self, parent_fd: int, path: str) -> OpenFile:
        home, shown = self._home, regular.full_path(self._home, path)
        fd = files.open_regular(parent_fd, os.path.basename(path), os.O_RDONLY)
        try:
            treatment = home.treatment(path, fd)
            return files.open_file(home, fd, treatment, writable=False, place=lambda: None, name=shown)
        except IofltError as error:
            error.file = shown
            raise

    def create(self, parent_fd: int, path: str, mode: int) -> OpenFile:
        home, name = self._home, os.path.basename(path)
        fd = files.create(home, parent_fd, name, mode=mode)
        return files.open_file(
            home,
            fd,
            home.treatment(path, fd),
            writable=True,
            place=lambda: (home.fd, parent_fd, name),
            name=regular.full_path(home, path),
        )


@contextmanager
def opened(side: Side, parent_fd: int, path: str) -> Iterator[OpenFile]:
    """A file open for reading while the block runs."""
    file = side.open(parent_fd, path)
    try:
        yield file
    finally:
        file.close()


@contextmanager
def created(side: Side, parent_fd: int, path: str, mode: int = 0o644) -> Iterator[OpenFile]:
    """A new file, durable when the block ends well."""
    file = side.create(parent_fd, path, mode)
    try:
        yield file
        file.sync(data_only=False)
        file.flush()
    finally:
        file.close()


def copy(
    source: Side,
    source_fd: int,
    target: Side,
    target_fd: int,
    progress: Progress | None = None,
    path: str = "",
) -> list[str]:
    """Copy what is in one directory into another; returns the paths of the files, sorted.

    Symlinks that stay inside are made again. What is ours at the top (the record) is passed over. Raises
    UnsupportedError "symlink leads out", "not a regular file", "too deep".
    """
    if path.count("/") >= _MAX_DEPTH:
        raise UnsupportedError("too deep", f"more than {_MAX_DEPTH} directories", file=path)
    copied: list[str] = []
    for name in sorted(os.listdir(source_fd)):
        if not path and is_private(name):
            continue
        child = f"{path}/{name}" if path else name
        info = os.stat(name, dir_fd=source_fd, follow_symlinks=False)
        if stat.S_ISREG(info.st_mode):
            _copy_file(source, source_fd, target, target_fd, child, progress)
            copied.append(child)
        elif stat.S_ISDIR(info.st_mode):
            os.mkdir(name, 0o700, dir_fd=target_fd)
            with directory(source_fd, name) as below, directory(target_fd, name) as made:
                copied += copy(source, below, target, made, progress, child)
                dress_directory(below, made)
        elif stat.S_ISLNK(info.st_mode):
            os.symlink(inner_link(source_fd, child), name, dir_fd=target_fd)
        else:
            raise UnsupportedError("not a regular file", file=child)
    return copied


def dress_directory(source_fd: int, target_fd: int) -> None:
    """Give a directory that is complete mode and times of another, durably."""
    info = os.fstat(source_fd)
    os.fchmod(target_fd, info.st_mode & 0o777)
    os.utime(target_fd, ns=(info.st_atime_ns, info.st_mtime_ns))
    os.fsync(target_fd)


def make_directories(top_fd: int, path: str) -> None:
    """The directory at that path and those above it, through no symlink; those that are there stay."""
    for end in [index for index, character in enumerate(f"{path}/") if character == "/" and index]:
        above, name = os.path.split(path[:end])
        fd = syscalls.open_beneath(top_fd, above or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=fd)
        finally:
            os.close(fd)


@contextmanager
def directory(parent_fd: int, name: str) -> Iterator[int]:
    """A descriptor of the directory, which is no symlink."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=parent_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def _copy_file(
    source: Side, source_fd: int, target: Side, target_fd: int, path: str, progress: Progress | None
) -> None:
    with opened(source, source_fd, path) as old:
        info = os.fstat(old.fd)
        with created(target, target_fd, path, info.st_mode & 0o777) as new:
            files.copy_contents(old, new, progress)
            new.sync(data_only=False)
            os.fchmod(new.fd, info.st_mode & 0o777)  # `create` heeds the umask
            os.utime(new.fd, ns=(info.st_atime_ns, info.st_mtime_ns))


def inner_link(parent_fd: int, path: str) -> str:
    """Where the symlink leads, if that is inside: `..` only at its beginning, and not too many."""
    return check_inner(os.readlink(os.path.basename(path), dir_fd=parent_fd), path)


def check_inner(target: str, path: str) -> str:
    """`target`, if a symlink at that path which leads there stays inside."""
    parts = [part for part in target.split("/") if part not in ("", ".")]
    climbs = 0
    while climbs < len(parts) and parts[climbs] == "..":
        climbs += 1
    if target.startswith("/") or climbs > path.count("/") or ".." in parts[climbs:]:
        raise UnsupportedError("symlink leads out", repr(target[:60]), file=path)
    return target


def _plain(fd: int) -> OpenFile:
    return PlainFile(fd, Backing(fd, 0))
