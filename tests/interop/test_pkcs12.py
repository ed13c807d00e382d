"""Key stores with the programs that people open them by: keytool and openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ioflt.crypto.secret import Secret
from ioflt.format.pkcs12 import keystore
from ioflt.format.pkcs12.keystore import Entry

pytestmark = pytest.mark.interop("keytool", "openssl")

KEY = bytes(range(32))
PASSPHRASE, OTHER = b"correct horse", b"battery staple"


@pytest.fixture
def passwords(tmp_path: Path) -> tuple[Path, Path]:
    """Files of the two passphrases."""
    paths = tmp_path / "one", tmp_path / "two"
    for path, passphrase in zip(paths, (PASSPHRASE, OTHER), strict=True):
        path.write_bytes(passphrase)
    return paths


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    path = tmp_path / "ours.p12"
    with Secret(PASSPHRASE) as passphrase:
        path.write_bytes(keystore.seal(Entry("corp", "a note", Secret(KEY)), passphrase))
    return path


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def opened(path: Path, passphrase: bytes) -> Entry:
    with Secret(passphrase) as secret:
        return keystore.open_(path.read_bytes(), secret)


def test_keytool_lists_ours(ours: Path, passwords: tuple[Path, Path]) -> None:
    said = run("keytool", "-list", "-storetype", "PKCS12", "-keystore", ours, "-storepass:file", passwords[0])
    assert "contains 1 entry" in said
    assert "corp" in said
    assert "SecretKeyEntry" in said


def test_keytool_takes_ours_over_and_gives_the_same_key_back(
    ours: Path, passwords: tuple[Path, Path], tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs.p12"
    run(
        *("keytool", "-importkeystore", "-noprompt"),
        *("-srckeystore", ours, "-srcstoretype", "PKCS12", "-srcstorepass:file", passwords[0]),
        *("-destkeystore", theirs, "-deststoretype", "PKCS12", "-deststorepass:file", passwords[1]),
    )
    entry = opened(theirs, OTHER)
    assert (entry.name, entry.note, bytes(entry.key.view())) == ("corp", "a note", KEY)


def test_a_key_that_keytool_made(passwords: tuple[Path, Path], tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.p12"
    store = ("-keystore", theirs, "-storetype", "PKCS12", "-storepass:file", passwords[1])
    run("keytool", "-genseckey", "-alias", "made", "-keyalg", "AES", "-keysize", "256", *store)
    entry = opened(theirs, OTHER)
    assert (entry.name, entry.note, len(entry.key)) == ("made", None, 32)


def test_openssl_verifies_ours(ours: Path, passwords: tuple[Path, Path]) -> None:
    said = run("openssl", "pkcs12", "-info", "-in", ours, "-passin", f"file:{passwords[0]}", "-nodes")
    assert "MAC: sha256, Iteration 600000" in said
    assert "Secret bag" in said
    assert "friendlyName: corp" in said
    wrong = subprocess.run(
        ["openssl", "pkcs12", "-in", ours, "-passin", f"file:{passwords[1]}", "-noout"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert wrong.returncode != 0
    assert "Mac verify error" in wrong.stderr


def test_openssl_takes_a_passphrase_beyond_ascii(tmp_path: Path) -> None:
    passphrase = "Schlüssel".encode()
    path, password = tmp_path / "ours.p12", tmp_path / "password"
    password.write_bytes(passphrase)
    with Secret(passphrase) as secret:
        path.write_bytes(keystore.seal(Entry("corp", None, Secret(KEY)), secret))
    run("openssl", "pkcs12", "-in", path, "-passin", f"file:{password}", "-noout")
