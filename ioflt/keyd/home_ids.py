"""The ids of homes of which keyd sealed a record, on disk (`wire/keyd/SPEC.md`): permissions are on ids.

So who gives a VM of his own another id takes no VM's that a keyd before this one knew, and that nobody has
shown since. One line each, to which lines are added; what a crash left of one that was not whole is none.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
from pathlib import Path
from typing import Final
from uuid import UUID

from ioflt.errors import MalformedError, NotFoundError, StorageError
from ioflt.keys import files

#: Ids that are kept. More are not: those that are there are not pushed out.
MAX_IDS: Final = 100_000

_LINE: Final = 37
_ID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_log = logging.getLogger(__name__)


class HomeIds:
    """Over one file, which is made when it is not there. Safe for several threads."""

    def __init__(self, path: Path) -> None:
        """Raises MalformedError, StorageError: then nobody knows which ids are taken."""
        self._path = path
        self._lock = threading.Lock()
        self._ids = _read(path)
        self._end = _LINE * len(self._ids)

    def __contains__(self, ident: str) -> bool:
        return UUID(ident).bytes in self._ids

    def add(self, ident: str) -> None:
        """Durably. Raises StorageError."""
        with self._lock:
            if ident in self:
                return
            if len(self._ids) >= MAX_IDS:
                _log.warning("the id of the home %s is not kept: %d are", ident, MAX_IDS)
                return
            try:
                fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
                try:
                    if os.pwrite(fd, f"{ident}\n".encode(), self._end) != _LINE:
                        raise StorageError("cannot write", errno.ENOSPC, file=self._path)
                    os.fsync(fd)
                finally:
                    os.close(fd)
            except OSError as error:
                raise StorageError("cannot write", error.errno or 0, file=self._path) from error
            self._ids.add(UUID(ident).bytes)
            self._end += _LINE


def _read(path: Path) -> set[bytes]:
    most = _LINE * (MAX_IDS + 1)
    try:
        data = files.read(path, most)
    except NotFoundError:
        files.create(path, b"")
        return set()
    lines, _, rest = data.rpartition(b"\n")
    found = lines.split(b"\n") if lines else []
    if len(data) > most or len(rest) > _LINE or not all(map(_ID.fullmatch, found)):
        raise MalformedError("does not say which ids VMs have", file=path)
    ids = {UUID(one.decode()).bytes for one in found}
    if len(ids) != len(found):
        raise MalformedError("says twice that a VM has an id", file=path)
    return ids
