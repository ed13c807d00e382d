"""Words that every room uses."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

#: Bytes of one encryption sector: the unit of XTS here, and of every `sector` in the code.
SECTOR_SIZE = 4096

#: Longest key id accepted. vSphere's native provider uses 140 characters; KMIP sets no limit.
MAX_KEY_ID = 1024

#: Longest provider name accepted.
MAX_PROVIDER_NAME = 128


@dataclass(frozen=True, slots=True)
class KeyRef:
    """Names a KEK: the provider that has it, and the provider's own opaque id for it."""

    provider: str
    key_id: str

    def __str__(self) -> str:
        return f"{self.provider}:{self.key_id}"


@dataclass(frozen=True, slots=True)
class Area:
    """Bytes of a virtual disk."""

    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length


class HomeState(Enum):
    """What a home's record (or the datastore's, for files at its root) says of its files."""

    ENCRYPTED = "encrypted"
    CLEAR = "clear"
