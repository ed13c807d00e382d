"""Files of changes in a home's `.ioflt.d`: one beside each disk file whose changed blocks are tracked.

That of a container is named by its UUID, that of a clear file by its inode number. An empty one is enough:
whoever writes to the disk file next begins to track in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

from ioflt.datastore import atomic, tagfiles
from ioflt.datastore.atomic import PRIVATE_DIR
from ioflt.datastore.header import read_header
from ioflt.datastore.standing import Treatment
from ioflt.errors import CorruptDataError
from ioflt.format.cbt.sidecar import SUFFIX

#: What the name of a file ends with that is the content of a disk, and nothing else: extents, raw disks.
_DISK = re.compile(r"((-flat|-f[0-9]{1,6})\.vmdk|\.(raw|img))\Z", re.IGNORECASE)

_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Tracked(Protocol):
    """An open file that marks its changes when it is told to."""

    @property
    def sidecar_name(self) -> str:
        """What its file of changes is called."""

    def track(self, fd: int | None) -> None:
        """Mark changes in that file, which is taken over, from now on; None: no more."""


def is_disk(path: str) -> bool:
    """Whether a file of that name is the content of a disk, for policies that want those tracked."""
    return _DISK.search(path) is not None


def of_container(uuid: str) -> str:
    """The name for the container of that UUID."""
    return f"{uuid}{SUFFIX}"


def of_clear(fd: int) -> str:
    """The name for a clear file."""
    return f"{os.fstat(fd).st_ino}{SUFFIX}"


def name_of(fd: int, treatment: Treatment) -> str | None:
    """The name for the stored file `fd`, from a header that nobody verified; None where there is no disk."""
    if treatment is Treatment.CLEAR:
        return of_clear(fd)
    with suppress(CorruptDataError):
        if treatment is Treatment.CONTAINER:
            return of_container(read_header(fd).uuid)
    return None


def attach(top_fd: int, file: Tracked, *, writable: bool = True) -> bool:
    """Have an open file mark its changes if they are tracked. `top_fd`: the home. Raises OSError."""
    flags = (os.O_RDWR if writable else os.O_RDONLY) | _FLAGS
    try:
        fd = os.open(_path(file.sidecar_name), flags, dir_fd=top_fd)
    except FileNotFoundError:
        return False
    file.track(fd)
    return True


def exists(top_fd: int, name: str) -> bool:
    """Whether the file of that name is tracked."""
    try:
        os.stat(_path(name), dir_fd=top_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def make(top_fd: int, name: str) -> None:
    """An empty one, durably, unless it is there. Raises OSError."""
    atomic.make_private_dir(top_fd)
    os.close(os.open(_path(name), os.O_RDWR | os.O_CREAT | _FLAGS, 0o600, dir_fd=top_fd))
    tagfiles.sync_directory(top_fd)


def follow(top_fd: int, old: str, new: str) -> None:
    """A file is made of another one: it is tracked, from its own beginning, if that was."""
    if exists(top_fd, old):
        make(top_fd, new)


def remove(top_fd: int, name: str) -> bool:
    """Whether it was there. Syncs nothing."""
    try:
        os.unlink(_path(name), dir_fd=top_fd)
    except FileNotFoundError:
        return False
    return True


def names(top_fd: int) -> list[str]:
    """All of them, those of files that are gone too."""
    try:
        fd = os.open(PRIVATE_DIR, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top_fd)
    except FileNotFoundError:
        return []
    try:
        return sorted(name for name in os.listdir(fd) if name.endswith(SUFFIX))
    finally:
        os.close(fd)


def remove_others(top_fd: int, kept: Iterable[str]) -> None:
    """All but these. Syncs nothing."""
    for name in set(names(top_fd)).difference(kept):
        remove(top_fd, name)


def _path(name: str) -> str:
    return f"{PRIVATE_DIR}/{name}"
