"""Key derivation: a key from a key (HKDF) and a key from a passphrase (Argon2id, PBKDF2).

Sources: RFC 5869 (only its Expand step: our input keys are uniform), RFC 9106, RFC 8018, RFC 7292.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from ioflt.crypto.secret import Secret
from ioflt.errors import BugError, UsageError

HashName = Literal["sha1", "sha256", "sha512"]

_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1,  # in VMware's key safe and older LUKS2 digests
    "sha256": hashes.SHA256,
    "sha512": hashes.SHA512,
}

_DOMAIN = b"ioflt/1\0"
_SHA256_BLOCK = 64


def hkdf(key: Secret, label: str, context: bytes = b"", length: int = 32) -> Secret:
    """The key for one use of `key`: HKDF-Expand-SHA256, info = "ioflt/1" NUL label NUL context.

    `key` has at least 32 uniform bytes, `length` is 1 to 8160. A label is ASCII without NUL, one per use
    (SPEC.md lists the rule). Raises BugError for anything else.
    """
    if len(key) < 32:
        raise BugError(f"HKDF key of {len(key)} bytes, at least 32 are needed")
    if not label or not label.isascii() or "\0" in label:
        raise BugError(f"HKDF label {label!r}")
    if not 1 <= length <= 255 * 32:
        raise BugError(f"HKDF output of {length} bytes")
    info = _DOMAIN + label.encode() + b"\0" + context
    out = Secret.allocate(length)
    HKDFExpand(hashes.SHA256(), length, info).derive_into(key.view(), out.buffer())
    return out


def argon2id(
    passphrase: Secret, salt: bytes, *, iterations: int, lanes: int, memory_kib: int, length: int
) -> Secret:
    """`length` bytes from a passphrase, Argon2id version 1.3.

    The costs come from a file: the caller bounds them first. Raises UsageError for what Argon2 does not allow
    (a salt below 8 bytes, a length below 4, memory below 8 KiB per lane).
    """
    out = Secret.allocate(length)
    try:
        Argon2id(
            salt=salt, length=length, iterations=iterations, lanes=lanes, memory_cost=memory_kib
        ).derive_into(passphrase.view(), out.buffer())  # type: ignore[arg-type]  # any buffer is taken
    except (ValueError, OverflowError) as error:
        raise UsageError(f"Argon2id: {error}") from error
    return out


def pbkdf2(hash_name: HashName, passphrase: Secret, salt: bytes, rounds: int, length: int) -> Secret:
    """`length` bytes from a passphrase, PBKDF2-HMAC. The caller bounds `rounds` first.

    Raises UsageError for a hash that is not in `HashName`, and for no rounds or no length.
    """
    algorithm = _HASHES.get(hash_name)
    if algorithm is None:
        raise UsageError(f"PBKDF2 with the hash {hash_name!r}")
    if rounds < 1 or length < 1:
        raise UsageError(f"PBKDF2 with {rounds} rounds for {length} bytes")
    out = Secret.allocate(length)
    PBKDF2HMAC(algorithm(), length, salt, rounds).derive_into(passphrase.view(), out.buffer())
    return out


def pkcs12_mac_key(passphrase: Secret, salt: bytes, rounds: int) -> Secret:
    """The 32-byte MAC key of a PKCS#12 file: RFC 7292 appendix B.2 with SHA-256 and ID 3.

    `passphrase` is a BMPString: UTF-16, big endian, with its end, two zero bytes. The caller bounds `rounds`.
    """
    if rounds < 1 or not salt:
        raise UsageError(f"PKCS#12 key derivation with {rounds} rounds, {len(salt)} bytes of salt")
    hashed = hashlib.sha256(b"\x03" * _SHA256_BLOCK + _fill(salt))
    with Secret(_fill(passphrase.view())) as repeated:
        hashed.update(repeated.view())
    made = hashed.digest()
    for _ in range(rounds - 1):
        made = hashlib.sha256(made).digest()
    return Secret(made)


def _fill(data: bytes | memoryview) -> bytearray:
    """Repeated up to a multiple of the hash's block; nothing stays nothing."""
    length = -(-len(data) // _SHA256_BLOCK) * _SHA256_BLOCK
    filled = bytearray(length)
    for start in range(0, length, max(1, len(data))):
        part = data[: length - start]
        filled[start : start + len(part)] = part
    return filled
