"""What the kernel keeps of a regular file for a second: its names, length and times.

stat(2) may go by it; open(2) and what else acts upon a file may not, as another mount or a command may have
put another file in the place of a name since, or have written. They are answered ESTALE, upon which the
kernel asks for each name of the path, and comes again.
"""

from __future__ import annotations

import errno
import os
import time
from collections import OrderedDict
from typing import NamedTuple, Protocol

#: Seconds after which the kernel surely asks for a name again, however late it got our answer.
_KEPT_S = 10.0

#: Threads that were answered ESTALE and did not come again yet; far more than are at it at once.
_MAX_REFUSED = 4096

Identity = tuple[int, int]


class Attributes(NamedTuple):
    """What goes into each answer about a file, and changes with what another mount does to it."""

    length: int
    mtime_ns: int
    ctime_ns: int


class Known(Protocol):
    """A node: `path_fd` is below zero when it is closed, `names` has when it was told of which."""

    path_fd: int
    identity: Identity
    names: dict[tuple[Known, str], float]

    @property
    def is_regular(self) -> bool:
        """The others have no `names`."""


class ToldNames:
    """Which name the kernel takes for which regular file, as it was told last."""

    def __init__(self) -> None:
        self._named: dict[tuple[Known, str], Known] = {}

    def tell(self, directory: Known, name: str, node: Known) -> None:
        """The name is that node's, as the kernel is about to hear, or has made it.

        What had it before keeps it in `names`: an open of that one may be on its way.
        """
        self.gone(directory, name)
        if node.is_regular:
            self._named[directory, name] = node
            node.names[directory, name] = time.monotonic()

    def gone(self, directory: Known, name: str) -> None:
        """Nothing has the name, as the kernel is about to hear."""
        self._named.pop((directory, name), None)

    def take(self, directory: Known, name: str) -> None:
        """The kernel has the name taken away."""
        node = self._named.pop((directory, name), None)
        if node is not None:
            node.names.pop((directory, name), None)

    def is_told(self, directory: Known, name: str, node: Known) -> bool:
        """Whether the name is that node's to the kernel, too."""
        return self._named.get((directory, name)) is (node if node.is_regular else None)

    def forget(self, node: Known) -> None:
        """The kernel knows the node no more."""
        for key in node.names:
            if self._named.get(key) is node:
                del self._named[key]

    def hold(self, node: Known) -> bool:
        """Whether all names that the kernel may keep still are that file's."""
        found = True
        for (directory, name), told in list(node.names.items()):
            if not _is_of(directory, name, node.identity):
                if told < time.monotonic() - _KEPT_S:
                    del node.names[directory, name]
                else:
                    found = False
        return found


class Refusals:
    """Threads that were answered ESTALE, and come again: with what they asked for by name meanwhile, or with
    the same, as they had no name for it but a descriptor. Then they are served.
    """

    def __init__(self) -> None:
        self._refused: OrderedDict[int, int] = OrderedDict()

    def check(self, thread: int, number: int, *, holds: bool) -> None:
        """That thread acts upon the file of that number; `holds`: what the kernel knows of it is so.

        Raises OSError ESTALE.
        """
        again = self._refused.pop(thread, None) == number
        if holds or again:
            return
        self._refused[thread] = number
        if len(self._refused) > _MAX_REFUSED:
            self._refused.popitem(last=False)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def looked(self, thread: int, number: int | None) -> None:
        """That thread asked for a name, and is answered that file, or None."""
        if thread in self._refused:
            if number is None:
                del self._refused[thread]
            else:
                self._refused[thread] = number


def _is_of(directory: Known, name: str, identity: Identity) -> bool:
    try:
        info = os.stat(name, dir_fd=directory.path_fd, follow_symlinks=False)
    except OSError:
        return False
    return (info.st_dev, info.st_ino) == identity
