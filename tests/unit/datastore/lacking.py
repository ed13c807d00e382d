"""Keys in this process, some of which cannot be had."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ioflt.crypto.secret import Secret
from ioflt.errors import IofltError, KeyNotFound
from ioflt.testing.local_keys import LocalKeys
from ioflt.types import KeyRef


class Keys(LocalKeys):
    """Some keys of which cannot be had now."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.gone: set[KeyRef] = set()
        self._had = self._keks.get
        self._keks.get = self._get  # type: ignore[method-assign]

    def _get(self, key: KeyRef) -> Secret:
        if key in self.gone:
            raise KeyNotFound(f"no key {key}")
        return self._had(key)

    def unwrap(self, items: Sequence[tuple[KeyRef, bytes, bytes]]) -> list[Secret | IofltError]:
        gone = KeyNotFound("gone")
        return [gone if item[0] in self.gone else super(Keys, self).unwrap([item])[0] for item in items]
