"""Vectors by others, from the package `cryptography-vectors`, as far as they fit what we use."""

import hashlib
import re
from collections.abc import Iterator

import cryptography_vectors
import pytest

from ioflt.crypto import kdf, mac, xts
from ioflt.crypto.secret import Secret
from ioflt.errors import UsageError

LOOPS = [xts.PythonSectorCipher, *([xts.NativeSectorCipher] if xts.NATIVE else [])]
Case = dict[str, str]


def cases(path: str) -> Iterator[Case]:
    """Blank-line separated `name = value` blocks; a line in brackets names the section of what follows."""
    section = ""
    with cryptography_vectors.open_vector_file(path, "r") as file:
        for block in re.split(r"\n\s*\n", file.read()):
            lines = [line.strip() for line in block.splitlines() if line.strip() and line.strip()[0] != "#"]
            if lines and lines[0].startswith("["):
                section = lines.pop(0).strip("[]")
            if lines:
                yield {"section": section} | {
                    name.strip().lower(): value.strip().strip('"')
                    for name, _, value in (line.partition("=") for line in lines)
                }


def xts_cases() -> Iterator[tuple[Case, int]]:
    """Every NIST case with a data unit of whole bytes, and its tweak."""
    for size in (128, 256):
        for case in cases(f"ciphers/AES/XTS/tweak-128hexstr/XTSGenAES{size}.rsp"):
            if "key" in case and int(case["dataunitlen"]) % 8 == 0:
                yield case, int.from_bytes(bytes.fromhex(case["i"]), "little")
        for case in cases(f"ciphers/AES/XTS/tweak-dataunitseqno/XTSGenAES{size}.rsp"):
            if "key" in case and int(case["dataunitlen"]) % 8 == 0:
                yield case, int(case["dataunitseqnumber"])


def test_nist_xts_data_units() -> None:
    count = 0
    for case, tweak in xts_cases():
        key, unit = bytes.fromhex(case["key"]), bytearray.fromhex(case["pt"])
        xts.xts_unit(memoryview(key), memoryview(unit), tweak, encrypt=True)
        assert unit.hex() == case["ct"].lower()
        xts.xts_unit(memoryview(key), memoryview(unit), tweak, encrypt=False)
        assert unit.hex() == case["pt"].lower()
        count += 1
    assert count == 2800  # 4000, less those of 130 and 250 bits


def whole_blocks(size: int) -> Iterator[tuple[Secret, int, bytes, bytes]]:
    """Cases of whole blocks: XTS works block by block, so each is the start of a longer data unit."""
    for case in cases(f"ciphers/AES/XTS/tweak-dataunitseqno/XTSGenAES{size}.rsp"):
        if "key" in case and int(case["dataunitlen"]) % 128 == 0:
            key = Secret(bytes.fromhex(case["key"]))
            yield key, int(case["dataunitseqnumber"]), bytes.fromhex(case["pt"]), bytes.fromhex(case["ct"])


@pytest.mark.parametrize("size", [128, 256])
def test_nist_xts_at_the_start_of_512_byte_sectors(size: int) -> None:
    count = 0
    for key, number, plain, cipher in whole_blocks(size):
        area = bytearray(512)
        area[: len(plain)] = plain
        xts.xts_area_encrypt(key, area, number)
        assert area[: len(cipher)] == cipher
        count += 1
    assert count > 300


@pytest.mark.parametrize("loop", LOOPS)
def test_nist_xts_at_the_start_of_our_sectors(loop: type[xts.SectorLoop]) -> None:
    count = 0
    for key, number, plain, cipher in whole_blocks(256):
        if number % 8 == 0:
            buffer = bytearray(4096)
            buffer[: len(plain)] = plain
            loop(key).encrypt(buffer, number // 8)
            assert buffer[: len(cipher)] == cipher
            count += 1
    assert count > 30


def test_argon2id_rfc_9106() -> None:
    count = 0
    for case in cases("KDF/argon2id.txt"):
        if "secret" in case or "ad" in case or "output" not in case:
            continue  # we use neither a secret nor associated data
        passphrase, salt, output = (bytes.fromhex(case[name]) for name in ("pass", "salt", "output"))
        costs = {
            "iterations": int(case["iter"]),
            "lanes": int(case["lanes"]),
            "memory_kib": int(case["memcost"]),
        }
        assert kdf.argon2id(Secret(passphrase), salt, **costs, length=len(output)) == Secret(output)
        count += 1
    assert count > 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iterations": 0}, "iterations"),
        ({"lanes": 0}, "lanes"),
        ({"memory_kib": 7}, "memory_cost"),
        ({"length": 3}, "length"),
        ({"salt": b"1234567"}, "salt"),
        ({"iterations": 2**32}, "out of range"),
    ],
)
def test_argon2id_refuses(change: dict[str, object], message: str) -> None:
    sound = {"salt": bytes(16), "iterations": 1, "lanes": 1, "memory_kib": 8, "length": 32}
    with pytest.raises(UsageError, match=f"Argon2id: .*{message}"):
        kdf.argon2id(Secret(b"passphrase"), **sound | change)


def test_pbkdf2_rfc_6070() -> None:
    count = 0
    for case in cases("KDF/rfc-6070-PBKDF2-SHA1.txt"):
        if "password" not in case or int(case["iterations"]) > 10_000:
            continue  # 16 million rounds take too long for a unit test
        password, salt = (case[name].encode().replace(rb"\0", b"\0") for name in ("password", "salt"))
        out = kdf.pbkdf2("sha1", Secret(password), salt, int(case["iterations"]), int(case["length"]))
        assert out == Secret(bytes.fromhex(case["derived_key"]))
        count += 1
    assert count == 5


def test_hmac_rfc_4231() -> None:
    count = 0
    for case in cases("HMAC/rfc-4231-sha256.txt"):
        if "key" in case and len(case["key"]) >= 64:
            assert mac.tag(Secret(bytes.fromhex(case["key"])), bytes.fromhex(case["msg"])).hex() == case["md"]
            count += 1
    assert count > 0


def test_sha256_fips_180() -> None:
    assert mac.sha256(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert mac.sha256(memoryview(b"abc")) == hashlib.sha256(b"abc").digest()
