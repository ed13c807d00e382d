"""Key stores: ours are read again, each vector gives what its headers say, no bytes give another error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, CorruptDataError, MalformedError, UsageError
from ioflt.format.pkcs12 import der, keystore
from ioflt.format.pkcs12.der import Reader
from ioflt.format.pkcs12.keystore import Entry, Rounds
from ioflt.testing.vectors import Vector, read

ROOT = Path(__file__).parents[4]
VECTORS = read(ROOT / "tests/vectors/pkcs12")
KEY = bytes(range(32))
PASSPHRASE = Secret(b"correct horse")

texts = st.none() | st.text(st.characters(exclude_categories=["C", "Z"]), max_size=60)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keystore, "ROUNDS", Rounds(10, 10))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_a_vector(vector: Vector) -> None:
    with Secret(vector.headers["passphrase"].encode()) as passphrase:
        if vector.expect != "ok":
            with pytest.raises(CorruptDataError) as caught:
                keystore.open_(vector.body, passphrase)
            assert caught.value.reason == vector.expect
            return
        entry = keystore.open_(vector.body, passphrase)
    assert bytes(entry.key.view()).hex() == vector.headers["key"]
    assert (entry.name or "-", entry.note or "-") == (vector.headers["name"], vector.headers["note"])


def test_most_vectors_fail() -> None:
    assert sum(vector.expect != "ok" for vector in VECTORS) > len(VECTORS) / 2


def test_the_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "tools/make_pkcs12_vectors.py", tmp_path], check=True)
    assert read(tmp_path) == VECTORS


@given(texts, texts, st.binary(min_size=1, max_size=40).filter(lambda data: is_utf8(data)))
def test_what_is_written_is_read(name: str | None, note: str | None, passphrase: bytes) -> None:
    with Secret(passphrase) as secret:
        entry = keystore.open_(keystore.seal(Entry(name, note, Secret(KEY)), secret), secret)
    assert (entry.name, entry.note, entry.key) == (name, note, Secret(KEY))


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_a_wrong_passphrase() -> None:
    sealed = keystore.seal(Entry("a", None, Secret(KEY)), PASSPHRASE)
    with pytest.raises(AuthenticationError, match="wrong passphrase"):
        keystore.open_(sealed, Secret(b"correct horsf"))
    with pytest.raises(UsageError, match="UTF-8"):
        keystore.open_(sealed, Secret(b"\xff"))


def test_the_key_is_not_in_the_file() -> None:
    sealed = keystore.seal(Entry("a", None, Secret(KEY)), PASSPHRASE)
    assert KEY not in sealed
    assert b"correct horse" not in sealed


@given(st.data())
def test_every_changed_byte_is_noticed(data: st.DataObject) -> None:
    """Inside what the MAC covers and outside of it."""
    sealed = bytearray(keystore.seal(Entry("a", "b", Secret(KEY)), PASSPHRASE))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CorruptDataError):
        keystore.open_(bytes(sealed), PASSPHRASE)


@given(st.binary(max_size=300))
def test_any_bytes(noise: bytes) -> None:
    with pytest.raises(CorruptDataError):
        keystore.open_(b"\x30" + noise, PASSPHRASE)


@given(st.integers(0, 2**63 - 1))
def test_integers(value: int) -> None:
    assert Reader(der.integer(value)).integer() == value


@given(st.integers(0, 255).filter(lambda tag: tag & 0x1F != 0x1F), st.integers(0, 70_000))
def test_elements(tag: int, length: int) -> None:
    whole = der.element(tag, bytes(length))
    reader = Reader(whole)
    assert len(reader.content(tag)) == length
    reader.end()
    with pytest.raises(MalformedError):
        Reader(whole[:-1]).whole()
