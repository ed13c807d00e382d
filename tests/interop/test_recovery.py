"""Stock cryptsetup and dissect.fve judge what `recovery` and `header restore` leave behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dissect.fve import luks

from ioflt.crypto.secret import Secret
from ioflt.datastore import headers, reach, recovery
from ioflt.datastore.container import Container
from ioflt.datastore.datakeys import unwrap
from ioflt.format.luks2 import keyslot
from ioflt.format.luks2.layout import HEADERS_SIZE
from tests.unit.datastore.stored import Stored, patch

pytestmark = pytest.mark.interop("cryptsetup")

OURS, THEIRS = "ein Satz mit Übermut", "correct horse battery"
QUICK = ("--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000")
SIZE = 3 << 20
DATA = bytes(range(256)) * 64  # 16 KiB, written at 1 MiB


@pytest.fixture
def stored(tmp_path: Path, ioflt_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stored]:
    cost = keyslot.Argon2idCost(iterations=4, memory_kib=1024, lanes=2)
    monkeypatch.setattr(keyslot.make_keyslot, "__defaults__", (cost,))
    made = Stored(tmp_path)
    yield made
    made.close()


@pytest.fixture
def disk(stored: Stored) -> Path:
    """A thin disk: 16 KiB of data among holes."""
    path = stored.put("disk-flat.vmdk", b"")
    file = Container.open(os.open(path, os.O_RDWR), stored.keys, writable=True)
    file.truncate(SIZE)
    file.write(1 << 20, DATA)
    file.sync(data_only=False)
    file.close()
    return path


def cryptsetup(*arguments: str | Path, passphrase: str = "") -> subprocess.CompletedProcess[str]:
    command = ["cryptsetup", "--batch-mode", *map(str, arguments)]
    return subprocess.run(command, input=passphrase, capture_output=True, text=True)


def opens(path: Path, passphrase: str) -> bool:
    done = cryptsetup("luksDump", path)
    assert (done.returncode, done.stderr) == (0, "")
    return cryptsetup("open", "--test-passphrase", path, passphrase=passphrase).returncode == 0


def add_by_cryptsetup(stored: Stored, path: Path, passphrase: str, tmp_path: Path) -> None:
    key = tmp_path / "dek"
    with unwrap(stored.header(path.name), stored.keys) as dek:
        key.write_bytes(dek.view())
    arguments = ("luksAddKey", path, "--key-size=512", f"--volume-key-file={key}", *QUICK)
    done = cryptsetup(*arguments, passphrase=passphrase)
    key.unlink()
    assert done.returncode == 0, done.stderr


def test_slots_of_both_side_by_side(stored: Stored, disk: Path, tmp_path: Path) -> None:
    reach.add_slot(str(disk), stored.keys, Secret(OURS.encode()))
    add_by_cryptsetup(stored, disk, THEIRS, tmp_path)
    assert opens(disk, OURS)
    assert opens(disk, THEIRS)
    with reach.reading(str(disk)) as fd:
        assert recovery.find_slot(fd, Secret(THEIRS.encode())) == 1
    reach.remove_slot(str(disk), 1)
    assert opens(disk, OURS)
    assert not opens(disk, THEIRS)
    reach.remove_slot(str(disk), 0)
    assert not opens(disk, OURS)
    assert reach.add_slot(str(disk), stored.keys, Secret(THEIRS.encode())) == 0
    assert opens(disk, THEIRS)


def test_the_real_cost_opens_too(stored: Stored, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyslot.make_keyslot, "__defaults__", (keyslot.RECOVERY_COST,))
    reach.add_slot(str(disk), stored.keys, Secret(OURS.encode()))
    assert opens(disk, OURS)


def test_after_a_fill_others_read_zeros_in_the_holes(stored: Stored, disk: Path) -> None:
    reach.add_slot(str(disk), stored.keys, Secret(OURS.encode()))
    wanted = bytearray(SIZE)
    wanted[1 << 20 : (1 << 20) + len(DATA)] = DATA

    def read() -> bytes:
        with disk.open("rb") as file:
            volume = luks.LUKS(file)
            volume.unlock_with_passphrase(OURS)
            return bytes(volume.open().read(SIZE))

    assert read() != wanted
    recovery.fill(reach.take(str(disk)), stored.keys, lambda _count: None)
    assert read() == wanted
    assert opens(disk, OURS)


def test_a_restored_header_is_good_for_others(stored: Stored, disk: Path, tmp_path: Path) -> None:
    add_by_cryptsetup(stored, disk, THEIRS, tmp_path)
    saved = headers.backup(stored.volume, "web")
    patch(disk, 0, bytes(HEADERS_SIZE))
    assert cryptsetup("luksDump", disk).returncode != 0
    headers.restore(stored.volume, "web", saved)
    assert opens(disk, THEIRS)


def test_a_header_backup_of_cryptsetup_does_not_undo_lengths(
    stored: Stored, disk: Path, tmp_path: Path
) -> None:
    assert cryptsetup("luksHeaderBackup", disk, f"--header-backup-file={tmp_path / 'out'}").returncode == 0
    file = Container.open(os.open(disk, os.O_RDWR), stored.keys, writable=True)
    file.truncate(SIZE + 7)
    file.sync(data_only=False)
    file.close()
    assert cryptsetup("luksHeaderRestore", disk, f"--header-backup-file={tmp_path / 'out'}").returncode == 0
    assert len(stored.read(disk.name)) == SIZE + 7
