"""Files and directories of a home that a backup keeps as they are, and reads back."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ioflt import syscalls
from ioflt.backup.images import STEP
from ioflt.backup.shelf import Shelf
from ioflt.datastore import files, regular, tree
from ioflt.datastore.container import Progress
from ioflt.datastore.home import Home
from ioflt.datastore.openfile import OpenFile
from ioflt.datastore.tree import Side
from ioflt.errors import MalformedError
from ioflt.format.manifest import text
from ioflt.format.manifest.model import Directory, File, Link, Top


def copy(
    home: Home, side: Side, path: str, shelf: Shelf, draft: str, progress: Progress | None = None
) -> File:
    """The file at that path of the home, as `side` opens it, into the draft. Holes stay holes.

    Raises MalformedError "read back otherwise"; StorageError, KeyUnavailableError, DeniedError.
    """
    with regular.named(home, path):
        fd = syscalls.open_beneath(home.fd, os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            with tree.opened(side, fd, path) as source:
                return store(source, os.fstat(source.fd), path, shelf, draft, progress)
        finally:
            os.close(fd)


def store(
    source: OpenFile, info: os.stat_result, path: str, shelf: Shelf, draft: str, progress: Progress | None
) -> File:
    """What `source` has, into the draft, as the file at that path that looks like that. Raises as `copy`."""
    where = f"{draft}/{text.FILES}/{path}"
    was = digest(source)
    with shelf.created(where) as made, shelf.naming(where):
        files.copy_contents(source, made, progress)
    with shelf.opened(where) as stored:
        os.posix_fadvise(stored.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        length = stored.length
        if digest(stored) != was:
            raise MalformedError(
                "read back otherwise", "it changed meanwhile, or the medium failed", file=path
            )
    return File(path, length, info.st_mode & 0o777, info.st_uid, info.st_gid, info.st_mtime_ns, was)


def digest(file: OpenFile) -> str:
    """The SHA-256 of what its reader gets."""
    whole = hashlib.sha256()
    for offset in range(0, file.length, STEP):
        whole.update(file.read(offset, STEP))
    return whole.hexdigest()


@dataclass(frozen=True, slots=True)
class Frame:
    """How the home's own directory looks, the directories in it, and the symlinks."""

    top: Top
    directories: tuple[Directory, ...]
    links: tuple[Link, ...]


def frame(home: Home, directories: Iterable[str], links: Mapping[str, str]) -> Frame:
    """Of a home; `links`: targets by their paths."""
    return Frame(_top(home), _directories(home, directories), _links(home, links))


def _directories(home: Home, paths: Iterable[str]) -> tuple[Directory, ...]:
    found = []
    for path in paths:
        with regular.named(home, path):
            info = os.stat(path, dir_fd=home.fd, follow_symlinks=False)
        mode = info.st_mode & 0o777
        found.append(Directory(path, mode, info.st_uid, info.st_gid, info.st_mtime_ns))
    return tuple(found)


def _links(home: Home, targets: Mapping[str, str]) -> tuple[Link, ...]:
    found = []
    for path, target in targets.items():
        with regular.named(home, path):
            info = os.stat(path, dir_fd=home.fd, follow_symlinks=False)
        found.append(Link(path, target, info.st_uid, info.st_gid))
    return tuple(found)


def _top(home: Home) -> Top:
    info = os.fstat(home.fd)
    return Top(info.st_mode & 0o777, info.st_uid, info.st_gid)
