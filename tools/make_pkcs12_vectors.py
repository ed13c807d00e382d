"""Writes tests/vectors/pkcs12: key stores, most of them wrong in one way. See `tests/vectors/README.md`.

Shares no code with `ioflt.format` or `ioflt.crypto`: the bytes are made here with the standard library and
PyCryptodome. Everything is fixed, no randomness: a second run writes the same vectors.

    tools/make_pkcs12_vectors.py [OUT]       OUT defaults to tests/vectors/pkcs12
"""

from __future__ import annotations

import hashlib
import hmac
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from Crypto.Cipher import AES

from ioflt.testing.vectors import Vector, to_bytes

OUT = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "pkcs12"
PASSPHRASE = "correct horse"  # noqa: S105 a test value
KEY = hashlib.sha256(b"ioflt vectors: pkcs12").digest()
NULL = bytes([5, 0])


def tlv(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    if len(body) < 128:
        return bytes([tag, len(body)]) + body
    size = (len(body).bit_length() + 7) // 8
    return bytes([tag, 128 + size]) + len(body).to_bytes(size, "big") + body


def seq(*parts: bytes) -> bytes:
    return tlv(0x30, *parts)


def octets(data: bytes) -> bytes:
    return tlv(0x04, data)


def number(value: int) -> bytes:
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def oid(text: str) -> bytes:
    arcs = [int(arc) for arc in text.split(".")]
    body = b""
    for arc in [arcs[0] * 40 + arcs[1], *arcs[2:]]:
        part = bytes([arc % 128])
        while arc := arc // 128:
            part = bytes([arc % 128 + 128]) + part
        body += part
    return tlv(0x06, body)


def explicit(content: bytes) -> bytes:
    return tlv(0xA0, content)


DATA = oid("1.2.840.113549.1.7.1")
SHA256 = oid("2.16.840.1.101.3.4.2.1")
SHA1 = oid("1.3.14.3.2.26")
SECRET_BAG = oid("1.2.840.113549.1.12.10.1.5")
CERT_BAG = oid("1.2.840.113549.1.12.10.1.3")
SHROUDED = oid("1.2.840.113549.1.12.10.1.2")
PBES2 = oid("1.2.840.113549.1.5.13")
PBE_3DES = oid("1.2.840.113549.1.12.1.3")
PBKDF2 = oid("1.2.840.113549.1.5.12")
SCRYPT = oid("1.3.6.1.4.1.11591.4.11")
HMAC_SHA256 = oid("1.2.840.113549.2.9")
HMAC_SHA512 = oid("1.2.840.113549.2.11")
AES_256 = oid("2.16.840.1.101.3.4.1.42")
AES_128 = oid("2.16.840.1.101.3.4.1.2")
FRIENDLY = oid("1.2.840.113549.1.9.20")
LOCAL_KEY_ID = oid("1.2.840.113549.1.9.21")
NOTE = oid("2.25.82690878437408214598495832804215703207")


def mac_key(passphrase: str, salt: bytes, rounds: int) -> bytes:
    """RFC 7292, appendix B.2."""

    def filled(data: bytes) -> bytes:
        count = -(-len(data) // 64) * 64
        return (data * 64)[:count] if data else b""

    made = bytes([3]) * 64 + filled(salt) + filled(passphrase.encode("utf-16-be") + bytes(2))
    for _ in range(rounds):
        made = hashlib.sha256(made).digest()
    return made


@dataclass(frozen=True)
class Store:
    """What goes into a key store, each part to be replaced by a wrong one."""

    passphrase: str = PASSPHRASE
    version: int = 3
    content_type: bytes = DATA
    bag_type: bytes = SECRET_BAG
    secret_type: bytes = SHROUDED
    scheme: bytes = PBES2
    derivation: bytes = PBKDF2
    hash: bytes | None = HMAC_SHA256
    hash_null: bytes = NULL
    cipher: bytes = AES_256
    iv: bytes = bytes(range(16))
    salt: bytes = b"ioflt salt of a key."
    rounds: int = 1000
    key_length: int | None = 32
    key_version: int = 0
    key: bytes = KEY
    zero_padding: bool = False
    after_key: bytes = b""
    name: bytes | None = tlv(0x1E, "corp".encode("utf-16-be"))
    note: bytes | None = tlv(0x0C, b"a note")
    attributes: tuple[bytes, ...] = ()
    more_bags: tuple[bytes, ...] = ()
    mac_hash: bytes = SHA256
    mac_salt: bytes = b"ioflt salt of a MAC."
    mac_rounds: int = 1000
    mac_size: int = 32
    mac: bool = True
    after: bytes = b""
    change: Callable[[bytes], bytes] = field(default=lambda whole: whole)

    def shrouded(self) -> bytes:
        aes = seq(oid("2.16.840.1.101.3.4.1"), NULL)
        info = seq(number(self.key_version), aes, octets(self.key)) + self.after_key
        wrapping = hashlib.pbkdf2_hmac(
            "sha256", self.passphrase.encode(), self.salt, min(self.rounds, 5000), 32
        )
        pad = 16 - len(info) % 16
        padded = info + (bytes([0 if self.zero_padding else pad]) * pad)
        cipher = AES.new(wrapping, AES.MODE_CBC, bytes(range(16)))
        length = b"" if self.key_length is None else number(self.key_length)
        prf = b"" if self.hash is None else seq(self.hash, self.hash_null)
        kdf = seq(octets(self.salt), number(self.rounds), length, prf)
        scheme = seq(seq(self.derivation, kdf), seq(self.cipher, octets(self.iv)))
        return seq(seq(self.scheme, scheme), octets(cipher.encrypt(padded)))

    def bag(self) -> bytes:
        attributes = [
            seq(kind, tlv(0x31, value)) for kind, value in ((FRIENDLY, self.name), (NOTE, self.note)) if value
        ]
        secret = seq(self.secret_type, explicit(octets(self.shrouded())))
        return seq(self.bag_type, explicit(secret), tlv(0x31, *attributes, *self.attributes))

    def whole(self) -> bytes:
        safe = seq(self.bag(), *self.more_bags)
        content = seq(seq(self.content_type, explicit(octets(safe))))
        tag = hmac.digest(
            mac_key(self.passphrase, self.mac_salt, min(self.mac_rounds, 5000)), content, "sha256"
        )
        digest = seq(seq(self.mac_hash, NULL), octets((tag * 2)[: self.mac_size]))
        mac = seq(digest, octets(self.mac_salt), number(self.mac_rounds)) if self.mac else b""
        auth_safe = seq(DATA, explicit(octets(content)))
        return self.change(seq(number(self.version), auth_safe, mac) + self.after)


GOOD = Store()


def flipped(whole: bytes) -> bytes:
    at = whole.index(KEY_MARK)
    return whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]


KEY_MARK = b"ioflt salt of a key."


def padded_length(whole: bytes) -> bytes:
    """The outermost length, which has two bytes, in three."""
    return whole[:1] + b"\x83\0" + whole[2:]


OK: dict[str, tuple[str, Store]] = {
    "plain": ("as ioflt writes it", GOOD),
    "no-name": ("neither name nor note", replace(GOOD, name=None, note=None)),
    "local-key-id": ("as a JDK writes it", replace(GOOD, note=None, attributes=(
        seq(LOCAL_KEY_ID, tlv(0x31, octets(b"Time 1700000000000"))),))),
    "no-key-length": ("PBKDF2 without the optional length", replace(GOOD, key_length=None)),
    "no-null": ("the hash without its NULL", replace(GOOD, hash_null=b"")),
    "umlaut": ("a passphrase beyond ASCII", replace(GOOD, passphrase="Schlüssel 🔑")),  # noqa: S106 a test value
    "one-round": ("as few rounds as there can be", replace(GOOD, rounds=1, mac_rounds=1)),
}  # fmt: skip

BAD: dict[str, tuple[str, str, Store]] = {
    "empty": ("not DER", "nothing", replace(GOOD, change=lambda _: b"")),
    "too-large": ("too large", "64 KiB and one byte", replace(GOOD, after=bytes(1 << 16))),
    "behind": ("data behind the end", "a byte behind the file", replace(GOOD, after=b"\0")),
    "cut": ("not DER", "the last byte is missing", replace(GOOD, change=lambda whole: whole[:-1])),
    "long-length": ("not DER", "a length in more bytes than it needs", replace(GOOD, change=padded_length)),
    "indefinite": ("not DER", "BER's indefinite length", replace(
        GOOD, change=lambda whole: whole[:1] + b"\x80" + whole[4:] + bytes(2))),
    "absurd-length": ("not DER", "a length of 2^63", replace(
        GOOD, change=lambda whole: whole[:1] + b"\x88\x80" + bytes(7) + whole[4:])),
    "long-tag": ("not DER", "a tag of two bytes", replace(
        GOOD, change=lambda whole: b"\x3f\x30" + whole[1:])),
    "set": ("another structure", "a set in place of a sequence", replace(
        GOOD, change=lambda whole: b"\x31" + whole[1:])),
    "deep": ("another structure", "sequences in sequences, a thousand deep", replace(
        GOOD, change=lambda _: deep(1000))),
    "negative": ("not DER", "version -1", replace(
        GOOD, change=lambda whole: whole.replace(number(3), b"\x02\x01\xff", 1))),
    "version-2": ("unknown version", "PFX of version 2", replace(GOOD, version=2)),
    "no-mac": ("no MAC", "no MAC", replace(GOOD, mac=False)),
    "flipped": ("wrong passphrase", "one bit of the salt differs", replace(GOOD, change=flipped)),
    "sha1-mac": ("foreign MAC", "a MAC with SHA-1", replace(GOOD, mac_hash=SHA1)),
    "short-mac": ("bad MAC", "a MAC of 16 bytes", replace(GOOD, mac_size=16)),
    "no-mac-salt": ("absurd salt", "an empty salt", replace(GOOD, mac_salt=b"")),
    "mac-rounds": ("absurd rounds", "5,000,001 rounds for the MAC", replace(GOOD, mac_rounds=5_000_001)),
    "mac-rounds-0": ("absurd rounds", "no round for the MAC", replace(GOOD, mac_rounds=0)),
    "mac-rounds-huge": ("not DER", "2^200 rounds for the MAC", replace(GOOD, mac_rounds=1 << 200)),
    "rounds": ("absurd rounds", "5,000,001 rounds of PBKDF2", replace(GOOD, rounds=5_000_001)),
    "long-salt": ("absurd salt", "a salt of 65 bytes", replace(GOOD, salt=bytes(65))),
    "encrypted-safe": ("foreign content", "contents encrypted as a whole", replace(
        GOOD, content_type=oid("1.2.840.113549.1.7.6"))),
    "certificate": ("foreign entry", "a certificate bag", replace(GOOD, bag_type=CERT_BAG)),
    "foreign-secret": ("foreign secret", "a secret of another type", replace(GOOD, secret_type=DATA)),
    "two-keys": ("not one key", "two entries", replace(GOOD, more_bags=(GOOD.bag(),))),
    "pbe-3des": ("foreign encryption", "PBE with SHA-1 and 3DES", replace(GOOD, scheme=PBE_3DES)),
    "scrypt": ("foreign key derivation", "scrypt", replace(GOOD, derivation=SCRYPT)),
    "sha512": ("foreign hash", "PBKDF2 with SHA-512", replace(GOOD, hash=HMAC_SHA512)),
    "sha1": ("foreign hash", "PBKDF2 with SHA-1, the default", replace(GOOD, hash=None)),
    "aes-128": ("foreign cipher", "AES-128", replace(GOOD, cipher=AES_128)),
    "key-length": ("foreign cipher", "PBKDF2 for a key of 16 bytes", replace(GOOD, key_length=16)),
    "short-iv": ("bad IV", "an IV of 8 bytes", replace(GOOD, iv=bytes(8))),
    "bad-padding": ("does not decrypt", "zeros in place of the padding", replace(GOOD, zero_padding=True)),
    "key-of-16": ("foreign key", "a key of 16 bytes", replace(GOOD, key=KEY[:16])),
    "key-version-1": ("foreign key", "a key of version 1", replace(GOOD, key_version=1)),
    "behind-key": ("data behind the end", "a byte behind the key", replace(GOOD, after_key=b"\0")),
    "two-names": ("another structure", "two names", replace(
        GOOD, attributes=(seq(FRIENDLY, tlv(0x31, tlv(0x1E, bytes(2)))),))),
    "name-control": ("bad text", "a name with a line feed", replace(
        GOOD, name=tlv(0x1E, "a\nb".encode("utf-16-be")))),
    "name-odd": ("bad text", "a name of three bytes", replace(GOOD, name=tlv(0x1E, b"\0a\0"))),
    "name-long": ("bad text", "a name of 513 characters", replace(
        GOOD, name=tlv(0x1E, ("a" * 513).encode("utf-16-be")))),
    "name-utf8": ("another structure", "a name as UTF8String", replace(GOOD, name=tlv(0x0C, b"corp"))),
    "many-attributes": ("data behind the end", "20 attributes", replace(GOOD, attributes=tuple(
        seq(oid(f"2.25.{number}"), tlv(0x31)) for number in range(100, 120)))),
}  # fmt: skip


def deep(depth: int) -> bytes:
    made = b""
    for _ in range(depth):
        made = seq(made)
    return made


def vectors() -> list[Vector]:
    made = []
    for name, (comment, store) in OK.items():
        headers = {
            "expect": "ok",
            "comment": comment,
            "passphrase": store.passphrase,
            "key": KEY.hex(),
            "name": "corp" if store.name else "-",
            "note": "a note" if store.note else "-",
        }
        made.append(Vector(name, {**headers, "body": "zlib base64"}, store.whole()))
    for name, (reason, comment, store) in BAD.items():
        headers = {"expect": reason, "comment": comment, "passphrase": store.passphrase}
        made.append(Vector(name, {**headers, "body": "zlib base64"}, store.whole()))
    return made


def main() -> int:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    out.mkdir(exist_ok=True)
    for vector in vectors():
        (out / vector.name).write_bytes(to_bytes(vector))
    print(f"{len(list(out.iterdir()))} vectors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
