"""Older homes put back, and raw copies: what this host has seen, and what it makes of it."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ioflt import paths
from ioflt.datastore import files, lifecycle, recrypt
from ioflt.datastore.copies import Copies
from ioflt.datastore.memory import Memory, Seen
from ioflt.datastore.standing import Refusal
from ioflt.datastore.volume import Volume
from ioflt.errors import ReadOnlyError, UsageError
from ioflt.format.record import homes
from ioflt.format.record import record as form
from ioflt.format.record.record import HomeRecord
from ioflt.testing.local_keys import LocalKeys
from ioflt.types import HomeState
from tests.unit.datastore.test_lifecycle import contents, fill, forget, put_back, raw


@pytest.fixture
def keys(tmp_path: Path, ioflt_home: Path) -> Iterator[LocalKeys]:
    (tmp_path / "keys").mkdir()
    with LocalKeys(tmp_path / "keys") as made:
        yield made


@pytest.fixture
def volume(tmp_path: Path, keys: LocalKeys) -> Iterator[Volume]:
    Volume.init(tmp_path / "ds", HomeState.CLEAR, keys)
    with Volume.open(tmp_path / "ds", keys) as made:
        yield made


@pytest.fixture
def vm(volume: Volume) -> Path:
    volume.make_home("vm", 0o755)
    fill(Path(volume.path, "vm"))
    lifecycle.encrypt(volume, "vm")
    volume.make_home("other", 0o755)
    return Path(volume.path, "vm")


def record_of(volume: Volume, name: str = "vm") -> HomeRecord:
    record = volume.home(name).standing().record
    assert record is not None
    return record


def saved(home: Path) -> dict[str, bytes]:
    return {name: data for name, data in raw(home).items() if not name.startswith(".ioflt.d")}


def refused(volume: Volume, text: str, name: str = "vm") -> None:
    with pytest.raises(ReadOnlyError, match=text):
        volume.home(name).check_writable()
    for action in (lifecycle.encrypt, lifecycle.decrypt, recrypt.recrypt):
        with pytest.raises(ReadOnlyError, match=text):
            action(volume, name)
    with pytest.raises(ReadOnlyError, match=text):
        files.create(volume.home(name), volume.home(name).fd, "new", mode=0o600)


# Rolled back


@pytest.mark.allow_log("rolled back, and accepted")
def test_from_before_a_recrypt(volume: Volume, vm: Path, caplog: pytest.LogCaptureFixture) -> None:
    before, old, was = contents(volume), saved(vm), record_of(volume)
    recrypt.recrypt(volume, "vm")
    put_back(vm, old)
    refused(
        volume, rf"vm: it was rolled back: its record has generation {was.generation}, this host has seen"
    )
    assert contents(volume) == before
    assert saved(vm) == old
    volume.home("other").check_writable()
    with pytest.raises(ReadOnlyError, match="rolled back"):
        lifecycle.register(volume, "vm")
    with caplog.at_level(logging.WARNING):
        assert lifecycle.register(volume, "vm", accept_rollback=True) == []
    assert "rolled back, and accepted" in caplog.text
    caplog.clear()
    now = record_of(volume)
    assert now.home_id != was.home_id
    assert now == replace(was, home_id=now.home_id, generation=was.generation + 1)
    volume.home("vm").check_writable()
    recrypt.recrypt(volume, "vm")
    assert contents(volume) == before


@pytest.mark.allow_log("rolled back, and accepted")
def test_only_the_record_of_before_a_recrypt(volume: Volume, vm: Path) -> None:
    """Accepted, it names the keys by which the files open."""
    before, record = contents(volume), (vm / ".ioflt").read_bytes()
    (new,) = recrypt.recrypt(volume, "vm")
    (vm / ".ioflt").write_bytes(record)
    refused(volume, "rolled back")
    lifecycle.register(volume, "vm", accept_rollback=True)
    assert record_of(volume).keys == (new,)
    assert contents(volume) == before


def test_back_to_format_1(volume: Volume, vm: Path, keys: LocalKeys) -> None:
    record = record_of(volume)
    payload = json.dumps(homes.to_json_1(record), separators=(",", ":")).encode()
    (vm / ".ioflt").write_bytes(form.seal(payload, [keys.mac(record.keys[0], "home-record", payload)]))
    refused(volume, "rolled back: its record has generation 0")


def test_the_encrypted_state_put_back_over_a_decrypted_one(volume: Volume, vm: Path) -> None:
    old = saved(vm)
    lifecycle.decrypt(volume, "vm")
    put_back(vm, old)
    refused(volume, "rolled back")


def test_a_host_that_never_saw_it(volume: Volume, vm: Path) -> None:
    old = saved(vm)
    recrypt.recrypt(volume, "vm")
    put_back(vm, old)
    forget()
    volume.home("vm").check_writable()


def test_what_is_not_rolled_back_is_not_accepted(volume: Volume, vm: Path) -> None:
    with pytest.raises(UsageError, match="was not rolled back"):
        lifecycle.register(volume, "vm", accept_rollback=True)


@pytest.mark.allow_log("cannot be resumed now: .*rolled back")
def test_nothing_is_resumed_by_itself(volume: Volume, vm: Path) -> None:
    from tests.unit.datastore.test_lifecycle import interrupt

    assert interrupt(lambda: recrypt.recrypt(volume, "vm"), 30)
    half = saved(vm)
    recrypt.recrypt(volume, "vm")
    put_back(vm, half)
    assert recrypt.resume(volume) == []
    assert saved(vm) == half


# Raw copies


def test_a_raw_copy(volume: Volume, vm: Path, keys: LocalKeys) -> None:
    """Read-only in both places, for who had them open before as well, until one is gone."""
    before, copy = contents(volume), vm.with_name("copy")
    with Volume.open(volume.path, keys) as early:
        early.home("vm").check_writable()
        shutil.copytree(vm, copy, symlinks=True, ignore=shutil.ignore_patterns("fifo"))
        refused(volume, f"the same VM is in {vm}, too", "copy")
        refused(volume, f"the same VM is in {copy}, too", "vm")
        refused(early, f"the same VM is in {copy}, too", "vm")
        early.home("other").check_writable()
        assert contents(volume, "copy") == before
        with pytest.raises(ReadOnlyError, match="a raw copy"):
            lifecycle.register(volume, "copy")
        volume.forget(volume.home("copy"))
        shutil.rmtree(copy)
        early.home("vm").check_writable()
    volume.home("vm").check_writable()


def test_copies_that_nobody_looked_at(volume: Volume, vm: Path, keys: LocalKeys) -> None:
    """A mount looks for them when it starts, without a key, and at what it meets later; a rename is none."""
    met = Copies(volume)
    met.look()
    volume.home("vm").check_writable()
    copy = vm.with_name("copy")
    shutil.copytree(vm, copy, symlinks=True, ignore=shutil.ignore_patterns("fifo"))
    home = volume.home("copy")
    assert met.is_new(home)
    met.meet(home)
    assert not met.is_new(home)
    volume.home("other").check_writable()
    for name, place in (("vm", copy), ("copy", vm)):
        refused(volume, f"the same VM is in {place}, too", name)
    volume.forget(volume.home("copy"))
    shutil.rmtree(copy)
    vm.rename(copy)
    met.look()
    volume.home("copy").check_writable()


def test_directories_planted_in_another_datastore_say_nothing(
    volume: Volume, vm: Path, keys: LocalKeys, tmp_path: Path
) -> None:
    """Their records name a home that is not theirs, and nobody verified them."""
    noted = paths.find().homes / record_of(volume).home_id
    Volume.init(tmp_path / "planted", HomeState.CLEAR, keys)
    for name in ("one", "two"):
        (tmp_path / "planted" / name).mkdir()
        shutil.copy(vm / ".ioflt", tmp_path / "planted" / name)
    before = noted.read_bytes()
    with Volume.open(tmp_path / "planted", keys) as planted:
        Copies(planted).look()
    assert noted.read_bytes() == before
    volume.home("vm").check_writable()


def test_a_home_whose_record_is_not_there_yet_is_looked_at_again(volume: Volume, vm: Path) -> None:
    """As while a raw copy is being made."""
    met = Copies(volume)
    met.look()
    vm.with_name("copy").mkdir()
    home = volume.home("copy")
    met.meet(home)
    assert met.is_new(home)
    shutil.copy(vm / ".ioflt", vm.with_name("copy"))
    met.meet(home)
    assert not met.is_new(home)
    refused(volume, "a raw copy")


def test_providers_are_asked_of_a_home_although_a_copy_of_it_was_met(
    volume: Volume, vm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home_id = record_of(volume).home_id
    (paths.find().homes / home_id).unlink()
    volume.memory.meet(home_id, "/gone")
    asked = []
    monkeypatch.setattr(volume.keys, "seen_generation", lambda *told: asked.append(told) or (0, True))
    volume.home("vm").check_writable()
    assert len(asked) == 1


def test_a_copy_that_is_only_looked_at(volume: Volume, vm: Path, keys: LocalKeys, tmp_path: Path) -> None:
    """A snapshot of the datastore, say, opened for reading."""
    shutil.copytree(volume.path, tmp_path / "snapshot", symlinks=True, ignore=shutil.ignore_patterns("fifo"))
    with Volume.open(tmp_path / "snapshot", keys, read_only=True) as view:
        assert view.home("vm").standing().refusal is Refusal.COPIED
        volume.home("vm").check_writable()
    with Volume.open(volume.path, keys) as again:
        again.home("vm").check_writable()


def test_a_datastore_that_moved(volume: Volume, vm: Path, keys: LocalKeys, tmp_path: Path) -> None:
    os.rename(volume.path, tmp_path / "moved")
    with Volume.open(tmp_path / "moved", keys) as moved:
        moved.home("vm").check_writable()
        os.rename(tmp_path / "moved" / "vm", tmp_path / "moved" / "renamed")
        moved.home("renamed").check_writable()


# What is remembered


def test_memory(tmp_path: Path) -> None:
    memory, home_id = Memory(tmp_path / "homes"), "0f0e0d0c-0b0a-4908-8706-050403020100"
    assert memory.look(home_id) == Seen()
    assert memory.stamp(home_id) is None
    memory.note(home_id, 5, "/srv/ds/a\udcff")
    stamp = memory.stamp(home_id)
    memory.note(home_id, 3, "/srv/ds/b")
    assert memory.look(home_id) == Seen(5, ("/srv/ds/a\udcff", "/srv/ds/b"))
    assert memory.stamp(home_id) != stamp
    memory.note(home_id, 6, "/srv/ds/b", ("/srv/ds/a\udcff",))
    assert memory.look(home_id) == Seen(6, ("/srv/ds/b",))
    for number in range(20):
        memory.note(home_id, 6, f"/{number}")
    assert len(memory.look(home_id).places) == 16


@pytest.mark.parametrize("left", [b"", bytes(40)])
def test_memory_that_a_power_cut_emptied(tmp_path: Path, left: bytes) -> None:
    """What was noted at a first look is not synced: nothing is remembered then, and nothing is wrong."""
    memory, home = Memory(tmp_path), "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
    memory.note(home, 3, "/ds/web", durable=False)
    (tmp_path / home).write_bytes(left)
    assert memory.look(home) == Seen(asked=False)  # so that the providers of its keys are asked
    memory.note(home, 2, "/ds/web", asked=True)
    assert memory.look(home) == Seen(2, ("/ds/web",))


@pytest.mark.allow_log("cannot (be read|remember)")
def test_memory_that_fails(tmp_path: Path) -> None:
    home_id = "0f0e0d0c-0b0a-4908-8706-050403020100"
    (tmp_path / "homes").mkdir()
    (tmp_path / "homes" / home_id).write_bytes(b"nonsense")
    memory = Memory(tmp_path / "homes")
    assert memory.look(home_id) == Seen()
    memory.note(home_id, 5, "/a")
    assert memory.look(home_id) == Seen(5, ("/a",))
    (tmp_path / "file").touch()
    Memory(tmp_path / "file").note(home_id, 5, "/a")


def test_the_directory_is_private(volume: Volume, vm: Path) -> None:
    assert paths.find().homes.stat().st_mode & 0o777 == 0o700
