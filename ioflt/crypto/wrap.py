"""A key under a key: AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce.

Blob: nonce (12 bytes), ciphertext (as long as the key), tag (16 bytes).
Random nonces bound one wrapping key to 2**32 blobs; wrapping keys are derived per use (`kdf.hkdf`), so
none comes near.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ioflt.crypto.rng import random_bytes
from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, BugError

_KEY = 32
_NONCE = 12
_TAG = 16

#: Bytes by which a blob is longer than the key in it.
OVERHEAD = _NONCE + _TAG


def wrap(wrapping: Secret, key: Secret, aad: bytes) -> bytes:
    """`key` encrypted under `wrapping` (32 bytes), bound to `aad`. Raises BugError for a wrong length."""
    nonce = random_bytes(_NONCE)
    if len(key) == 0:
        raise BugError("an empty key is not wrapped")
    return nonce + _cipher(wrapping).encrypt(nonce, key.view(), aad)


def unwrap(wrapping: Secret, blob: bytes, aad: bytes) -> Secret:
    """The key in `blob`. Raises AuthenticationError when key, blob and `aad` do not belong together."""
    cipher = _cipher(wrapping)
    if len(blob) <= OVERHEAD:
        raise AuthenticationError("wrapped key does not verify", f"only {len(blob)} bytes")
    key = Secret.allocate(len(blob) - OVERHEAD)
    try:
        cipher.decrypt_into(blob[:_NONCE], blob[_NONCE:], aad, key.buffer())
    except InvalidTag:
        key.wipe()
        raise AuthenticationError("wrapped key does not verify") from None
    return key


def _cipher(wrapping: Secret) -> AESGCM:
    if len(wrapping) != _KEY:
        raise BugError(f"wrapping key of {len(wrapping)} bytes, not {_KEY}")
    return AESGCM(wrapping.view())
