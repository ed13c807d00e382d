"""An open file whose changed blocks may be tracked: then `Cbt` is on top of its chain of filters."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from ioflt.crypto.secret import Secret
from ioflt.filters.base import Link
from ioflt.filters.cbt import Cbt
from ioflt.filters.changemap import ChangeMap, stamp_of


class Tracked:
    """For who reads and writes by `_chain`, and has set it by `_set_chain`. Owns `fd`."""

    #: Whether the backing file's ctime says that its data may be others.
    _ctime_tells: ClassVar[bool]
    #: What the map of changes is authenticated by.
    _changes_key: Secret
    #: The file's bytes; without `Cbt`.
    _chain: Link
    _untracked: Link

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self._name = name
        self._cbt: Cbt | None = None

    @property
    def changes(self) -> ChangeMap | None:
        """What is tracked of it."""
        return None if self._cbt is None else self._cbt.changes

    def track(self, fd: int | None) -> None:
        """See `openfile.OpenFile`."""
        if self._cbt is not None:
            self._cbt.settle()
            self._cbt.changes.close()
            self._cbt, self._chain = None, self._untracked
        if fd is not None:
            stamp = partial(stamp_of, self._fd, with_ctime=self._ctime_tells)
            changes = ChangeMap(fd, self._changes_key, stamp, name=self._name)
            self._cbt = self._chain = Cbt(self._untracked, changes, self._name)

    def _set_chain(self, chain: Link) -> None:
        """What is tracked of it goes on: at rest, with the key that `_changes_key` is now."""
        self._untracked = self._chain = chain
        if self._cbt is not None:
            self._cbt.below, self._cbt.changes.key = chain, self._changes_key
            self._chain = self._cbt

    def _close_changes(self) -> None:
        if self._cbt is not None:
            self._cbt.changes.close()
