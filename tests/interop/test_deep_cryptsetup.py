"""Stock cryptsetup and dissect.fve judge a container during and after a deep recrypt."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dissect.fve import luks

from ioflt.crypto.secret import Secret
from ioflt.datastore import recovery
from ioflt.datastore.datakeys import unwrap
from ioflt.datastore.deep import home, journal
from ioflt.datastore.deep.home import OldWays
from ioflt.datastore.header import read_header
from ioflt.errors import StorageError
from ioflt.format.luks2 import keyslot
from tests.unit.datastore.stored import Stored

pytestmark = pytest.mark.interop("cryptsetup")

DATA = bytes(range(256)) * 1024
QUICK = ("--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000")


@pytest.fixture
def stored(tmp_path: Path, ioflt_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stored]:
    cost = keyslot.Argon2idCost(iterations=4, memory_kib=1024, lanes=2)
    monkeypatch.setattr(keyslot.make_keyslot, "__defaults__", (cost,))
    monkeypatch.setattr(journal, "SEGMENT", 64 << 10)
    made = Stored(tmp_path)
    made.put("disk.raw", DATA)
    add_slot(made, "before")
    yield made
    made.close()


def add_slot(stored: Stored, passphrase: str) -> None:
    with Secret(passphrase.encode()) as secret, stored.path("disk.raw").open("r+b") as file:
        recovery.add_slot(file.fileno(), stored.keys, secret)


def cryptsetup(*arguments: str | Path, passphrase: str = "") -> subprocess.CompletedProcess[str]:
    command = ["cryptsetup", "--batch-mode", *map(str, arguments)]
    return subprocess.run(command, input=passphrase, capture_output=True, text=True, check=False)


def opens(path: Path, passphrase: str) -> bool:
    return cryptsetup("open", "--test-passphrase", path, passphrase=passphrase).returncode == 0


def recrypt(stored: Stored, mode: str) -> None:
    with Secret(b"after") as passphrase:
        home.recrypt(stored.volume, "web", mode=mode, ways=OldWays(passphrase))  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["copy", "journal"])
def test_afterwards_it_opens_by_the_new_passphrase_only(stored: Stored, mode: str, tmp_path: Path) -> None:
    path = stored.path("disk.raw")
    assert opens(path, "before")
    recrypt(stored, mode)
    dump = cryptsetup("luksDump", path)
    assert (dump.returncode, dump.stderr) == (0, "")
    assert "ioflt-recrypt" not in dump.stdout
    assert opens(path, "after")
    assert not opens(path, "before")
    with path.open("rb") as file:
        volume = luks.LUKS(file)
        volume.unlock_with_passphrase("after")
        assert volume.open().read(len(DATA)) == DATA
        key = tmp_path / "dek"
        with unwrap(read_header(file.fileno()), stored.keys) as dek:
            key.write_bytes(dek.view())
    more = tmp_path / "more"
    more.write_text("a third one")
    added = cryptsetup("luksAddKey", *QUICK, "--key-size", "512", "--volume-key-file", key, path, more)
    assert added.returncode == 0, added.stderr
    assert opens(path, "a third one")
    assert stored.read("disk.raw") == DATA


def test_meanwhile_it_keeps_off(stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored.path("disk.raw")
    with monkeypatch.context() as patched:
        patched.setattr(journal.Journal, "_settle", _fail)
        with pytest.raises(StorageError):
            recrypt(stored, "journal")
    left = path.read_bytes()
    dump = cryptsetup("luksDump", path)
    assert (dump.returncode, dump.stderr) == (0, "")
    assert "Requirements:\tioflt-recrypt-v1" in dump.stdout
    assert opens(path, "before")  # the key of what is not rewritten yet; a device it would not activate
    assert not opens(path, "after")
    more = tmp_path / "more"
    more.write_text("a third one")
    for command in (
        ("luksAddKey", *QUICK, path, more),
        ("config", "--label", "x", path),
        ("reencrypt", "--encrypt", "--reduce-device-size", "32M", path),
    ):
        refused = cryptsetup(*command, passphrase="before")
        assert refused.returncode != 0, command
    assert path.read_bytes() == left
    assert cryptsetup("luksKillSlot", path, "0").returncode == 0  # that it does do, and it harms nothing
    recrypt(stored, "journal")
    assert opens(path, "after")
    assert stored.read("disk.raw") == DATA
    assert os.stat(path).st_size == len(left)


def _fail(*_: object) -> None:
    raise OSError(5, "Input/output error")
