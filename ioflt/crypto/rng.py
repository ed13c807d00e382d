"""The one place where randomness enters."""

from __future__ import annotations

import os
from uuid import UUID


def random_bytes(length: int) -> bytes:
    """`length` bytes from the kernel's generator, fit for keys and nonces."""
    return os.urandom(length)


def new_uuid() -> str:
    """A random (version 4) UUID, lower case with dashes."""
    return str(UUID(bytes=random_bytes(16), version=4))
