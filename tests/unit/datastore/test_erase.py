"""Cryptographic erase: nothing that opens a file is left, and what must not be erased is not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ioflt.crypto.rng import new_uuid
from ioflt.crypto.secret import Secret
from ioflt.datastore import clone, erase, lifecycle, newhome, recovery, recrypt, resume
from ioflt.datastore.volume import Volume
from ioflt.errors import BusyError, KeyUnavailableError, ReadOnlyError, StorageError, UsageError
from ioflt.format.luks2.layout import DATA_OFFSET, KEYSLOTS_OFFSET, STATE_SLOT_OFFSETS
from ioflt.format.record.record import Operation, Recrypt
from ioflt.types import HomeState, KeyRef
from tests.unit.datastore.stored import DESCRIPTOR, VMX, Stored, snapshot

DISK = b"data of a guest " * 80_000
NAMES = ("disk-flat.vmdk", "disk.vmdk", "logs/vm.log", "web.vmx")


@pytest.fixture
def stored(ioflt_home: Path, tmp_path: Path) -> Iterator[Stored]:
    """An encrypted home `web` with a VM; its disk has a recovery slot."""
    made = Stored(tmp_path / "a")
    made.put("web.vmx", VMX)
    made.put("disk.vmdk", DESCRIPTOR)
    made.put("disk-flat.vmdk", DISK)
    made.put("vm.log", b"a line\n")
    made.path("logs").mkdir()
    made.path("vm.log").rename(made.path("logs/vm.log"))
    os.symlink("disk.vmdk", made.path("link"))
    with made.path("disk-flat.vmdk").open("r+b") as file:
        recovery.add_slot(file.fileno(), made.keys, Secret(b"passphrase"))
    yield made
    made.close()


class Held:
    """Files of a home that stay open, so that one sees what became of their blocks."""

    def __init__(self, home: Path) -> None:
        self.before = {}
        self._fds = {}
        for path in home.rglob("*"):
            if path.is_file() and not path.is_symlink():
                self._fds[path] = os.open(path, os.O_RDONLY)
                self.before[path] = path.read_bytes()

    def after(self) -> dict[Path, bytes]:
        return {path: os.pread(fd, 64 << 20, 0) for path, fd in self._fds.items()}

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)


@pytest.fixture
def held(stored: Stored) -> Iterator[Held]:
    made = Held(stored.top / "web")
    yield made
    made.close()


def sectors(data: bytes) -> list[bytes]:
    """Those that say something: in a hole there is nothing to overwrite."""
    return [part for at in range(0, len(data), 512) if any(part := data[at : at + 512])]


def is_wiped(held: Held) -> bool:
    """Whether no sector that opens a file is left."""
    now = held.after()
    return all(
        set(sectors(data[:DATA_OFFSET])).isdisjoint(sectors(now[path])) for path, data in held.before.items()
    )


def test_nothing_that_opens_a_file_is_left_on_the_medium(stored: Stored, held: Held) -> None:
    stored.path("empty").touch()
    flat = stored.path("disk-flat.vmdk")
    was = held.before[flat]
    token = stored.header("disk-flat.vmdk").tokens[0].blob
    for start in (0, 16384, KEYSLOTS_OFFSET, max(STATE_SLOT_OFFSETS)):  # else this shows nothing
        assert sectors(was[start : start + 16384])
    (key,) = stored.home.standing().keys
    record = stored.home.standing().record
    uuid = stored.header("disk-flat.vmdk").uuid
    assert record is not None

    expected = erase.extent(stored.volume, "web")
    heard: list[int] = []

    receipt = erase.erase(stored.volume, "web", progress=heard.append)

    assert sum(heard) == sum(file.overwritten for file in receipt.files)
    assert sum(heard) <= 2 * expected
    assert is_wiped(held)
    assert token not in held.after()[flat]
    assert held.after()[flat][4 * DATA_OFFSET :] == was[4 * DATA_OFFSET :]
    assert len(held.after()[flat]) == len(was)
    assert stored.volume.homes() == []
    assert os.listdir(stored.top / ".ioflt.d") == []
    assert (receipt.vm, receipt.home_id) == (str(stored.top / "web"), record.home_id)
    assert [asdict(one) for one in receipt.keys] == [{"key": str(key), "fate": "kept", "also_protects": []}]
    files = {one.path: one for one in receipt.files}
    assert sorted(path for path in files if not path.startswith(".ioflt")) == sorted((*NAMES, "empty"))
    assert files["disk-flat.vmdk"].uuid == uuid
    assert (files["web.vmx"].stored, files[".ioflt"].stored) == ("sealed VMX", "record")
    assert files["web.vmx"].overwritten == len(held.before[stored.path("web.vmx")])
    assert receipt.unknown == []
    json.dumps(asdict(receipt))


def test_holes_stay_holes(stored: Stored) -> None:
    """A full datastore is no obstacle: nothing is written where nothing was."""
    path = stored.put("sparse.img", b"")
    os.truncate(path, 64 << 20)
    with path.open("rb") as file:
        before = os.fstat(file.fileno()).st_blocks
        erase.erase(stored.volume, "web")
        assert os.fstat(file.fileno()).st_blocks == before


def test_files_that_are_clear_on_purpose_are_overwritten_whole(stored: Stored) -> None:
    record = stored.home.standing().record
    assert record is not None
    path = stored.path("open.iso")
    path.write_bytes(b"in clear" * (1 << 20))
    stored.home.store(replace(record, clear_files=("open.iso",)))
    with path.open("rb") as file:
        receipt = erase.erase(stored.volume, "web")
        assert b"in clear" not in file.read()
    assert [one.overwritten for one in receipt.files if one.stored == "clear"] == [8 << 20]


def test_keyd_forgets_what_nothing_else_needs(stored: Stored) -> None:
    def cached(key: KeyRef) -> bool:
        return stored.keys.key_states([key], ask=False)[0].cached

    clone.clone(stored.volume, "web", stored.volume, "twin", same_key=True)
    (key,) = stored.home.standing().keys
    receipt = erase.erase(stored.volume, "web")
    assert receipt.keys[0].also_protects == [str(stored.top / "twin")]
    assert cached(key)
    assert erase.erase(stored.volume, "twin").keys[0].also_protects == []
    assert not cached(key)
    stored.keys.mac(key, "home-record", b"")  # and can be had again


def test_destroyed_with_its_key(stored: Stored) -> None:
    """One of a native provider is derived: it cannot be destroyed, and this host does without it."""
    (key,) = stored.home.standing().keys
    receipt = erase.erase(stored.volume, "web", destroy=stored.keys.erase_key)
    assert receipt.keys[0].fate == "removed from this host"
    with pytest.raises(KeyUnavailableError, match="removed"):
        stored.keys.mac(key, "home-record", b"")


def test_a_key_that_something_else_has_is_not_destroyed(stored: Stored) -> None:
    def never(key: KeyRef, _home_id: str) -> bool:
        raise AssertionError(key)

    clone.clone(stored.volume, "web", stored.volume, "twin", same_key=True)
    before = snapshot(stored.top / "web")
    with pytest.raises(BusyError, match=f"also opens {stored.top}/twin"):
        erase.erase(stored.volume, "web", destroy=never)
    recrypt.recrypt(stored.volume, "web", key_id=stored.volume.record.key.key_id)
    with pytest.raises(BusyError, match=f"also opens {stored.top}$"):  # the datastore
        erase.erase(stored.volume, "web", destroy=never)
    stored.path("", "twin").joinpath(".ioflt").write_bytes(b"no record")
    recrypt.recrypt(stored.volume, "web")
    before = snapshot(stored.top / "web")
    with pytest.raises(BusyError, match=f"nobody knows .* {stored.top}/twin"):
        erase.erase(stored.volume, "web", destroy=never)
    assert snapshot(stored.top / "web") == before


def test_a_vm_whose_key_is_lost_can_be_erased(stored: Stored, held: Held) -> None:
    (key,) = stored.home.standing().keys
    stored.keys.remove_key(key)
    stored.volume.close()
    stored.volume = Volume.open(stored.top, stored.keys)
    with pytest.raises(KeyUnavailableError):
        erase.erase(stored.volume, "web", destroy=stored.keys.erase_key)
    erase.erase(stored.volume, "web")
    assert is_wiped(held)
    assert stored.volume.homes() == []
    with pytest.raises(KeyUnavailableError):  # as it was
        stored.keys.mac(key, "home-record", b"")


def test_in_the_middle_of_a_recrypt(stored: Stored) -> None:
    record = stored.home.standing().record
    assert record is not None
    new = stored.keys.new_key()
    under_way = Recrypt(new_uuid(), record.keys, (new,))
    stored.home.store(replace(record, keys=(new, *record.keys), operation=under_way))
    with pytest.raises(UsageError, match="its recrypt was interrupted, and comes first"):
        erase.erase(stored.volume, "web", destroy=stored.keys.erase_key)
    held = Held(stored.top / "web")
    receipt = erase.erase(stored.volume, "web")
    assert [one.key for one in receipt.keys] == [str(new), *map(str, record.keys)]
    assert is_wiped(held)
    held.close()


def refused(stored: Stored, kind: type[Exception], message: str, *, name: str = "web") -> None:
    before = snapshot(stored.top)
    with pytest.raises(kind, match=message):
        erase.erase(stored.volume, name)
    assert snapshot(stored.top) == before


def test_refused(stored: Stored, tmp_path: Path) -> None:
    (stored.top / ".ioflt.d").mkdir(exist_ok=True)
    stored.home.enter()
    refused(stored, BusyError, "in use")
    stored.home.leave()

    with Volume.open(stored.top, stored.keys, read_only=True) as read_only:
        with pytest.raises(ReadOnlyError):
            erase.erase(read_only, "web")
        assert resume.erase.resume(read_only) == []

    os.link(stored.path("disk-flat.vmdk"), tmp_path / "elsewhere")
    refused(stored, UsageError, "'disk-flat.vmdk' has names outside of the VM")
    (tmp_path / "elsewhere").unlink()

    stored.path("notes.txt").write_text("never encrypted")
    refused(stored, UsageError, "is not encrypted")
    stored.path("notes.txt").unlink()

    stored.path("seen.vmx").write_text("displayName = 'clear'\n")
    refused(stored, UsageError, "is not encrypted")
    stored.path("seen.vmx").unlink()

    record = stored.home.standing().record
    assert record is not None
    half = Operation("encrypt", new_uuid(), False, ("disk.vmdk",), None)
    stored.home.store(replace(record, operation=half))
    refused(stored, ReadOnlyError, "its encryption was interrupted")

    stored.path(".ioflt").unlink()
    refused(stored, ReadOnlyError, "it has no record")


def test_a_clear_vm_has_nothing_cryptographic_to_erase(stored: Stored) -> None:
    lifecycle.decrypt(stored.volume, "web")
    (stored.top / ".ioflt.d").mkdir(exist_ok=True)
    refused(stored, UsageError, "is clear: there is nothing to erase but its data")


def test_names_inside_the_vm_are_no_obstacle(stored: Stored, held: Held) -> None:
    os.link(stored.path("disk-flat.vmdk"), stored.path("logs/same.vmdk"))
    erase.erase(stored.volume, "web")
    assert is_wiped(held)


@pytest.mark.allow_log("erase-0000000000000000: .* has names outside of the VM")
def test_what_is_hidden_is_finished_and_only_that(
    stored: Stored, held: Held, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever writes to the datastore gets nothing overwritten that has a name elsewhere."""
    stored.put("other.img", DISK)
    outside = tmp_path / "outside"
    outside.write_bytes(b"of the host")
    with stored.home.exclusive():
        hidden = newhome.hide(stored.volume, stored.home, newhome.ERASED)
        assert resume.interrupted(stored.volume) == []  # whoever began is still at it
    planted = stored.top / ".ioflt.d" / "erase-0000000000000000"
    planted.mkdir()
    os.link(outside, planted / "disk")
    os.symlink(outside, planted / "link")
    assert resume.interrupted(stored.volume) == [(hidden, "erase")]
    assert is_wiped(held)
    assert outside.read_bytes() == b"of the host"
    assert "has names outside" in caplog.text
    (planted / "disk").unlink()
    assert [what for _, what in resume.interrupted(stored.volume)] == ["erase"]
    assert outside.read_bytes() == b"of the host"
    assert os.listdir(stored.top / ".ioflt.d") == []


def test_a_failing_disk(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written is found before anything is changed."""
    before = snapshot(stored.path(""))
    opened = erase.syscalls.open_beneath

    def failing(dir_fd: int, name: str, flags: int) -> int:
        if name == "web.vmx" and flags & os.O_RDWR:
            raise OSError(30, "Read-only file system")
        return opened(dir_fd, name, flags)

    monkeypatch.setattr(erase.syscalls, "open_beneath", failing)
    with pytest.raises(StorageError):
        erase.erase(stored.volume, "web", destroy=lambda _key, _home_id: pytest.fail("a key is destroyed"))
    assert snapshot(stored.path("")) == before


def test_the_default_of_the_datastore_is_no_matter(ioflt_home: Path, tmp_path: Path) -> None:
    stored = Stored(tmp_path / "b", HomeState.CLEAR)
    stored.put("disk.vmdk", DESCRIPTOR)
    lifecycle.encrypt(stored.volume, "web")
    erase.erase(stored.volume, "web")
    assert stored.volume.homes() == []
    stored.close()
