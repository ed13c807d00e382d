"""Stock cryptsetup at a container that a mount has open and writes to all the time."""

import os
import subprocess
import threading
from contextlib import contextmanager

import pytest

from ioflt.datastore.container import unwrap
from ioflt.datastore.header import read_header
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


#: Races of a shallow recrypt with stock luksAddKey; `--long` runs all that the issue of lost slots asks for.
RACES, LONG_RACES = 15, 100


def test_a_shallow_recrypt_races_with_stock_luks_add_key(place, home, tmp_path, request):
    """Stock may give up with its own error; a slot that it reported is never lost, nor is a token."""
    backing = place.datastore / "vm" / "disk"
    (home / "disk").write_bytes(b"content")
    key_file, new = tmp_path / "key", tmp_path / "new"
    with backing.open("rb") as file, KeyClient.connect() as keys:
        with unwrap(read_header(file.fileno()), keys) as dek:
            key_file.write_bytes(dek.view())
        digest = read_header(file.fileno()).metadata["digests"]["0"]["digest"]
    add = [
        *("cryptsetup", "--batch-mode", "luksAddKey", "--key-size", "512", "--volume-key-file", key_file),
        *("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", backing, new),
    ]
    races = LONG_RACES if request.config.getoption("--long") else RACES
    added = refused = 0
    with (home / "disk").open("r+b", buffering=0):  # so the mount writes the header
        for number in range(races):
            new.write_text(f"passphrase {number}")
            stop, results = threading.Event(), []

            def keep_adding(stop=stop, results=results, number=number):
                while not stop.is_set() and not results:
                    done = subprocess.run(add, capture_output=True, text=True, check=False)
                    if done.returncode == 0:
                        results.append(number)
                    else:
                        assert "concurrent" in done.stderr or "busy" in done.stderr.lower(), done.stderr
                        results.append(None)

            thread = threading.Thread(target=keep_adding)
            thread.start()
            place.ioflt("vm", "recrypt", place.datastore / "vm")
            stop.set()
            thread.join()
            with backing.open("rb") as file, KeyClient.connect() as keys:
                found = read_header(file.fileno())
                assert len(found.tokens) == 1
                with unwrap(found, keys) as dek:
                    assert dek.view() == key_file.read_bytes()
                assert found.metadata["digests"]["0"]["digest"] == digest
            if results == [number]:
                added += 1
                assert opens(backing, f"passphrase {number}")
                assert cryptsetup("luksKillSlot", backing, found.keyslots[0]).returncode == 0
            else:
                refused += 1
                assert found.keyslots == ()
    assert added > 0
    assert added + refused == races
    key_file.unlink()
    assert (home / "disk").read_bytes() == b"content"
    assert place.complaints() == []
