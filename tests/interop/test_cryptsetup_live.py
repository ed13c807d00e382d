"""Stock cryptsetup at a container that a mount has open and writes to all the time."""

import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from ioflt.datastore import recrypt
from ioflt.datastore.datakeys import unwrap
from ioflt.datastore.header import read_header
from ioflt.datastore.volume import Volume
from ioflt.keys.client import KeyClient

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.interop("cryptsetup")]

THEIRS, OURS = "a passphrase of cryptsetup", "a passphrase of ioflt"
BLOCK = 100_000


@pytest.fixture
def home(place):
    made = place.mount() / "vm"
    made.mkdir()
    return made


@contextmanager
def written(path):
    """Appends and syncs until the end of the block: data, state blocks and lengths change all the time."""
    stop = threading.Event()
    failures: list[BaseException] = []
    rounds = 0

    def write():
        nonlocal rounds
        try:
            with path.open("ab", buffering=0) as file:
                while not stop.is_set():
                    file.write(bytes([rounds % 256]) * BLOCK)
                    os.fsync(file.fileno())
                    rounds += 1
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert failures == []
    assert rounds > 2
    assert path.read_bytes() == b"".join(bytes([number % 256]) * BLOCK for number in range(rounds))


def cryptsetup(*arguments, passphrase=None):
    return subprocess.run(
        ["cryptsetup", "--batch-mode", *map(str, arguments)],
        input=passphrase,
        capture_output=True,
        text=True,
        check=False,
    )


def opens(path, passphrase):
    found = cryptsetup("open", "--test-passphrase", "--key-file=-", path, passphrase=passphrase)
    assert found.returncode in (0, 2) or "No usable keyslot" in found.stderr, found.stderr
    return found.returncode == 0


def add_by_cryptsetup(path, passphrase, tmp_path):
    key_file, new = tmp_path / "key", tmp_path / "new"
    with (
        path.open("rb") as file,
        KeyClient.connect() as keys,
        unwrap(read_header(file.fileno()), keys) as dek,
    ):
        key_file.write_bytes(dek.view())
    new.write_text(passphrase)
    result = cryptsetup(
        *("luksAddKey", "--key-size", 512, "--volume-key-file", key_file),
        *("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", 1000, path, new),
    )
    assert result.returncode == 0, result.stderr


def test_slots_come_and_go_while_the_mount_writes(place, home, tmp_path):
    backing = place.datastore / "vm" / "disk"
    ours = tmp_path / "ours"
    ours.write_text(OURS)
    (home / "disk").write_bytes(b"")
    with written(home / "disk"):
        dump = cryptsetup("luksDump", backing)
        assert dump.returncode == 0, dump.stderr
        assert "ioflt" in dump.stdout
        add_by_cryptsetup(backing, THEIRS, tmp_path)
        place.ioflt("recovery", "add", backing, "--passphrase-file", ours)
        assert opens(backing, THEIRS)
        assert opens(backing, OURS)
        assert not opens(backing, "another")
    with backing.open("rb") as file:
        header = read_header(file.fileno())
    assert sorted(header.keyslots) == [0, 1]
    assert len(header.tokens) == 1
    with written(home / "again"):
        place.ioflt("recovery", "remove", backing, "--passphrase-file", ours)
        assert opens(backing, THEIRS)
        assert not opens(backing, OURS)
    assert place.complaints() == []


def test_what_cryptsetup_removes_stays_removed(place, home, tmp_path):
    backing = place.datastore / "vm" / "disk"
    (home / "disk").write_bytes(b"")
    with written(home / "disk"):
        add_by_cryptsetup(backing, THEIRS, tmp_path)
        assert opens(backing, THEIRS)
        assert cryptsetup("luksKillSlot", backing, 0).returncode == 0
        assert not opens(backing, THEIRS)
    place.remount()
    assert len((home / "disk").read_bytes()) % BLOCK == 0
    assert place.complaints() == []


def test_recovery_through_the_mount_of_a_file_that_is_open_for_reading(place, home, tmp_path):
    backing = place.datastore / "vm" / "disk"
    ours = tmp_path / "ours"
    ours.write_text(OURS)
    (home / "disk").write_bytes(b"content")
    with (home / "disk").open("rb") as file:
        place.ioflt("recovery", "add", backing, "--passphrase-file", ours)
        assert opens(backing, OURS)
        assert file.read() == b"content"
    assert place.complaints() == []


#: Races of a shallow recrypt with stock luksAddKey.
RACES = 100

#: Slots have room for three 512-bit keys.
MAX_SLOTS = 3


def test_a_shallow_recrypt_races_with_stock_luks_add_key(place, home, tmp_path):
    """Stock may give up with its own error; a slot that it reported is never lost, nor is a token.

    Both are at work all the time: stock starts anew as soon as it ended, so that the recrypt's three changes
    of the header meet it at every point of its own.
    """
    backing = place.datastore / "vm" / "disk"
    (home / "disk").write_bytes(b"content")
    key_file, new = tmp_path / "key", tmp_path / "new"
    with backing.open("rb") as file, KeyClient.connect() as keys:
        with unwrap(read_header(file.fileno()), keys) as dek:
            key_file.write_bytes(dek.view())
        digest = read_header(file.fileno()).metadata["digests"]["0"]["digest"]
    added = 0

    def add(passphrase):
        """Whether stock says that it added a slot."""
        new.write_text(passphrase)
        done = cryptsetup(
            *("luksAddKey", "--key-size", 512, "--volume-key-file", key_file),
            *("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", 1000, backing, new),
        )
        assert done.returncode == 0 or "concurrent LUKS2 metadata update" in done.stderr, done.stderr
        return done.returncode == 0

    with (
        (home / "disk").open("r+b", buffering=0),  # so the mount writes the header
        KeyClient.connect() as keys,
        Volume.open(place.datastore, keys) as volume,
        ThreadPoolExecutor() as threads,
    ):
        for number in range(RACES):
            recrypting = threads.submit(recrypt.recrypt, volume, "vm")
            slots = []
            while not recrypting.done() and len(slots) < MAX_SLOTS:
                passphrase = f"passphrase {number} {len(slots)}"
                if add(passphrase):
                    slots.append(passphrase)
            recrypting.result()
            added += len(slots)
            with backing.open("rb") as file:
                found = read_header(file.fileno())
                assert len(found.tokens) == 1
                assert found.metadata["digests"]["0"]["digest"] == digest
                with unwrap(found, keys) as dek:
                    assert dek.view() == key_file.read_bytes()
            assert len(found.keyslots) == len(slots)
            for passphrase in slots:
                assert opens(backing, passphrase)
            if slots:
                assert cryptsetup("erase", backing).returncode == 0
    assert added > RACES / 2
    key_file.unlink()
    assert (home / "disk").read_bytes() == b"content"
    assert place.complaints() == []
