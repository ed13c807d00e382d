"""Clones and moves of homes: what they hold, by which keys, and what is left of the old one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioflt import syscalls
from ioflt.crypto.secret import Secret
from ioflt.datastore import check, clone, datakeys, files, lifecycle, move, newhome, stateblocks, summary
from ioflt.datastore.header import read_header
from ioflt.datastore.standing import stored_as
from ioflt.datastore.volume import Volume
from ioflt.errors import BusyError, ExistsError, UsageError
from ioflt.format.luks2 import state
from ioflt.format.luks2.header import Header
from ioflt.keys.native.store import NativeStore
from ioflt.types import HomeState
from tests.unit.datastore.stored import DESCRIPTOR, VMX, Stored, snapshot

CANARY = b"A canary that no reader of the datastore may see. "
DISK = CANARY.ljust(70_000, b"c") + bytes(2 << 20) + CANARY


@pytest.fixture
def stored(ioflt_home: Path, tmp_path: Path) -> Iterator[Stored]:
    """An encrypted home `web` with a VM."""
    made = Stored(tmp_path / "a")
    made.put("web.vmx", VMX)
    made.put("disk.vmdk", DESCRIPTOR)
    made.put("disk-flat.vmdk", DISK)
    grown = made.put("sparse.img", b"")
    fd = os.open(grown, os.O_RDWR)
    file = files.open_file(made.home, fd, stored_as("sparse.img"), writable=True, place=lambda: None)
    file.truncate(64 << 20)
    file.sync(data_only=False)
    file.close()
    (made.top / "web" / "logs").mkdir()
    os.symlink("../disk.vmdk", made.top / "web" / "logs" / "link")
    yield made
    made.close()


@pytest.fixture(params=["encrypting", "clear"])
def other(request: pytest.FixtureRequest, stored: Stored, tmp_path: Path) -> Iterator[Volume]:
    """Another datastore, whose keys are in the same keyd."""
    default = HomeState.CLEAR if request.param == "clear" else HomeState.ENCRYPTED
    Volume.init(tmp_path / "other", default, stored.keys)
    with Volume.open(tmp_path / "other", stored.keys) as volume:
        yield volume


def contents(volume: Volume, name: str) -> dict[str, bytes]:
    """The plaintext of a home's files at its top."""
    home = volume.home(name)
    found = {}
    for path in ("web.vmx", "disk.vmdk", "disk-flat.vmdk"):
        fd = os.open(path, os.O_RDONLY, dir_fd=home.fd)
        file = files.open_file(home, fd, home.treatment(path, fd), writable=False, place=lambda: None)
        found[path] = bytes(file.read(0, file.length))
        file.close()
    return found


def read_header_of(path: Path) -> Header:
    with path.open("rb") as file:
        return read_header(file.fileno())


def deks(volume: Volume, name: str) -> set[bytes]:
    """The data keys of its containers."""
    found = set()
    for path in ("disk.vmdk", "disk-flat.vmdk"):
        header = read_header_of(Path(volume.path, name, path))
        with datakeys.unwrap(header, volume.keys) as dek:
            found.add(bytes(dek.view()))
    return found


def file_ids(volume: Volume, name: str) -> set[int]:
    with_state = set()
    for path in ("disk.vmdk", "disk-flat.vmdk"):
        with open(Path(volume.path, name, path), "rb") as file:
            for slot in stateblocks.read_slots(file.fileno()):
                block = state.peek(slot, b"")
                assert block is not None
                with_state.add(block.file_id)
    return with_state


def is_sound(volume: Volume) -> bool:
    return check.run(volume.path, volume.keys).sound


@pytest.mark.parametrize("same_key", [False, True], ids=["new keys", "same key"])
def test_a_clone_has_all_there_is_and_nothing_in_clear(stored: Stored, same_key: bool) -> None:
    before = snapshot(stored.top / "web")
    volume = stored.volume
    made = clone.clone(volume, "web", volume, "copy", same_key=same_key)
    assert contents(volume, "copy") == contents(volume, "web")
    assert os.readlink(stored.top / "copy" / "logs" / "link") == "../disk.vmdk"
    assert snapshot(stored.top / "web") == before
    assert CANARY not in b"".join(path.read_bytes() for path in (stored.top / "copy").rglob("*.vm*"))
    assert (deks(volume, "copy") == deks(volume, "web")) == same_key
    assert deks(volume, "copy").isdisjoint(deks(volume, "web")) != same_key
    assert (made.keys == summary.home(volume, "web").keys) == same_key
    assert file_ids(volume, "copy").isdisjoint(file_ids(volume, "web"))
    sparse = (stored.top / "copy" / "sparse.img").stat()
    assert sparse.st_size > 64 << 20 > 4 * 512 * sparse.st_blocks
    assert is_sound(volume)


@pytest.mark.parametrize("same_key", [False, True], ids=["new keys", "same key"])
def test_a_clone_of_an_encrypted_vm_is_encrypted_wherever_it_goes(
    stored: Stored, other: Volume, same_key: bool
) -> None:
    made = clone.clone(stored.volume, "web", other, "copy", same_key=same_key)
    assert made.state == "encrypted"
    assert contents(other, "copy") == contents(stored.volume, "web")
    assert is_sound(other)


def test_a_clone_of_a_clear_vm_follows_the_datastore(stored: Stored, other: Volume) -> None:
    lifecycle.decrypt(stored.volume, "web")
    made = clone.clone(stored.volume, "web", other, "copy")
    assert made.state == other.record.default.value
    assert contents(other, "copy") == contents(stored.volume, "web")


def test_a_clone_keeps_thick_and_times(stored: Stored) -> None:
    lifecycle.decrypt(stored.volume, "web")
    lifecycle.encrypt(stored.volume, "web", thick=True)
    clone.clone(stored.volume, "web", stored.volume, "copy")
    assert summary.home(stored.volume, "copy").thick
    old, new = (stored.top / name / "disk-flat.vmdk" for name in ("web", "copy"))
    assert new.stat().st_mtime_ns == old.stat().st_mtime_ns
    assert new.stat().st_mode == old.stat().st_mode


def test_a_clone_by_another_provider(stored: Stored, tmp_path: Path) -> None:
    store = NativeStore(tmp_path / "a" / "state" / "providers")
    store.create("second", Secret(b"passphrase"))
    store.mark_backed_up("second")
    stored.keys.unlock("second", Secret(b"passphrase"))
    made = clone.clone(stored.volume, "web", stored.volume, "copy", provider="second")
    assert [key.partition(":")[0] for key in made.keys] == ["second"]


def test_what_a_clone_is_refused_for(stored: Stored, other: Volume) -> None:
    volume = stored.volume
    before = snapshot(stored.top)
    with pytest.raises(ExistsError):
        clone.clone(volume, "web", volume, "web")
    with pytest.raises(UsageError):
        clone.clone(volume, "web", volume, ".ioflt.d")
    home = volume.home("web")
    home.enter()
    with pytest.raises(BusyError):
        clone.clone(volume, "web", other, "copy")
    home.leave()
    assert snapshot(stored.top) == before
    lifecycle.decrypt(volume, "web")
    with pytest.raises(UsageError, match="no key that a clone could share"):
        clone.clone(volume, "web", other, "copy", same_key=True)
    assert newhome.PRIVATE_DIR not in os.listdir(other.fd) or os.listdir(Path(other.path, ".ioflt.d")) == []


def test_a_clone_that_fails_leaves_nothing(stored: Stored, other: Volume) -> None:
    (stored.top / "web" / "disk.vmdk").write_bytes(b"no container")
    with pytest.raises(Exception, match=r"disk\.vmdk"):
        clone.clone(stored.volume, "web", other, "copy")
    assert other.homes() == []
    assert os.listdir(Path(other.path, ".ioflt.d")) == []


@pytest.mark.root
@pytest.mark.loop
@pytest.mark.interop("mkfs.xfs")
def test_a_clone_by_the_same_key_shares_blocks(stored: Stored, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, 400 << 20)
    subprocess.run(["mkfs.xfs", "-q", image], check=True)
    mountpoint = tmp_path / "xfs"
    mountpoint.mkdir()
    subprocess.run(["mount", "-o", "loop", image, mountpoint], check=True)
    try:
        Volume.init(mountpoint / "ds", HomeState.ENCRYPTED, stored.keys)
        with Volume.open(mountpoint / "ds", stored.keys) as volume:
            move.move(stored.volume, "web", volume, "web")
            large = mountpoint / "ds" / "web" / "large.img"
            home = volume.home("web")
            fd = files.create(home, home.fd, "large.img", mode=0o600)
            file = files.open_file(home, fd, stored_as("large.img"), writable=True, place=lambda: None)
            file.write(0, bytes(32 << 20))
            file.sync(data_only=False)
            file.close()
            before = shutil.disk_usage(mountpoint).used
            clone.clone(volume, "web", volume, "copy", same_key=True)
            assert shutil.disk_usage(mountpoint).used - before < large.stat().st_blocks * 512 // 4
            assert is_sound(volume)
    finally:
        subprocess.run(["umount", mountpoint], check=True)


def test_a_removal_that_is_cut_short_is_finished_at_the_next_start(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = stored.volume.home("web")
    monkeypatch.setattr(newhome.shutil, "rmtree", lambda *_, **__: None)
    with home.exclusive():
        newhome.dispose(stored.volume, home)
    monkeypatch.undo()
    assert stored.volume.homes() == []
    assert len(os.listdir(stored.top / ".ioflt.d")) == 1
    newhome.remove_unfinished(stored.volume.fd)
    assert os.listdir(stored.top / ".ioflt.d") == []


def test_a_reflink_says_where_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    with (tmp_path / "a").open("rb") as source, (tmp_path / "b").open("wb") as target:
        shared = syscalls.reflink(target.fileno(), source.fileno())
    assert (tmp_path / "b").read_bytes() == (b"content" if shared else b"")
