"""The one place where randomness enters."""

from __future__ import annotations

import os


def random_bytes(length: int) -> bytes:
    """`length` bytes from the kernel's generator, fit for keys and nonces."""
    return os.urandom(length)
