"""Whatever lies in a home, found without following anything; one bad directory does not end the walk."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ioflt.datastore.home import Home
from ioflt.datastore.standing import is_private

#: Deepest directory that is walked into; each level costs a descriptor.
MAX_DEPTH = 64

#: Told of a directory that could not be read.
Trouble = Callable[[OSError], None]


@dataclass(frozen=True, slots=True)
class Node:
    """What is no directory: its path relative to the home, its directory (open while the walk is there)."""

    path: str
    dir_fd: int
    name: str
    info: os.stat_result

    @property
    def is_regular(self) -> bool:
        return stat.S_ISREG(self.info.st_mode)


def walk(home: Home, trouble: Trouble) -> Iterator[Node]:
    """Every file of a home but ours, sorted within each directory; of the datastore's root only its own."""
    for top, directories, names, fd in os.fwalk(".", dir_fd=home.fd, onerror=trouble):
        hidden = is_private if top == "." else _never
        links = [name for name in directories if not _is_real(name, fd)]  # to directories: fwalk stays out
        directories[:] = [] if home.is_root else sorted(name for name in directories if not hidden(name))
        if directories and top.count("/") >= MAX_DEPTH:
            trouble(OSError(errno.ELOOP, "directories nested too deeply", top))
            directories.clear()
        for name in sorted(name for name in (*names, *links) if not hidden(name)):
            try:
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:  # removed meanwhile
                continue
            yield Node(os.path.normpath(os.path.join(top, name)), fd, name, info)


def raise_it(error: OSError) -> None:
    """A `Trouble` that ends the walk."""
    raise error


def _never(_name: str) -> bool:
    return False


def _is_real(name: str, dir_fd: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return True
