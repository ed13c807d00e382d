"""Marks of data by which the process that read it knows it again: GMAC with AES-256 (NIST SP 800-38D)."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ioflt.crypto.rng import random_bytes

#: Bytes of a mark.
MARK_SIZE: Final = 16


class Marks:
    """Marks of pieces of data. Nobody else has the key, so nobody finds other bytes with the same mark.

    The nonce is the piece's number: two marks of one number must not be shown to anybody. A mark of 256 KiB
    takes 43 µs, by BLAKE2b with a key 570 µs (Intel Xeon at 2.5 GHz).
    """

    def __init__(self) -> None:
        self._cipher = AESGCM(random_bytes(32))

    def of(self, number: int, data: bytes | bytearray | memoryview) -> bytes:
        """The mark of the piece of that number, which is not negative."""
        return self._cipher.encrypt(number.to_bytes(12), b"", data)
