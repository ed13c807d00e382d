"""Recomputes the vectors of tests/vectors/crypto with pycryptodome, a second implementation.

pycryptodome has no XTS: it is built here from AES-ECB, after IEEE 1619 section 5. No code of `ioflt.crypto`
is used.
A vector that must fail is recomputed too, where its fault is one of cryptography (a wrong tag, a wrong key);
faults that ioflt refuses beforehand (lengths, ranges) have nothing to recompute, and are counted apart.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from Crypto.Cipher import AES
from Crypto.Hash import HMAC, SHA1, SHA256, SHA512
from Crypto.Protocol.KDF import PBKDF2

from ioflt.testing.vectors import Vector, read

VECTORS = Path(__file__).parents[1] / "tests" / "vectors" / "crypto"
HASHES = {"sha1": SHA1, "sha256": SHA256, "sha512": SHA512}

Header = Mapping[str, str]


def tweaks(key: bytes, number: int, blocks: int) -> bytes:
    """E(K2, number), then each block the one before times alpha in GF(2**128)."""
    value = int.from_bytes(AES.new(key, AES.MODE_ECB).encrypt(number.to_bytes(16, "little")), "little")
    out = bytearray()
    for _ in range(blocks):
        out += value.to_bytes(16, "little")
        value = (value << 1) ^ (0x87 if value >> 127 else 0)
        value &= (1 << 128) - 1
    return bytes(out)


def xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(len(left), "big")


def xts(key: bytes, data: bytes, number: int, *, encrypt: bool) -> bytes:
    """One data unit of whole blocks."""
    half = len(key) // 2
    mask = tweaks(key[half:], number, len(data) // 16)
    cipher = AES.new(key[:half], AES.MODE_ECB)
    return xor((cipher.encrypt if encrypt else cipher.decrypt)(xor(data, mask)), mask)


def xts_units(header: Header, body: bytes, unit: int) -> bool:
    key, first = bytes.fromhex(header["key"]), int(header["sector"]) * (unit // 512)
    plain = bytearray()
    for start in range(0, len(body), unit):
        number, piece = first + start // 512, body[start : start + unit]
        if header.get("holes") == "yes" and not any(piece):
            plain += piece
            continue
        plain += xts(key, piece, number, encrypt=False)
        if xts(key, bytes(plain[start:]), number, encrypt=True) != piece:
            return False
    return hashlib.sha256(plain).hexdigest() == header["plaintext-sha256"]


def sectors(header: Header, body: bytes) -> bool:
    return xts_units(header, body, 4096)


def area(header: Header, body: bytes) -> bool:
    return xts_units(header, body, 512)


def wrap(header: Header, body: bytes) -> bool:
    if not body:
        return False
    cipher = AES.new(bytes.fromhex(header["wrapping-key"]), AES.MODE_GCM, nonce=body[:12])
    cipher.update(bytes.fromhex(header["aad"]))
    try:
        return cipher.decrypt_and_verify(body[12:-16], body[-16:]) == bytes.fromhex(header["key"])
    except ValueError:
        return False


def hkdf(header: Header, body: bytes) -> bool:
    """RFC 5869 section 2.3."""
    key = bytes.fromhex(header["key"])
    info = b"ioflt/1\0" + header["label"].encode() + b"\0" + bytes.fromhex(header["context"])
    out = block = b""
    for counter in range(1, -(-int(header["length"]) // 32) + 1):
        block = HMAC.new(key, block + info + bytes([counter]), SHA256).digest()
        out += block
    return out[: int(header["length"])] == body


def mac(header: Header, body: bytes) -> bool:
    return HMAC.new(bytes.fromhex(header["key"]), bytes.fromhex(header["data"]), SHA256).digest() == body


def pbkdf2(header: Header, body: bytes) -> bool:
    out = PBKDF2(
        header["passphrase"] and bytes.fromhex(header["passphrase"]).decode("latin-1"),
        bytes.fromhex(header["salt"]),
        dkLen=int(header["length"]),
        count=int(header["rounds"]),
        hmac_hash_module=HASHES[header["hash"]],
    )
    return out == body


OPERATIONS: dict[str, Callable[[Header, bytes], bool]] = {
    "sectors": sectors,
    "area": area,
    "wrap": wrap,
    "hkdf": hkdf,
    "mac": mac,
    "pbkdf2": pbkdf2,
}


def check(vector: Vector) -> bool | None:
    """Whether this vector holds; None when there is nothing to recompute."""
    recompute = OPERATIONS[vector.headers["operation"]]
    if vector.expect == "ok":
        return recompute(vector.headers, vector.body)
    if vector.expect.startswith("AuthenticationError") and "(only" not in vector.expect:
        return not recompute(vector.headers, vector.body)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", nargs="?", type=Path, default=VECTORS, help="default: %(default)s")
    directory: Path = parser.parse_args().directory
    results = {vector.name: check(vector) for vector in read(directory)}
    wrong = [name for name, holds in results.items() if holds is False]
    right = [name for name, holds in results.items() if holds is True]
    for name in wrong:
        print(f"{name}: pycryptodome disagrees", file=sys.stderr)
    apart = len(results) - len(right) - len(wrong)
    print(f"{len(right)} recomputed, {len(wrong)} disagree, {apart} have nothing to recompute")
    return 1 if wrong or not right else 0


if __name__ == "__main__":
    sys.exit(main())
