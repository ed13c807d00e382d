"""Clear files of an encrypted home get other names, or go; no file is ever taken for what it is not."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ioflt import syscalls
from ioflt.datastore import clearfiles, files, lifecycle, namespace, recrypt, regular, resume
from ioflt.datastore.home import Home
from ioflt.datastore.namespace import Move
from ioflt.datastore.standing import Treatment
from ioflt.datastore.volume import Volume
from ioflt.errors import BusyError, CrossHomeError
from ioflt.format.record.record import HomeRecord, Recrypt, Rename
from ioflt.testing.local_keys import LocalKeys
from ioflt.types import HomeState
from tests.unit.datastore.test_lifecycle import contents, interrupt

#: Stored clear, and encrypted; each holds its own first name.
CLEAR = ("c1", "c2", "dir/c3")
ENCRYPTED = ("e1", "e2", "dir/e3")
NAMES = {name: name.encode() * 1000 for name in (*CLEAR, *ENCRYPTED)}


@pytest.fixture
def keys(tmp_path: Path, ioflt_home: Path) -> Iterator[LocalKeys]:
    directory = tmp_path / "keys"
    directory.mkdir()
    with LocalKeys(directory) as made:
        yield made


@pytest.fixture
def volume(tmp_path: Path, keys: LocalKeys) -> Iterator[Volume]:
    Volume.init(tmp_path / "ds", HomeState.CLEAR, keys)
    with Volume.open(tmp_path / "ds", keys) as made:
        yield made


def make(volume: Volume, name: str = "vm") -> Home:
    """An encrypted home with files of both kinds."""
    volume.make_home(name, 0o755)
    path = Path(volume.path) / name
    (path / "dir").mkdir()
    (path / "empty").mkdir()
    for file in ENCRYPTED:
        (path / file).write_bytes(NAMES[file])
    lifecycle.encrypt(volume, name)
    for file in CLEAR:
        (path / file).write_bytes(NAMES[file])
    home = volume.home(name)
    home.store(replace(record_of(home), clear_files=tuple(sorted(CLEAR))))
    return home


@pytest.fixture
def home(volume: Volume) -> Home:
    return make(volume)


def record_of(home: Home) -> HomeRecord:
    record = home.standing().record
    assert record is not None
    return record


@contextmanager
def moving(home: Home, old: str, new: str, flags: int = 0, new_home: Home | None = None) -> Iterator[Move]:
    to = new_home or home
    with regular.parent(home, old) as (old_fd, old_name), regular.parent(to, new) as (new_fd, new_name):
        is_dir = os.path.isdir(os.path.join(home.volume.path, home.name, old))
        yield Move(
            home, old_fd, old_name, to, new_fd, new_name, flags, is_dir=is_dir, top=False, new_top=False
        )  # fmt: skip


def rename(home: Home, old: str, new: str, flags: int = 0, new_home: Home | None = None) -> None:
    with moving(home, old, new, flags, new_home) as move:
        namespace.rename(move, None)


def unlink(home: Home, path: str) -> None:
    with regular.parent(home, path) as (parent_fd, name):
        namespace.remove(home, parent_fd, name, os.unlink)


def create(home: Home, path: str) -> None:
    with regular.parent(home, path) as (parent_fd, name):
        namespace.release(home, parent_fd, name)
        os.close(files.create(home, parent_fd, name, mode=0o600))


def listed(home: Home) -> list[str]:
    """The clear files; all others are containers, and every one can be read."""
    found = []
    for entry in regular.regular_files(home):
        with regular.opened(home, entry.path) as fd:
            is_clear = home.treatment(entry.path, fd) is Treatment.CLEAR
            assert is_clear != os.pread(fd, 4, 0).startswith(b"LUKS")
            found += [entry.path] if is_clear else []
    return found


#: A rename, and what is clear then.
RENAMES = {
    "clear": ("c1", "x", ["c2", "dir/c3", "x"]),
    "clear over clear": ("c1", "c2", ["c2", "dir/c3"]),
    "clear over encrypted": ("c1", "e1", ["c2", "dir/c3", "e1"]),
    "encrypted over clear": ("e1", "c1", ["c2", "dir/c3"]),
    "into a directory": ("c1", "dir/x", ["c2", "dir/c3", "dir/x"]),
    "out of a directory, over encrypted": ("dir/c3", "e1", ["c1", "c2", "e1"]),
    "into a directory, over clear": ("e1", "dir/c3", ["c1", "c2"]),
    "a directory": ("dir", "d", ["c1", "c2", "d/c3"]),
    "a directory over an empty one": ("dir", "empty", ["c1", "c2", "empty/c3"]),
}


@pytest.mark.parametrize("kind", RENAMES)
def test_a_rename_takes_the_list_along(home: Home, kind: str) -> None:
    old, new, clear = RENAMES[kind]
    generation = record_of(home).generation
    expected = after(old, new)
    rename(home, old, new)
    assert listed(home) == list(record_of(home).clear_files) == clear
    assert contents(home.volume) == expected  # type: ignore[arg-type]
    assert record_of(home).operation is None
    assert record_of(home).generation > generation


def after(old: str, new: str) -> dict[str, bytes]:
    found = {path: data for path, data in NAMES.items() if path not in (old, new)}
    for path, data in NAMES.items():
        if path == old or path.startswith(f"{old}/"):
            found.pop(path, None)
            found[new + path[len(old) :]] = data
    return found


@pytest.mark.parametrize("kind", RENAMES)
def test_a_rename_interrupted_anywhere(volume: Volume, kind: str) -> None:
    """It is done or not, each file reads as it should in between, and who comes next ends it."""
    old, new, clear = RENAMES[kind]
    at, reached, done, noted = 0, True, set(), 0
    while reached:
        at += 1
        home = make(volume, f"vm{at}")
        reached = interrupt(lambda home=home: rename(home, old, new), at)
        found = contents(volume, home.name)
        assert found in (NAMES, after(old, new))
        done.add(found == NAMES)
        before = listed(home)
        interrupted = isinstance(record_of(home).operation, Rename)
        noted += interrupted
        assert home.standing().problem is None
        if at % 2:
            assert resume.interrupted(volume) == ([(home.name, "rename")] if interrupted else [])
        home.check_writable()
        assert record_of(home).operation is None
        assert listed(home) == before
        assert list(record_of(home).clear_files) == (sorted(CLEAR) if found == NAMES else clear)
        assert contents(volume, home.name) == found
        volume.forget(home)
        shutil.rmtree(Path(volume.path) / home.name)
    assert done == {True, False}
    assert noted > 3


def test_what_needs_no_change_of_the_record(home: Home) -> None:
    generation = record_of(home).generation
    rename(home, "e1", "e2")
    rename(home, "c1", "c1")
    rename(home, "c1", "c2", syscalls.RENAME_EXCHANGE)
    rename(home, "e2", "dir/e3", syscalls.RENAME_EXCHANGE)
    assert record_of(home).generation == generation
    assert listed(home) == sorted(CLEAR)


@pytest.mark.parametrize(("old", "new"), [("c1", "e1"), ("e1", "c1"), ("dir", "empty"), ("empty", "dir")])
def test_an_exchange_of_what_is_stored_in_two_ways(home: Home, old: str, new: str) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        rename(home, old, new, syscalls.RENAME_EXCHANGE)
    assert listed(home) == sorted(CLEAR)


@pytest.mark.parametrize(
    ("old", "new", "flags", "number"),
    [
        ("c1", "e1", syscalls.RENAME_NOREPLACE, errno.EEXIST),
        ("c1", "dir", 0, errno.EISDIR),
        ("empty", "dir", 0, errno.ENOTEMPTY),
        ("nothing", "c1", 0, errno.ENOENT),
        ("dir", "dir/below", 0, errno.EINVAL),
        ("c1", "c1/below", 0, errno.ENOTDIR),
    ],
)
def test_a_rename_that_fails_changes_nothing(home: Home, old: str, new: str, flags: int, number: int) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 # by its number
        rename(home, old, new, flags)
    assert caught.value.errno == number
    assert listed(home) == sorted(CLEAR)
    assert record_of(home).operation is None
    assert contents(home.volume) == NAMES  # type: ignore[arg-type]


def test_clear_files_stay_in_their_home(volume: Volume, home: Home) -> None:
    clone = volume.home("vm")
    other = volume.make_home("other", 0o755)
    other.store(replace(record_of(home), home_id=record_of(other).home_id, clear_files=("x",)))
    assert clone.standing().keys == other.standing().keys
    for old, new in (("c1", "y"), ("e1", "x")):
        with pytest.raises(CrossHomeError, match="clear files stay"):
            rename(home, old, new, new_home=other)
    rename(home, "e1", "y", new_home=other)
    assert listed(other) == []
    assert listed(home) == sorted(CLEAR)


def test_no_clear_vmx(home: Home) -> None:
    with moving(home, "c1", "c1.vmx") as move:
        assert move.converts
        fd = regular.open_file(home, "c1")
        with (
            closing(files.open_file(home, fd, Treatment.CLEAR, writable=False, place=lambda: None)) as source,
            pytest.raises(OSError, match="cross-device"),
        ):
            namespace.convert(move, source, lambda: None, 1)
    assert listed(home) == sorted(CLEAR)


def test_no_hard_links_of_clear_files(volume: Volume, home: Home) -> None:
    with pytest.raises(PermissionError):
        namespace.check_link(home, Treatment.CLEAR, home, "x")
    namespace.check_link(home, Treatment.CONTAINER, home, "x")
    namespace.check_link(home, None, home, "x")
    clear = volume.make_home("clear", 0o755)
    namespace.check_link(clear, Treatment.CLEAR, clear, "x")


# Removed, and made again


def test_a_removed_file_is_listed_no_more(home: Home) -> None:
    unlink(home, "c1")
    unlink(home, "dir/c3")
    unlink(home, "e1")
    assert listed(home) == list(record_of(home).clear_files) == ["c2"]
    with pytest.raises(FileNotFoundError):
        unlink(home, "c1")


@pytest.mark.parametrize("path", ["c1", "dir/c3"])
def test_a_removal_interrupted_anywhere(volume: Volume, path: str) -> None:
    at, reached = 0, True
    while reached:
        at += 1
        home = make(volume, f"vm{at}")
        reached = interrupt(lambda home=home: unlink(home, path), at)
        assert contents(volume, home.name) in (NAMES, {name: NAMES[name] for name in NAMES if name != path})
        if (Path(volume.path) / home.name / path).exists():
            assert listed(home) == sorted(CLEAR)
        else:
            create(home, path)
            assert listed(home) == sorted(set(CLEAR) - {path})
        volume.forget(home)
        shutil.rmtree(Path(volume.path) / home.name)
    assert at > 4


def test_a_new_file_is_encrypted_whatever_its_name(home: Home) -> None:
    (Path(home.volume.path) / "vm" / "c1").unlink()  # behind our back
    create(home, "c1")
    assert listed(home) == list(record_of(home).clear_files) == ["c2", "dir/c3"]
    with pytest.raises(FileExistsError):
        create(home, "c2")
    assert listed(home) == ["c2", "dir/c3"]


def test_a_making_interrupted_anywhere(volume: Volume) -> None:
    at, reached = 0, True
    while reached:
        at += 1
        home = make(volume, f"vm{at}")
        path = Path(volume.path) / home.name / "c1"
        path.unlink()
        reached = interrupt(lambda home=home: create(home, "c1"), at)
        assert listed(home) == ["c2", "dir/c3"]
        if not path.exists():
            create(home, "c1")
        assert listed(home) == list(record_of(home).clear_files) == ["c2", "dir/c3"]
        volume.forget(home)
        shutil.rmtree(path.parent)
    assert at > 8


# With others at work


def test_others_wait_until_names_and_record_agree(
    volume: Volume, home: Home, keys: LocalKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process makes no file, renames and removes none in between; a reader reads on."""
    with Volume.open(volume.path, keys) as second:
        there = second.home("vm")
        actions: list[Callable[[], None]] = [
            lambda: create(there, "made"),
            lambda: rename(there, "e2", "renamed"),
            lambda: rename(there, "c2", "dir/e3"),
            lambda: unlink(there, "dir/c3"),
        ]
        threads = [threading.Thread(target=action) for action in actions]
        real = os.rename

        def slowly(source: str, target: str, **fds: int) -> None:
            if target == "e1":
                monkeypatch.undo()
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(0.05)
                assert all(thread.is_alive() for thread in threads)
                assert contents(second) == NAMES
                assert listed(there) == sorted(CLEAR)
            real(source, target, **fds)
            if target == "e1":
                assert contents(second) == after("c1", "e1")
                assert isinstance(record_of(there).operation, Rename)

        monkeypatch.setattr(os, "rename", slowly)
        rename(home, "c1", "e1")
        for thread in threads:
            thread.join(60)
        assert listed(there) == listed(home) == list(record_of(home).clear_files) == ["dir/e3", "e1"]
        assert sorted(contents(second)) == ["dir/e3", "e1", "made", "renamed"]


def test_clear_files_keep_their_names_while_keys_change(home: Home) -> None:
    record = record_of(home)
    old, new = record.keys[0], home.volume.keys.new_key("local")
    home.store(replace(record, keys=(new, old), operation=Recrypt(record.home_id, (old,), (new,))))
    with pytest.raises(BusyError, match="clear files keep their names"):
        rename(home, "c1", "x")
    rename(home, "e1", "x")
    unlink(home, "c1")
    assert record_of(home).clear_files == ("c2", "dir/c3")
    assert isinstance(record_of(home).operation, Recrypt)


def test_a_recrypt_keeps_what_became_of_the_list_meanwhile(home: Home) -> None:
    generation = record_of(home).generation

    def meanwhile(_files: int) -> None:
        if "c1" in record_of(home).clear_files:
            unlink(home, "c1")

    recrypt.recrypt(home.volume, "vm", progress=meanwhile)  # type: ignore[arg-type]
    assert listed(home) == list(record_of(home).clear_files) == ["c2", "dir/c3"]
    assert record_of(home).operation is None
    assert record_of(home).generation == generation + 4  # begun, the removal, all files done, ended


def test_paths_are_those_of_now(home: Home) -> None:
    with regular.parent(home, "dir/c3") as (parent_fd, _):
        os.rename("dir", "moved", src_dir_fd=home.fd, dst_dir_fd=home.fd)
        assert home.path_of(parent_fd, "c3") == "moved/c3"
    with pytest.raises(FileNotFoundError):
        home.path_of(home.volume.fd, "vm")
    assert home.path_of(home.fd, "c1") == "c1"
    assert clearfiles.concern(home, "dir")
    assert not clearfiles.concern(home, "di")
