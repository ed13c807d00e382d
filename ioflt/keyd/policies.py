"""The host's own storage policies: one file, changed as a whole. Its text is `policy.text`'s."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from ioflt.errors import CorruptDataError, MalformedError, NotFoundError
from ioflt.keys import files
from ioflt.policy import changes, text
from ioflt.policy.model import StoragePolicy

_Policies = tuple[StoragePolicy, ...]

#: Within what a change is written, once it is known that it will be: so that it is logged before.
Logged = Callable[[StoragePolicy], AbstractContextManager[object]]


class PolicyFile:
    """The file need not be there yet. Each call reads it, and may raise CorruptDataError, StorageError.

    Safe for calls from several threads: changes follow one another.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def text(self) -> bytes:
        """All of them, without the bundled ones."""
        return text.write(self._load())

    def add(self, data: bytes, logged: Logged = nullcontext) -> None:
        """Keep one more, that of the text. Raises ExistsError, UsageError."""
        policies = text.parse(data)
        if len(policies) != 1:
            raise MalformedError("not one policy", str(len(policies)))
        with self._lock:
            kept = changes.add(self._load(), policies[0])
            with logged(policies[0]):
                files.replace(self._path, text.write(kept))

    def remove(self, name: str, logged: Logged = nullcontext) -> None:
        """Raises NotFoundError; UsageError for a bundled one."""
        with self._lock:
            own = self._load()
            left = changes.remove(own, name)
            (gone,) = set(own) - set(left)
            with logged(gone):
                files.replace(self._path, text.write(left))

    def _load(self) -> _Policies:
        try:
            return text.parse(files.read(self._path, text.MAX_SIZE))
        except NotFoundError:
            return ()
        except CorruptDataError as error:
            error.file = str(self._path)
            raise
