"""HMAC-SHA-256 (RFC 2104, FIPS 180-4) and the plain hash."""

from __future__ import annotations

import hashlib
import hmac

from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, BugError

#: Bytes of a tag, and of a SHA-256 digest.
TAG_SIZE = 32


def sha256(data: bytes | bytearray | memoryview) -> bytes:
    """SHA-256 of `data`, 32 bytes."""
    return hashlib.sha256(data).digest()


def tag(key: Secret, data: bytes | bytearray | memoryview) -> bytes:
    """The 32-byte MAC of `data`. Raises BugError for a key below 32 bytes."""
    if len(key) < TAG_SIZE:
        raise BugError(f"MAC key of {len(key)} bytes, at least {TAG_SIZE} are needed")
    return hmac.digest(key.view(), data, "sha256")


def verify(key: Secret, data: bytes | bytearray | memoryview, expected: bytes) -> None:
    """Raises AuthenticationError("bad MAC") unless `expected` is the whole MAC of `data`."""
    if not hmac.compare_digest(tag(key, data), expected):
        raise AuthenticationError("bad MAC")
