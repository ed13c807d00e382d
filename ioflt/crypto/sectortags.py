"""Tags of sectors: HMAC-SHA-256, cut to 16 bytes, over container UUID, sector number and ciphertext.

A sector of zeros was never written (SPEC.md of `format/luks2`): of such a hole only the place is MACed, so it
is told from all that was ever written there. No nonces: a container put back with its tags stays sound.

`SectorTags` is the C loop of `_sectors_src.c` when that was built, and else `PythonSectorTags`, its twin.
"""

from __future__ import annotations

import hmac
from abc import ABC, abstractmethod
from uuid import UUID

from ioflt.crypto.secret import Secret
from ioflt.crypto.xts import NATIVE, Buffer
from ioflt.errors import BugError
from ioflt.types import SECTOR_SIZE

try:
    from ioflt.crypto import _sectors
except ImportError:
    _sectors = None  # type: ignore[assignment]  # there is no type for a missing module

#: Bytes of a sector's tag.
TAG_SIZE = 16

_KEY = 32


class TagLoop(ABC):
    """The tags of one container. Threads may share one."""

    def __init__(self, key: Secret, uuid: str) -> None:
        """Takes over the 32-byte `key`. Raises BugError for another length."""
        if len(key) != _KEY:
            raise BugError(f"tag key of {len(key)} bytes, not {_KEY}")
        self._key: Secret | None = key
        self._uuid = UUID(uuid).bytes

    def of(self, data: bytes | Buffer, first: int) -> bytes:
        """The tags of whole sectors of ciphertext, of which the first has that number.

        Raises BugError unless they are whole.
        """
        if len(data) % SECTOR_SIZE:
            raise BugError(f"buffer of {len(data)} bytes, not a multiple of {SECTOR_SIZE}")
        return self._run(self._view(), memoryview(data), len(data) // SECTOR_SIZE, first)

    def of_holes(self, count: int, first: int) -> bytes:
        """The tags of so many holes."""
        return self._run(self._view(), None, count, first)

    def wipe(self) -> None:
        """Forget the key: calls that run now finish with it, later ones raise BugError."""
        self._key = None

    def _view(self) -> memoryview:
        if self._key is None:
            raise BugError("a wiped key of sector tags is used")
        return self._key.view()

    @abstractmethod
    def _run(self, key: memoryview, data: memoryview | None, count: int, first: int) -> bytes:
        """The loop. `key` keeps the key alive until the call is over."""


class PythonSectorTags(TagLoop):
    """The twin in Python, one `hmac` call per sector: oracle of the tests, and fallback."""

    def _run(self, key: memoryview, data: memoryview | None, count: int, first: int) -> bytes:
        never_written = bytes(SECTOR_SIZE)
        tags = []
        for index in range(count):
            message = self._uuid + (first + index).to_bytes(8)
            if data is not None:
                sector = bytes(data[index * SECTOR_SIZE : (index + 1) * SECTOR_SIZE])
                message += sector if sector != never_written else b""
            tags.append(hmac.digest(key, message, "sha256")[:TAG_SIZE])
        return b"".join(tags)


class NativeSectorTags(TagLoop):
    """The loop in C. The interpreter's lock is released while it runs."""

    def _run(self, key: memoryview, data: memoryview | None, count: int, first: int) -> bytes:
        ffi = _sectors.ffi
        tags = bytearray(count * TAG_SIZE)
        sectors = ffi.NULL if data is None else ffi.from_buffer(data)
        target = ffi.from_buffer(tags, require_writable=True)
        if not _sectors.lib.ioflt_tags(ffi.from_buffer(key), self._uuid, sectors, count, first, target):
            raise BugError("OpenSSL refused HMAC-SHA-256")
        return bytes(tags)


SectorTags: type[TagLoop] = NativeSectorTags if NATIVE else PythonSectorTags
