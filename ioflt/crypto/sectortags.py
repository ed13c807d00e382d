"""Tags of sectors: HMAC-SHA-256, cut to 16 bytes, over container UUID, sector number and ciphertext.

A sector of zeros was never written (SPEC.md of `format/luks2`): of such a hole only the place is MACed, so it
is told from all that was ever written there. No nonces: a container put back with its tags stays sound.

`SectorTags` is the C loop of `_sectors_src.c` when that was built, and else `PythonSectorTags`, its twin.
"""

from __future__ import annotations

import hmac
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Protocol
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

#: Sectors from which on a thread helps with what is wanted at once. To wake it costs 20 µs, as do 9 sectors.
#: Measured on two cores of a Xeon with SHA instructions, alone and helped: 128 KiB in 72 and 62 µs (in a busy
#: process 80 and 90), 256 KiB in 142 and 100, 1 MiB in 564 and 316.
HELPED = 64

_KEY = 32

_REFUSED = "OpenSSL refused HMAC-SHA-256"
_CLOSED = "tags that were made or given up are asked for"


class Begun(Protocol):
    """Tags that are being made. What they are made of must not change before `close`."""

    def tags(self) -> bytes:
        """Does what is left of them; once. Raises BugError."""

    def close(self) -> None:
        """Nothing is used any more of what they are made of, the key included. May be called again."""


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
        return self._run(self._view(), memoryview(data), _whole(data), first)

    def begin(self, data: bytes | Buffer, first: int) -> Begun:
        """As `of`, in two steps: another thread makes what it can in between."""
        return _Later(partial(self._run, self._view(), memoryview(data), _whole(data), first))

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

    def begin(self, data: bytes | Buffer, first: int) -> Begun:
        return _Shared(self._view(), self._uuid, memoryview(data), _whole(data), first)

    def _run(self, key: memoryview, data: memoryview | None, count: int, first: int) -> bytes:
        ffi = _sectors.ffi
        if data is not None and count >= HELPED:
            with closing(_Shared(key, self._uuid, data, count, first)) as begun:
                return begun.tags()
        tags = bytearray(count * TAG_SIZE)
        sectors = ffi.NULL if data is None else ffi.from_buffer(data)
        target = ffi.from_buffer(tags, require_writable=True)
        if not _sectors.lib.ioflt_tags(ffi.from_buffer(key), self._uuid, sectors, count, first, target):
            raise BugError(_REFUSED)
        return bytes(tags)


class _Later:
    """Made when they are asked for."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        self._make: Callable[[], bytes] | None = make

    def tags(self) -> bytes:
        if self._make is None:
            raise BugError(_CLOSED)
        return self._make()

    def close(self) -> None:
        self._make = None


class _Shared:
    """Made by whoever has time: the helper of the C file, and who asks for them.

    It keeps the key alive, so that a wipe meanwhile finds it in use, as a call that runs does.
    """

    _job: object = None

    def __init__(self, key: memoryview, uuid: bytes, data: memoryview, count: int, first: int) -> None:
        ffi = _sectors.ffi
        self._tags = bytearray(count * TAG_SIZE)
        used = key_at, data_at, tags_at = tuple(map(ffi.from_buffer, (key, data, self._tags)))
        self._used: tuple[object, ...] = used
        job = _sectors.lib.ioflt_tags_begin(key_at, uuid, data_at, count, first, tags_at)
        if job == ffi.NULL:
            raise MemoryError
        self._job = job

    def tags(self) -> bytes:
        if not self._end(drop=False):
            raise BugError(_REFUSED)
        return bytes(self._tags)

    def close(self) -> None:
        if self._job is not None:
            self._end(drop=True)

    __del__ = close  # the helper must not be left with what is freed

    def _end(self, *, drop: bool) -> int:
        job, self._job = self._job, None
        if job is None:
            raise BugError(_CLOSED)
        try:
            return _sectors.lib.ioflt_tags_end(job, drop)
        finally:
            self._used = ()


def _whole(data: bytes | Buffer) -> int:
    """How many sectors."""
    if len(data) % SECTOR_SIZE:
        raise BugError(f"buffer of {len(data)} bytes, not a multiple of {SECTOR_SIZE}")
    return len(data) // SECTOR_SIZE


SectorTags: type[TagLoop] = NativeSectorTags if NATIVE else PythonSectorTags
