"""Moves of homes: what a rename does, what a copy does, other keys, and what an interruption leaves."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from ioflt.crypto.rng import new_uuid
from ioflt.datastore import check, lifecycle, move, registration, resume, seen, summary
from ioflt.datastore.volume import Volume
from ioflt.errors import BusyError, ExistsError, KeyUnavailableError, ReadOnlyError, UsageError
from ioflt.format.record.record import Move
from ioflt.keys.native.store import NativeStore
from ioflt.types import HomeState
from tests.unit.datastore.stored import Stored, snapshot
from tests.unit.datastore.test_clone import contents, deks, is_sound, other, stored
from tests.unit.datastore.test_lifecycle import interrupt

__all__ = ["other", "stored"]


@pytest.fixture
def corp(stored: Stored, tmp_path: Path) -> str:
    """A second provider."""
    store = NativeStore(tmp_path / "a" / "state" / "providers")
    store.create("corp")
    store.mark_backed_up("corp")
    stored.keys.reload()
    return "corp"


@pytest.fixture
def copying(monkeypatch: pytest.MonkeyPatch) -> None:
    """As between file systems."""
    monkeypatch.setattr(move, "_can_rename", lambda source, _record, target: source is target)


def providers(volume: Volume, name: str) -> list[str]:
    return [key.partition(":")[0] for key in summary.home(volume, name).keys]


# Whole moves


@pytest.mark.parametrize("leaves", [False, True])
def test_a_directory_that_may_not_be_written(
    stored: Stored, other: Volume, monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    """A rename in the datastore changes nothing in it."""
    web = os.stat(stored.top / "web").st_ino

    def no_changes(fd: int) -> str | None:  # root may write everywhere
        return "its directory may not be written" if os.fstat(fd).st_ino == web else None

    monkeypatch.setattr(move, "no_changes", no_changes)
    with pytest.raises(ReadOnlyError, match="may not be written") if leaves else nullcontext():
        move.move(stored.volume, "web", other if leaves else stored.volume, "www")
    assert stored.volume.homes() == ["web" if leaves else "www"]


def test_a_move_in_a_datastore_is_a_rename(stored: Stored) -> None:
    before = {path: (data, inode) for path, (data, inode, _) in snapshot(stored.top / "web").items()}
    move.move(stored.volume, "web", stored.volume, "www")
    after = {
        path.replace("/www/", "/web/"): (data, inode)
        for path, (data, inode, _) in snapshot(stored.top / "www").items()
    }
    assert after == before
    assert stored.volume.homes() == ["www"]
    assert is_sound(stored.volume)


def test_a_clear_vm_is_renamed_with_its_record(stored: Stored) -> None:
    lifecycle.decrypt(stored.volume, "web")
    move.move(stored.volume, "web", stored.volume, "www")
    assert summary.home(stored.volume, "www").problem is None


def test_a_move_between_datastores_of_one_file_system_keeps_keys_and_files(
    stored: Stored, other: Volume
) -> None:
    keys, plain = summary.home(stored.volume, "web").keys, contents(stored.volume, "web")
    inode = (stored.top / "web" / "disk-flat.vmdk").stat().st_ino
    move.move(stored.volume, "web", other, "www")
    assert Path(other.path, "www", "disk-flat.vmdk").stat().st_ino == inode
    assert summary.home(other, "www").keys == keys
    assert contents(other, "www") == plain
    assert stored.volume.homes() == []
    assert is_sound(other)


def test_a_clear_vm_that_moves_is_stored_as_its_new_datastore_says(stored: Stored, other: Volume) -> None:
    lifecycle.decrypt(stored.volume, "web")
    plain = contents(stored.volume, "web")
    move.move(stored.volume, "web", other, "www")
    assert contents(other, "www") == plain
    assert summary.home(other, "www").state == other.record.default.value
    assert stored.volume.homes() == []
    assert os.listdir(stored.top / ".ioflt.d") == []


def test_what_a_move_is_refused_for(stored: Stored, other: Volume) -> None:
    other.make_home("taken", 0o755)
    stored.volume.make_home("taken", 0o755)
    before = snapshot(stored.top)
    for target in (other, stored.volume):
        with pytest.raises(ExistsError):
            move.move(stored.volume, "web", target, "taken")
    with (
        Volume.open(other.path, stored.keys, read_only=True) as read_only,
        pytest.raises(ReadOnlyError),
    ):
        move.move(stored.volume, "web", read_only, "www")
    assert snapshot(stored.top) == before


def test_a_move_keeps_its_keys_whatever_provider_the_datastore_has(
    stored: Stored, tmp_path: Path, corp: str
) -> None:
    Volume.init(tmp_path / "corp-ds", HomeState.ENCRYPTED, stored.keys, provider=corp)
    keys = summary.home(stored.volume, "web").keys
    with Volume.open(tmp_path / "corp-ds", stored.keys) as target:
        move.move(stored.volume, "web", target, "web")
        assert summary.home(target, "web").keys == keys


@pytest.mark.usefixtures("copying")
def test_a_move_that_copies_gives_a_key_of_the_datastores_provider(
    stored: Stored, tmp_path: Path, corp: str
) -> None:
    Volume.init(tmp_path / "corp-ds", HomeState.ENCRYPTED, stored.keys, provider=corp)
    plain, data_keys = contents(stored.volume, "web"), deks(stored.volume, "web")
    with Volume.open(tmp_path / "corp-ds", stored.keys) as target:
        move.move(stored.volume, "web", target, "www")
        assert providers(target, "www") == ["corp"]
        assert contents(target, "www") == plain
        assert deks(target, "www").isdisjoint(data_keys)
        assert is_sound(target)
    assert stored.volume.homes() == []


def test_other_keys_where_a_rename_does_it(stored: Stored, other: Volume, corp: str) -> None:
    plain, data_keys = contents(stored.volume, "web"), deks(stored.volume, "web")
    move.move(stored.volume, "web", stored.volume, "www", provider=corp)
    assert providers(stored.volume, "www") == ["corp"]
    mine = stored.keys.new_key("local")
    move.move(stored.volume, "www", other, "here", key_id=mine.key_id, provider="local")
    assert summary.home(other, "here").keys == [str(mine)]
    move.move(other, "here", other, "there", key_id=mine.key_id)  # it has that already
    assert summary.home(other, "there").keys == [str(mine)]
    assert contents(other, "there") == plain
    assert deks(other, "there") == data_keys
    assert is_sound(other)


@pytest.mark.usefixtures("copying")
def test_other_keys_where_it_is_copied(stored: Stored, other: Volume, corp: str) -> None:
    plain = contents(stored.volume, "web")
    mine = stored.keys.new_key(corp)
    move.move(stored.volume, "web", other, "www", key_id=mine.key_id, provider=corp)
    assert summary.home(other, "www").keys == [str(mine)]
    move.move(other, "www", stored.volume, "web", provider="local")
    assert providers(stored.volume, "web") == ["local"]
    assert contents(stored.volume, "web") == plain
    assert is_sound(stored.volume)


def test_other_keys_of_a_clear_vm(stored: Stored, other: Volume, corp: str) -> None:
    lifecycle.decrypt(stored.volume, "web")
    with pytest.raises(UsageError, match="is clear: it has no keys"):
        move.move(stored.volume, "web", stored.volume, "www", provider=corp)
    if other.record.default is HomeState.CLEAR:
        with pytest.raises(UsageError, match="is clear: it has no keys"):
            move.move(stored.volume, "web", other, "www", provider=corp)
        return
    move.move(stored.volume, "web", other, "www", provider=corp)
    assert providers(other, "www") == ["corp"]


def test_nothing_is_changed_for_a_move_that_cannot_be(stored: Stored, other: Volume, corp: str) -> None:
    other.make_home("taken", 0o755)
    before = snapshot(stored.top)
    with pytest.raises(ExistsError):
        move.move(stored.volume, "web", other, "taken", provider=corp)
    with pytest.raises(KeyUnavailableError):
        move.move(stored.volume, "web", other, "www", provider="nobody")
    with stored.volume.home("web").shared(), pytest.raises(BusyError):
        move.move(stored.volume, "web", other, "www", provider=corp)
    after = snapshot(stored.top)
    assert {path: after[path] for path in before if ".ioflt.d" not in path and path.count("/") > 7} == {
        path: before[path] for path in before if ".ioflt.d" not in path and path.count("/") > 7
    }


# Interruptions


def findings(volume: Volume) -> set[str]:
    """What is wrong, but for drafts that the next writer removes."""
    entries = check.run(volume.path, volume.keys).entries
    left_out = (None, "a clear home in a datastore that encrypts")
    return {
        f"{one.path}: {one.finding}"
        for one in entries
        if one.finding not in left_out and ".ioflt.d" not in one.path
    }


def usable(*volumes: Volume) -> list[tuple[Volume, str]]:
    """The homes that take writes."""
    found = []
    for volume in volumes:
        with Volume.open(volume.path, volume.keys) as fresh:
            found += [(volume, name) for name in fresh.homes() if fresh.home(name).standing().problem is None]
    return found


def tell_once(stored: Stored, other: Volume, act: Callable[[], None], at: int) -> tuple[bool, str]:
    """Cut at that call; never are there two homes that take writes, and in the end there is one."""
    plain = contents(stored.volume, "web")
    reached = interrupt(act, at)
    assert len(usable(stored.volume, other)) <= 1
    with Volume.open(stored.top, stored.keys) as source, Volume.open(other.path, stored.keys) as target:
        stopped = "web" in source.homes() and source.home("web").standing().problem is not None
        resume.interrupted(target)
        resume.interrupted(source)
        ((where, name),) = usable(source, target)
        assert source.homes() + target.homes() == [name]
        assert contents(where, name) == plain
        assert findings(where) == set()
    how = ("moved" if where.path == other.path else "stayed") + (" after a stop" if stopped else "")
    if how.startswith("moved"):
        with Volume.open(other.path, stored.keys) as target, Volume.open(stored.top, stored.keys) as source:
            move.move(target, "www", source, "web")
    return reached, how


@pytest.mark.slow
@pytest.mark.usefixtures("copying")
@pytest.mark.parametrize("clear", [False, True], ids=["encrypted", "clear"])
def test_a_copying_move_interrupted_anywhere(stored: Stored, other: Volume, clear: bool) -> None:
    (stored.top / "web" / "sparse.img").unlink()
    if clear:
        lifecycle.decrypt(stored.volume, "web")
    seen_ways = set()
    for step in range(1, 400):
        with Volume.open(stored.top, stored.keys) as source, Volume.open(other.path, stored.keys) as target:
            if clear and source.home("web").standing().state is not HomeState.CLEAR:
                lifecycle.decrypt(source, "web")
            act = lambda source=source, target=target: move.move(source, "web", target, "www")  # noqa: E731
            reached, how = tell_once(stored, other, act, step)
        seen_ways.add(how)
        if not reached:
            break
    assert {"stayed", "stayed after a stop", "moved after a stop", "moved"} <= seen_ways
    assert not reached


@pytest.mark.slow
def test_a_renaming_move_to_another_key_interrupted_anywhere(
    stored: Stored, other: Volume, corp: str
) -> None:
    (stored.top / "web" / "sparse.img").unlink()
    seen_ways, found = set(), set()
    for step in range(1, 400):
        with Volume.open(stored.top, stored.keys) as source, Volume.open(other.path, stored.keys) as target:
            act = lambda source=source, target=target: move.move(  # noqa: E731
                source, "web", target, "www", provider=corp
            )
            reached, how = tell_once(stored, other, act, step)
        found.update(providers(stored.volume, "web"))
        seen_ways.add(how)
        if not reached:
            break
    assert not reached
    assert {"stayed", "moved"} <= seen_ways
    assert "corp" in found


def test_a_copy_that_fails_at_its_end_leaves_the_vm_as_it_was(
    stored: Stored, other: Volume, copying: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(*_: object) -> None:
        raise ExistsError("is there already")

    monkeypatch.setattr("ioflt.datastore.newhome._publish", taken)
    plain = contents(stored.volume, "web")
    with pytest.raises(ExistsError):
        move.move(stored.volume, "web", other, "www")
    standing = stored.volume.home("web").standing()
    assert (standing.problem, standing.record and standing.record.operation) == (None, None)
    assert contents(stored.volume, "web") == plain


def in_move(stored: Stored, datastore_id: str, home_id: str | None = None) -> None:
    home = stored.volume.home("web")
    record = home.standing().record
    assert record is not None
    home.store(replace(record, operation=Move(new_uuid(), home_id or new_uuid(), datastore_id)))


@pytest.mark.allow_log("an interrupted move cannot be finished now")
def test_where_the_other_datastore_is_not_there(stored: Stored, other: Volume) -> None:
    in_move(stored, new_uuid())
    assert resume.interrupted(stored.volume) == []
    with pytest.raises(UsageError, match="its move was interrupted"):
        lifecycle.decrypt(stored.volume, "web")
    assert "its move was interrupted" in (summary.home(stored.volume, "web").problem or "")
    in_move(stored, other.record.datastore_id)
    os.rename(other.path, f"{other.path}-away")
    assert resume.interrupted(stored.volume) == []
    assert summary.home(stored.volume, "web").problem is not None
    os.rename(f"{other.path}-away", other.path)
    assert resume.interrupted(stored.volume) == []  # taken back
    assert summary.home(stored.volume, "web").problem is None
    assert seen.place(new_uuid()) is None


@pytest.mark.usefixtures("copying")
def test_a_copy_that_only_says_that_it_is_one_takes_no_place(stored: Stored, other: Volume) -> None:
    """Its record is no valid one: who can write to the other datastore does not have the home removed."""
    wanted = new_uuid()
    in_move(stored, other.record.datastore_id, wanted)
    other.make_home("vm", 0o755)
    path = Path(other.path, "vm", ".ioflt")
    home_id = form_id(path)
    path.write_bytes(path.read_bytes().replace(home_id.encode(), wanted.encode()))
    assert resume.interrupted(stored.volume) == []
    assert stored.volume.homes() == ["web"]
    assert summary.home(stored.volume, "web").problem is None


def form_id(path: Path) -> str:
    from ioflt.format.record import record as form

    return form.parse_home(path.read_bytes()).record.home_id


@pytest.mark.allow_log("rolled back, and accepted")
def test_an_older_home_in_a_move_is_accepted_without_it(stored: Stored, other: Volume) -> None:
    in_move(stored, other.record.datastore_id)
    record = (stored.top / "web" / ".ioflt").read_bytes()
    assert resume.interrupted(stored.volume) == []
    (stored.top / "web" / ".ioflt").write_bytes(record)
    registration.register(stored.volume, "web", accept_rollback=True)
    assert summary.home(stored.volume, "web").problem is None
