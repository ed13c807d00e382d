"""The worked examples of SPEC.md are what the code does."""

import hashlib
from pathlib import Path

import ioflt.crypto
from ioflt.crypto import kdf, wrap, xts
from ioflt.crypto.secret import Secret

SPEC = (Path(ioflt.crypto.__file__).parent / "SPEC.md").read_text()
KEY = Secret(bytes(range(64)))


def test_sector() -> None:
    sector = bytearray(4096)
    xts.SectorCipher(KEY).encrypt(sector, 1)
    assert f"first 16 bytes   {sector[:16].hex()}\n" in SPEC
    assert f"last 16 bytes    {sector[-16:].hex()}\n" in SPEC
    assert f"SHA-256          {hashlib.sha256(sector).hexdigest()}\n" in SPEC
    xts.SectorCipher(KEY).decrypt(sector, 1, holes=False)
    xts.SectorCipher(KEY).encrypt(sector, 0)
    assert f"begins `{sector[:16].hex()}`" in SPEC


def test_wrapped_key() -> None:
    blob = "6465666768696a6b6c6d6e6f 23 997192031813745bcc59cdad94dbcfb5"
    assert f"    {blob}\n" in SPEC
    key = wrap.unwrap(Secret(bytes(range(32))), bytes.fromhex(blob), b"container 1")
    assert key == Secret(b"\x6b")


def test_derived_key() -> None:
    assert f"    {bytes(kdf.hkdf(KEY, 'example', b'web01').view()).hex()}\n" in SPEC
