"""AES-256-CBC with PKCS#7 padding (NIST SP 800-38A, RFC 5652 section 6.3), for key stores of other programs.

It does not authenticate: a caller verifies a MAC over the ciphertext first.
"""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, BugError

#: Bytes of a block, and of an IV.
BLOCK = 16

_KEY = 32


def encrypt(key: Secret, iv: bytes, plaintext: Secret) -> bytes:
    """The padded plaintext under `key` (32 bytes)."""
    padding = BLOCK - len(plaintext) % BLOCK
    encryptor = _cipher(key, iv).encryptor()
    return (
        encryptor.update(plaintext.view())
        + encryptor.update(bytes([padding]) * padding)
        + encryptor.finalize()
    )


def decrypt(key: Secret, iv: bytes, ciphertext: bytes) -> Secret:
    """The plaintext. Raises AuthenticationError "does not decrypt" for a wrong length or padding."""
    length = len(ciphertext)
    if length == 0 or length % BLOCK:
        raise AuthenticationError("does not decrypt")
    with Secret.allocate(length + BLOCK - 1) as padded:  # update_into asks for that much room
        _cipher(key, iv).decryptor().update_into(ciphertext, padded.buffer())
        padding = padded.view()[length - 1]
        if not 1 <= padding <= BLOCK or not hmac.compare_digest(
            padded.view()[length - padding : length], bytes([padding]) * padding
        ):
            raise AuthenticationError("does not decrypt")
        return Secret(padded.view()[: length - padding])


def _cipher(key: Secret, iv: bytes) -> Cipher[modes.CBC]:
    if len(key) != _KEY or len(iv) != BLOCK:
        raise BugError(f"AES-256-CBC with a key of {len(key)} and an IV of {len(iv)} bytes")
    return Cipher(algorithms.AES(key.view()), modes.CBC(iv))
