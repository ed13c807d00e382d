"""Passphrases from files: exactly the bytes, less one newline."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ioflt.cli.passphrase import MAX_PASSPHRASE, ask
from ioflt.errors import UsageError


@pytest.mark.parametrize(
    ("content", "taken"),
    [
        (b"secret", b"secret"),
        (b"secret\n", b"secret"),
        (b"secret\n\n", b"secret\n"),
        (b" a\0b \r\n", b" a\0b \r"),
        (b"x" * MAX_PASSPHRASE + b"\n", b"x" * MAX_PASSPHRASE),
    ],
    ids=["plain", "newline", "two newlines", "odd bytes", "longest"],
)
def test_file(tmp_path: Path, content: bytes, taken: bytes) -> None:
    path = tmp_path / "passphrase"
    path.write_bytes(content)
    path.chmod(0o600)
    with ask(str(path), "Passphrase") as secret:
        assert bytes(secret.view()) == taken


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * (MAX_PASSPHRASE + 1), b"x" * (3 * MAX_PASSPHRASE)])
def test_empty_and_too_long_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "passphrase"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(UsageError, match=r"is empty|is longer than"):
        ask(str(path), "Passphrase")


def test_a_file_that_others_read_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "passphrase"
    path.write_bytes(b"secret")
    path.chmod(0o644)
    ask(str(path), "Passphrase").wipe()
    assert "others can read this passphrase" in capsys.readouterr().err


def test_a_pipe_in_pieces() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"sec")
    os.write(writer, b"ret\n")
    os.close(writer)
    try:
        with ask(f"/dev/fd/{reader}", "Passphrase") as secret:
            assert bytes(secret.view()) == b"secret"
    finally:
        os.close(reader)


def test_without_terminal_or_file(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        with pytest.raises(UsageError, match="no terminal"):
            ask(None, "Passphrase")


def test_a_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as caught:
        ask(str(tmp_path), "Passphrase")
    assert caught.value.filename == str(tmp_path)
