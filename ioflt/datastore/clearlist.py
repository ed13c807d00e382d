"""Which files an encrypted home keeps clear, as its record lists them by path.

A list and names cannot change in one step. So a rename that clear files take part in is noted in the record
before, and forgotten after it: in between the names tell whether it was done. While its old name is there,
the list is that of before; when nothing is there any more, it is that of after. Whoever controls the
datastore can pretend the latter, and so have an encrypted file taken for a clear one; but only under a name
that was meant to become a clear one's, and its ciphertext is all that is read there.
"""

from __future__ import annotations

import os
from dataclasses import replace

from ioflt import syscalls
from ioflt.datastore import atomic
from ioflt.format.record.record import HomeRecord, Rename


def now(top_fd: int, record: HomeRecord) -> tuple[str, ...]:
    """The paths of the clear files of the home whose directory is `top_fd`. Raises OSError."""
    operation = record.operation
    if isinstance(operation, Rename) and not exists(top_fd, operation.old):
        return renamed(record.clear_files, operation.old, operation.new)
    return record.clear_files


def renamed(paths: tuple[str, ...], old: str, new: str) -> tuple[str, ...]:
    """The paths after a rename of `old`, a file or a directory, to `new`, whose files give way."""
    stay = [path for path in paths if not is_below(path, new) and not is_below(path, old)]
    moved = [new + path[len(old) :] for path in paths if is_below(path, old)]
    return tuple(sorted(stay + moved))


def is_below(path: str, top: str) -> bool:
    """Whether `path` is `top` or below it."""
    return path == top or path.startswith(f"{top}/")


def settled(top_fd: int, record: HomeRecord) -> HomeRecord:
    """The record with a rename ended that was under way, done or not; the names are durable then.

    For who has the record alone. Raises OSError.
    """
    operation = record.operation
    if not isinstance(operation, Rename):
        return record
    for path in (operation.old, operation.new):
        _sync_parent(top_fd, path)
    return replace(record, clear_files=now(top_fd, record), operation=None)


def exists(top_fd: int, path: str) -> bool:
    """Whether there is anything at that path. Raises OSError when that cannot be told."""
    try:
        os.close(syscalls.open_beneath(top_fd, path, os.O_PATH | os.O_NOFOLLOW))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _sync_parent(top_fd: int, path: str) -> None:
    try:
        fd = syscalls.open_beneath(top_fd, os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):  # it went with what was in it
        return
    try:
        atomic.sync_directory(fd)
    finally:
        os.close(fd)
