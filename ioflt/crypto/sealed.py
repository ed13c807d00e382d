"""VMware's sealed box, found inside key safes and encrypted VMX files: encrypt *and* MAC.

    box = IV (16) || AES-256-CBC(key[0:32], IV, PKCS#7(plaintext)) || HMAC(key, plaintext)

The MAC covers the unpadded plaintext and is keyed with the whole key; a 64-byte key ("XTS-AES-256" in
VMware's dictionaries, although nothing here is XTS) lends AES its first half. The construction is weak by
today's taste: a wrong pad and a wrong MAC must look the same, or the box becomes a padding oracle.
Source: the readers dissect.hypervisor (`descriptor/vmx.py`) and VMwareVMX.
"""

from __future__ import annotations

import hmac
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ioflt.crypto.rng import random_bytes
from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, BugError, UnsupportedError

IV_SIZE: Final = 16
_BLOCK: Final = 16


class _Mac(NamedTuple):
    digest: str
    size: int


_MACS: Final = {
    "HMAC-SHA-1": _Mac("sha1", 20),
    "HMAC-SHA-1-128": _Mac("sha1", 16),
    "HMAC-SHA-256": _Mac("sha256", 32),
}


def seal(key: Secret, plaintext: bytes | memoryview, mac_name: str, iv: bytes | None = None) -> bytes:
    """The box of `plaintext` under `key` (32 or 64 bytes). `iv` (16 bytes) is drawn when not given.

    Raises UnsupportedError "unknown MAC", and BugError for a key or IV of another length.
    """
    mac = _mac(mac_name)
    iv = random_bytes(IV_SIZE) if iv is None else iv
    if len(iv) != IV_SIZE:
        raise BugError(f"sealed box: IV of {len(iv)} bytes")
    padding = _BLOCK - len(plaintext) % _BLOCK
    encryptor = _cipher(key, iv).encryptor()
    body = encryptor.update(plaintext) + encryptor.update(bytes([padding]) * padding) + encryptor.finalize()
    return iv + body + hmac.digest(key.view(), plaintext, mac.digest)[: mac.size]


def open_(key: Secret, blob: bytes, mac_name: str) -> Secret:
    """The plaintext of a box under `key` (32 or 64 bytes).

    Raises AuthenticationError "sealed box does not verify", be it length, padding or MAC that is wrong.
    Raises UnsupportedError "unknown MAC", and BugError for a key of another length.
    """
    mac = _mac(mac_name)
    length = len(blob) - IV_SIZE - mac.size
    if length < _BLOCK or length % _BLOCK:
        raise AuthenticationError("sealed box does not verify")
    with Secret.allocate(length + _BLOCK - 1) as padded:  # update_into asks for that much room
        _cipher(key, blob[:IV_SIZE]).decryptor().update_into(
            blob[IV_SIZE : IV_SIZE + length], padded.buffer()
        )
        buffer = padded.view()[:length]
        padding = buffer[-1]
        pad_ok = 1 <= padding <= _BLOCK
        padding = padding if pad_ok else _BLOCK  # a MAC is computed in any case
        pad_ok &= hmac.compare_digest(buffer[length - padding :], bytes([padding]) * padding)
        plain = buffer[: length - padding]
        expected = hmac.digest(key.view(), plain, mac.digest)[: mac.size]
        mac_ok = hmac.compare_digest(expected, blob[IV_SIZE + length :])
        if not (pad_ok & mac_ok):
            raise AuthenticationError("sealed box does not verify")
        return Secret(plain)


def _mac(name: str) -> _Mac:
    try:
        return _MACS[name]
    except KeyError:
        raise UnsupportedError("unknown MAC", name[:40]) from None


def _cipher(key: Secret, iv: bytes) -> Cipher[modes.CBC]:
    if len(key) not in (32, 64):
        raise BugError(f"sealed box: key of {len(key)} bytes")
    return Cipher(algorithms.AES(key.view()[:32]), modes.CBC(iv))
