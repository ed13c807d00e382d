"""Key material in memory: wiped when done with, compared in constant time, never shown.

Python's `bytes` can neither be wiped nor kept out of tracebacks, so keys live in a `Secret` from the moment
they are made or unwrapped. Keeping pages out of swap and core dumps is the process's business (keyd and the
mount lock their memory as a whole); what is freed here is zero.
"""

from __future__ import annotations

import hmac
from types import TracebackType
from typing import NoReturn

from ioflt.crypto.rng import random_bytes
from ioflt.errors import BugError


class _WipedBytes(bytearray):
    """Zeroes itself when nothing refers to it any more: neither its Secret nor a view."""

    def __del__(self) -> None:
        self[:] = bytes(len(self))


class Secret:
    """`len(secret)` bytes of key material in a buffer of its own.

    Wiped by `wipe()`, at the end of a `with`, or when the Secret and all views of it are gone.
    After `wipe()` a view taken before shows zeros, and any other use raises BugError.
    """

    __slots__ = ("_data", "_wiped")

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._wiped = False
        self._data = _WipedBytes(data)

    @classmethod
    def allocate(cls, length: int) -> Secret:
        """A Secret of `length` zero bytes, to be filled through `buffer()`."""
        return cls(bytes(length))

    @classmethod
    def random(cls, length: int) -> Secret:
        """A new key of `length` random bytes."""
        return cls(random_bytes(length))

    def view(self) -> memoryview:
        """The bytes, read-only. Raises BugError when wiped."""
        return self.buffer().toreadonly()

    def buffer(self) -> memoryview:
        """The bytes, writable. Raises BugError when wiped."""
        if self._wiped:
            raise BugError("a wiped secret is used")
        return memoryview(self._data)

    def wipe(self) -> None:
        """Zero the bytes. May be called again."""
        self._wiped = True
        self._data[:] = bytes(len(self._data))

    @property
    def wiped(self) -> bool:
        return self._wiped

    def __len__(self) -> int:
        return len(self._data)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.view(), other.view())

    __hash__ = None  # type: ignore[assignment]  # a hash of a key is a leak

    def __enter__(self) -> Secret:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return f"<Secret {len(self._data)} bytes>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Neither pickle nor `copy`: a copy would outlive the wipe."""
        raise BugError("a secret is not copied or pickled")
