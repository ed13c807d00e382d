"""Keys that this host was told to do without: neither cached nor asked for, until they are added again.

A key provider may know no such thing for a single key: a native one derives whatever key it is asked for.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from ioflt.errors import MalformedError
from ioflt.keys import files
from ioflt.types import KeyRef

#: Longest file: two names of 1,128 characters together, each up to six bytes as JSON writes it.
_MAX_FILE = 16 << 10


class RemovedKeys:
    """One file for each key in a directory of mode 0700, which is there. Read when it is made."""

    def __init__(self, directory: Path) -> None:
        """Raises CorruptDataError, StorageError: then nobody knows which keys may be used."""
        self._directory = directory
        files.remove_left(directory)
        self._keys = {_read(path) for path in directory.iterdir()}

    def __contains__(self, key: KeyRef) -> bool:
        return key in self._keys

    def add(self, key: KeyRef) -> None:
        """Remember it, durably. Raises StorageError."""
        if key not in self._keys:
            files.replace(self._path(key), msgspec.json.encode([key.provider, key.key_id]))
            self._keys.add(key)

    def discard(self, key: KeyRef) -> None:
        """Forget it, durably. Raises StorageError."""
        if key in self._keys:
            files.destroy(self._path(key))
            self._keys.discard(key)

    def _path(self, key: KeyRef) -> Path:
        return self._directory / hashlib.sha256(f"{key.provider}\0{key.key_id}".encode()).hexdigest()


def _read(path: Path) -> KeyRef:
    try:
        return KeyRef(*msgspec.json.decode(files.read(path, _MAX_FILE), type=tuple[str, str]))
    except (msgspec.MsgspecError, ValueError) as error:
        raise MalformedError("does not name a removed key", file=path) from error
