"""ioflt over tests/vectors/crypto: each success in both directions, each failure by its name."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from ioflt.crypto import kdf, mac, wrap, xts
from ioflt.crypto.secret import Secret
from ioflt.errors import IofltError
from ioflt.testing.vectors import Vector, read

VECTORS = read(Path(__file__).parents[2] / "vectors" / "crypto")
LOOPS = [xts.PythonSectorCipher, *([xts.NativeSectorCipher] if xts.NATIVE else [])]


class Header(dict[str, str]):
    def hex(self, name: str) -> bytes:
        return bytes.fromhex(self[name])

    def secret(self, name: str) -> Secret:
        return Secret(self.hex(name))


def sectors(header: Header, body: bytes) -> None:
    holes = header["holes"] == "yes"
    for loop in LOOPS:
        buffer = bytearray(body)
        cipher = loop(header.secret("key"))
        cipher.decrypt(buffer, int(header["sector"]), holes=holes)
        assert hashlib.sha256(buffer).hexdigest() == header["plaintext-sha256"]
        if not holes:
            cipher.encrypt(buffer, int(header["sector"]))
            assert buffer == body


def area(header: Header, body: bytes) -> None:
    buffer = bytearray(body)
    xts.xts_area_decrypt(header.secret("key"), buffer, int(header["sector"]))
    assert hashlib.sha256(buffer).hexdigest() == header["plaintext-sha256"]
    xts.xts_area_encrypt(header.secret("key"), buffer, int(header["sector"]))
    assert buffer == body


def unwrap(header: Header, body: bytes) -> None:
    key = wrap.unwrap(header.secret("wrapping-key"), body, header.hex("aad"))
    assert key == header.secret("key")


def hkdf(header: Header, body: bytes) -> None:
    out = kdf.hkdf(header.secret("key"), header["label"], header.hex("context"), int(header["length"]))
    assert out == Secret(body)


def verify(header: Header, body: bytes) -> None:
    mac.verify(header.secret("key"), header.hex("data"), body)
    assert mac.tag(header.secret("key"), header.hex("data")) == body


def pbkdf2(header: Header, body: bytes) -> None:
    out = kdf.pbkdf2(
        header["hash"],
        header.secret("passphrase"),
        header.hex("salt"),
        int(header["rounds"]),
        int(header["length"]),
    )
    assert out == Secret(body)


OPERATIONS: dict[str, Callable[[Header, bytes], None]] = {
    "sectors": sectors,
    "area": area,
    "wrap": unwrap,
    "hkdf": hkdf,
    "mac": verify,
    "pbkdf2": pbkdf2,
}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_vector(vector: Vector) -> None:
    operation = OPERATIONS[vector.headers["operation"]]
    if vector.expect == "ok":
        operation(Header(vector.headers), vector.body)
        return
    with pytest.raises(IofltError) as raised:
        operation(Header(vector.headers), vector.body)
    assert f"{type(raised.value).__name__}: {raised.value}" == vector.expect


def test_most_vectors_must_fail() -> None:
    assert sum(vector.expect != "ok" for vector in VECTORS) > len(VECTORS) / 2
