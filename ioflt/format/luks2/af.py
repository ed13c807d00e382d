"""The anti-forensic splitter of LUKS (SHA-256): a key in 4000 stripes, of which none may be missing.

Source: TKS1 and the LUKS on-disk format specification 1.2.3, "AF-Splitter".
"""

from __future__ import annotations

from ioflt.crypto.mac import sha256
from ioflt.crypto.rng import random_bytes
from ioflt.crypto.secret import Secret

_BLOCK = 32


def split(key: Secret, stripes: int) -> Secret:
    """`len(key) * stripes` bytes from which `merge` gets the key."""
    size = len(key)
    material = Secret(random_bytes(size * (stripes - 1)) + bytes(size))
    buffer = material.buffer()
    with _chain(buffer, size, stripes) as last:
        buffer[-size:] = _xor(last.view(), key.view())
    return material


def merge(material: Secret, stripes: int) -> Secret:
    """The key in `material`; any bytes give some key."""
    size = len(material) // stripes
    buffer = material.buffer()
    with _chain(buffer, size, stripes) as last:
        return Secret(_xor(last.view(), buffer[-size:]))


def _chain(buffer: memoryview, size: int, stripes: int) -> Secret:
    """All stripes but the last, each XORed in and the sum hashed."""
    state = bytes(size)
    for start in range(0, size * (stripes - 1), size):
        state = _diffuse(_xor(state, buffer[start : start + size]))
    return Secret(state)


def _diffuse(data: bytes) -> bytes:
    """Each 32-byte block of `data` replaced by the hash of its number and itself; `data` is whole blocks."""
    return b"".join(
        sha256(number.to_bytes(4) + data[start : start + _BLOCK])
        for number, start in enumerate(range(0, len(data), _BLOCK))
    )


def _xor(left: bytes | memoryview, right: bytes | memoryview) -> bytes:
    return (int.from_bytes(left) ^ int.from_bytes(right)).to_bytes(len(left))
