"""Writes tests/vectors/crypto with the `cryptography` package directly: no code of `ioflt.crypto` is used.

    tools/make_crypto_vectors.py [DIRECTORY]

tools/check_vectors.py recomputes them with another library.
"""

from __future__ import annotations

import hashlib
import hmac
import sys
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import XTS
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from ioflt.testing.vectors import Vector, to_bytes

TARGET = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parents[1] / "tests" / "vectors" / "crypto"

Value = bytes | str | int

KEY = bytes(range(64))
KEY32 = bytes(range(32))
NONCE = bytes(range(100, 112))
WRONG_KEY = "AuthenticationError: wrapped key does not verify"


def plaintext(length: int) -> bytes:
    """No two sectors alike: SHA-256 of a counter."""
    return b"".join(hashlib.sha256(i.to_bytes(4, "big")).digest() for i in range(-(-length // 32)))[:length]


def xts(key: bytes, data: bytes, unit: int, first_tweak: int) -> bytes:
    out = b""
    for start in range(0, len(data), unit):
        tweak = first_tweak + start // 512
        out += (
            Cipher(AES(key), XTS(tweak.to_bytes(16, "little"))).encryptor().update(data[start : start + unit])
        )
    return out


def write(name: str, comment: str, operation: str, body: bytes, expect: str = "ok", **header: Value) -> None:
    headers = {"expect": expect, "comment": comment, "operation": operation}
    for key, value in header.items():
        headers[key.replace("_", "-")] = value.hex() if isinstance(value, bytes) else str(value)
    (TARGET / name).write_bytes(to_bytes(Vector(name, headers, body)))


def sectors(
    name: str,
    comment: str,
    expect: str = "ok",
    *,
    key: bytes = KEY,
    sector: int = 1,
    holes: str = "no",
    plain: bytes | None = None,
    body: bytes | None = None,
) -> None:
    """Two sectors, and their ciphertext, where nothing else is said."""
    plain = plaintext(4096 * 2) if plain is None else plain
    if body is None:
        body = xts(KEY, plain, 4096, 8 * sector if 0 <= sector < 2**61 else 0)
    digest = hashlib.sha256(plain).hexdigest()
    write(
        name, comment, "sectors", body, expect, key=key, sector=sector, holes=holes, plaintext_sha256=digest
    )


def make_sectors() -> None:
    for sector in (0, 1, 2**32, 2**61 - 2):
        sectors(f"sectors-at-{sector}", f"two sectors, the first is number {sector}", sector=sector)
    sectors("sectors-of-zeros", "zeros that are written become ciphertext", plain=bytes(4096))
    plain = plaintext(4096)
    sectors(
        "sectors-hole",
        "a sector of zeros after a written one was never written",
        holes="yes",
        plain=plain + bytes(4096),
        body=xts(KEY, plain, 4096, 8) + bytes(4096),
    )
    nearly = bytes(4095) + b"\1"
    decrypted = Cipher(AES(KEY), XTS((8).to_bytes(16, "little"))).decryptor().update(nearly)
    sectors("sectors-nearly-hole", "one bit makes it no hole", holes="yes", plain=decrypted, body=nearly)
    sectors("sectors-none", "no sector at all", plain=b"")

    for length in (0, 32, 63, 65):
        expect = f"UsageError: XTS key of {length} bytes, not 64"
        sectors(f"sectors-key-{length}", f"a key of {length} bytes", expect, key=bytes(range(length)))
    sectors("sectors-equal-halves", "equal halves", "UsageError: XTS key with equal halves", key=KEY32 * 2)
    for length in (1, 512, 4095, 4097):
        expect = f"BugError: buffer of {length} bytes, not a multiple of 4096"
        sectors(f"sectors-length-{length}", "not whole sectors", expect, body=plaintext(length))
    for sector, name in ((-1, "negative"), (2**61 - 1, "beyond-end"), (2**61, "past-end")):
        expect = f"BugError: sector {sector} is out of range"
        sectors(f"sectors-{name}", "a tweak outside 64 bits", expect, sector=sector)


def make_areas() -> None:
    plain = plaintext(512 * 3)
    digest = hashlib.sha256(plain).hexdigest()
    for size in (32, 64):
        key = bytes(range(size))
        body = xts(key, plain, 512, 7)
        write(
            f"area-aes-{size * 4}",
            "three 512-byte sectors",
            "area",
            body,
            key=key,
            sector=7,
            plaintext_sha256=digest,
        )
    good = xts(KEY, plain, 512, 7)
    for key, name, expect in (
        (bytes(range(63)), "key-63", "UsageError: XTS key of 63 bytes, not 32 or 64"),
        (bytes(range(48)), "key-48", "UsageError: XTS key of 48 bytes, not 32 or 64"),
        (KEY32[:16] * 2, "equal-halves", "UsageError: XTS key with equal halves"),
        (KEY32 * 2, "equal-halves-64", "UsageError: XTS key with equal halves"),
    ):
        write(f"area-{name}", name, "area", good, expect, key=key, sector=7, plaintext_sha256=digest)
    write(
        "area-length",
        "not whole sectors",
        "area",
        good[:-1],
        "BugError: buffer of 1535 bytes, not a multiple of 512",
        key=KEY,
        sector=7,
        plaintext_sha256=digest,
    )
    write(
        "area-negative",
        "a sector below 0",
        "area",
        good,
        "BugError: 512-byte sector -1 is out of range",
        key=KEY,
        sector=-1,
        plaintext_sha256=digest,
    )


def make_wraps() -> None:
    aad = b"container 1"
    blob = NONCE + AESGCM(KEY32).encrypt(NONCE, KEY, aad)

    def put(name: str, what: str, body: bytes, expect: str = WRONG_KEY, **change: bytes) -> None:
        header: dict[str, Value] = {"wrapping_key": KEY32, "aad": aad, "key": KEY}
        write(f"wrap-{name}", what, "wrap", body, expect, **(header | change))

    def flipped(position: int) -> bytes:
        changed = bytearray(blob)
        changed[position] ^= 1
        return bytes(changed)

    put("dek", "a 64-byte key", blob, "ok")
    put("no-aad", "a key bound to nothing", NONCE + AESGCM(KEY32).encrypt(NONCE, KEY, b""), "ok", aad=b"")
    short = NONCE + AESGCM(KEY32).encrypt(NONCE, b"k", aad)
    put("one-byte", "the shortest key", short, "ok", key=b"k")
    put("other-aad", "bound to something else", blob, aad=b"container 2")
    put("dropped-aad", "bound to something, opened with nothing", blob, aad=b"")
    put("other-key", "another wrapping key", blob, wrapping_key=bytes(32))
    put("flipped-nonce", "a bit of the nonce", flipped(0))
    put("flipped-ciphertext", "a bit of the ciphertext", flipped(12))
    put("flipped-end", "the last bit of the ciphertext", flipped(75))
    put("flipped-tag", "a bit of the tag", flipped(-1))
    put("truncated", "the last byte is missing", blob[:-1])
    put("appended", "a byte too many", blob + b"\0")
    put(
        "empty-key",
        "valid, but no key in it",
        NONCE + AESGCM(KEY32).encrypt(NONCE, b"", aad),
        f"{WRONG_KEY} (only 28 bytes)",
        key=b"",
    )
    put("no-bytes", "nothing", b"", f"{WRONG_KEY} (only 0 bytes)")
    put(
        "short-kek",
        "a wrapping key of 16 bytes",
        blob,
        "BugError: wrapping key of 16 bytes, not 32",
        wrapping_key=bytes(16),
    )


def make_hkdfs() -> None:
    def put(
        name: str,
        comment: str,
        expect: str = "ok",
        *,
        key: bytes = KEY,
        label: str = "example",
        context: bytes = b"",
        length: int = 32,
    ) -> None:
        info = b"ioflt/1\0" + label.encode() + b"\0" + context
        body = HKDFExpand(SHA256(), length, info).derive(key) if expect == "ok" else b""
        write(
            f"hkdf-{name}",
            comment,
            "hkdf",
            body,
            expect,
            key=key,
            label=label,
            context=context,
            length=length,
        )

    put("plain", "no context")
    put("context", "a context", context=b"web01")
    put("short-key", "a key of 32 bytes", key=KEY32)
    put("long", "more than one block of output", length=100)
    put("longest", "255 blocks", length=8160)
    put("key-31", "too short a key", "BugError: HKDF key of 31 bytes, at least 32 are needed", key=KEY[:31])
    put("no-label", "no label", "BugError: HKDF label ''", label="")
    put("length-0", "no output", "BugError: HKDF output of 0 bytes", length=0)
    put("length-8161", "too much output", "BugError: HKDF output of 8161 bytes", length=8161)


def make_macs() -> None:
    data = b"what is bound"
    tag = hmac.digest(KEY32, data, "sha256")
    bad = "AuthenticationError: bad MAC"
    write("mac-plain", "a tag", "mac", tag, key=KEY32, data=data)
    write("mac-no-data", "of nothing", "mac", hmac.digest(KEY32, b"", "sha256"), key=KEY32, data=b"")
    write("mac-data", "of other data", "mac", tag, bad, key=KEY32, data=data + b"\0")
    write("mac-key", "by another key", "mac", tag, bad, key=bytes(32), data=data)
    write("mac-flipped", "a bit of the tag", "mac", bytes([tag[0] ^ 1]) + tag[1:], bad, key=KEY32, data=data)
    write("mac-truncated", "half a tag", "mac", tag[:16], bad, key=KEY32, data=data)
    write("mac-none", "no tag", "mac", b"", bad, key=KEY32, data=data)
    write("mac-long", "a byte too many", "mac", tag + b"\0", bad, key=KEY32, data=data)
    short = "BugError: MAC key of 31 bytes, at least 32 are needed"
    write("mac-key-31", "too short a key", "mac", tag, short, key=KEY32[:31], data=data)


def make_pbkdf2s() -> None:
    def put(
        name: str,
        comment: str,
        expect: str = "ok",
        *,
        algorithm: str = "sha256",
        passphrase: bytes = b"correct horse",
        rounds: int = 1000,
        length: int = 64,
    ) -> None:
        salt, body = bytes(16), b""
        if expect == "ok":
            body = hashlib.pbkdf2_hmac(algorithm, passphrase, salt, rounds, length)
        header: dict[str, Value] = {"hash": algorithm, "passphrase": passphrase, "salt": salt}
        write(f"pbkdf2-{name}", comment, "pbkdf2", body, expect, **header, rounds=rounds, length=length)

    for algorithm in ("sha1", "sha256", "sha512"):
        put(algorithm, f"with {algorithm}", algorithm=algorithm)
    put("no-passphrase", "an empty passphrase", passphrase=b"")
    put("md5", "a hash that is not offered", "UsageError: PBKDF2 with the hash 'md5'", algorithm="md5")
    put("rounds-0", "no rounds", "UsageError: PBKDF2 with 0 rounds for 64 bytes", rounds=0)
    put("length-0", "no output", "UsageError: PBKDF2 with 1000 rounds for 0 bytes", length=0)


if __name__ == "__main__":
    TARGET.mkdir(exist_ok=True)
    for old in TARGET.iterdir():
        old.unlink()
    make_sectors()
    make_areas()
    make_wraps()
    make_hkdfs()
    make_macs()
    make_pbkdf2s()
