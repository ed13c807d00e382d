"""A directory as a datastore: made once, opened by whom it may be, its homes found by plain names only."""

import gc
import os
import shutil

import pytest

from ioflt.datastore import files
from ioflt.datastore.standing import Treatment
from ioflt.datastore.volume import Volume, split_home_path
from ioflt.errors import (
    BusyError,
    CorruptDataError,
    ExistsError,
    IofltError,
    KeyUnavailableError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
    UsageError,
)
from ioflt.policy.bundled import DATASTORE_DEFAULT
from ioflt.testing.local_keys import LocalKeys
from ioflt.types import HomeState

HOSTILE = ["", ".", "..", "a/b", "../web01", "/etc", ".ioflt", ".ioflt.d", "a\0b"]


def test_init_twice_is_refused(directory, keys, fingerprint):
    before = fingerprint(directory)
    with pytest.raises(ExistsError):
        Volume.init(directory, HomeState.CLEAR, keys)
    assert fingerprint(directory) == before


def test_init_on_a_directory_with_homes_makes_no_records(tmp_path, keys):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "disk").write_bytes(b"plain")
    Volume.init(tmp_path, HomeState.ENCRYPTED, keys)
    with Volume.open(tmp_path, keys) as volume:
        assert "old" in volume.homes()
        with pytest.raises(ReadOnlyError, match="no record"):
            volume.home("old").check_writable()
    assert os.listdir(tmp_path / "old") == ["disk"]


def test_init_where_nothing_can_be_made(tmp_path, keys):
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "no" / "parent"):
        with pytest.raises(StorageError):
            Volume.init(path, HomeState.CLEAR, keys)


def test_open_what_is_no_datastore(tmp_path, keys):
    for path in (tmp_path, tmp_path / "missing", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(NotFoundError):
            Volume.open(path, keys)


def test_open_with_other_keys(directory, short_tmp):
    (short_tmp / "other").mkdir()
    with LocalKeys(short_tmp / "other") as others, pytest.raises(KeyUnavailableError):
        Volume.open(directory, others)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: b"",
        lambda raw: raw.replace(b'"encrypted"', b'"clear"').replace(
            b'"default":"clear"', b'"default":"CLEAR"'
        ),
        lambda raw: raw[:-8] + bytes([raw[-8] ^ 1]) + raw[-7:],
        lambda raw: b"{}\nmac \n",
    ],
)
def test_spoilt_record_opens_nothing(directory, keys, spoil, default, fingerprint):
    path = directory / ".ioflt"
    raw = path.read_bytes()
    changed = spoil(raw)
    if changed == raw:
        return
    path.write_bytes(changed)
    before = fingerprint(directory)
    with pytest.raises(CorruptDataError) as caught:
        Volume.open(directory, keys)
    assert str(directory) in str(caught.value)
    assert fingerprint(directory) == before


def test_record_of_a_home_is_none_of_a_datastore(volume, directory, keys):
    volume.make_home("web01", 0o755)
    shutil.copyfile(directory / "web01" / ".ioflt", directory / ".ioflt")
    with pytest.raises(NotFoundError, match="no datastore here, but the home of a VM") as caught:
        Volume.open(directory, keys)
    assert caught.value.file == str(directory)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(volume, name, fingerprint):
    before = fingerprint(volume.path)
    for action in (volume.home, volume.remove_home, lambda name: volume.make_home(name, 0o755)):
        with pytest.raises(UsageError):
            action(name)
    assert fingerprint(volume.path) == before


def test_names_of_any_bytes(volume, default):
    for name in (os.fsdecode(b"\xff\xfe"), "ü" * 100, " ", "-rf", "a\nb"):
        home = volume.make_home(name, 0o755)
        assert home.check_writable().state is default
        assert name in volume.homes()
        volume.remove_home(name)
        assert name not in volume.homes()


def test_what_is_no_home(volume, directory):
    (directory / "file").touch()
    os.symlink(directory.parent, directory / "link")
    for name in ("missing", "file", "link"):
        with pytest.raises(NotFoundError):
            volume.home(name)
    assert volume.homes() == []
    with pytest.raises(StorageError):
        volume.home("x" * 300)


def test_one_object_per_home(volume):
    home = volume.make_home("a", 0o755)
    assert volume.home("a") is home
    os.rename(os.path.join(volume.path, "a"), os.path.join(volume.path, "b"))
    assert volume.home("b") is home
    assert home.name == "b"


def test_make_home_that_exists(volume):
    volume.make_home("a", 0o755)
    with pytest.raises(FileExistsError):
        volume.make_home("a", 0o755)
    assert volume.home("a").check_writable().problem is None


def test_remove_home(volume):
    home = volume.make_home("a", 0o755)
    os.close(files.create(home, home.fd, "disk", mode=0o600))
    with pytest.raises(OSError, match="not empty"):
        volume.remove_home("a")
    assert home.check_writable().problem is None
    os.unlink("disk", dir_fd=home.fd)
    os.makedirs(os.path.join(volume.path, "a", ".ioflt.d"), exist_ok=True)
    open(os.path.join(volume.path, "a", ".ioflt.d", "new-1"), "wb").close()
    volume.remove_home("a")
    assert volume.homes() == []
    with pytest.raises(NotFoundError):
        volume.remove_home("a")
    assert volume.make_home("a", 0o755) is not home


def test_a_home_that_fills_while_it_is_removed_keeps_its_record(volume, monkeypatch):
    home = volume.make_home("a", 0o755)
    record = home.standing().record
    unlink = os.unlink

    def and_somebody_makes_a_file(path, *, dir_fd=None):
        unlink(path, dir_fd=dir_fd)
        if path == ".ioflt":
            os.close(os.open("disk", os.O_CREAT | os.O_WRONLY, dir_fd=home.fd))

    monkeypatch.setattr(os, "unlink", and_somebody_makes_a_file)
    with pytest.raises(OSError, match="not empty"):
        volume.remove_home("a")
    assert home.check_writable().record == record


def test_a_home_in_use_elsewhere_is_not_removed(volume, directory, keys):
    home = volume.make_home("a", 0o755)
    with Volume.open(directory, keys) as other:
        there = other.home("a")
        there.enter()
        with pytest.raises(BusyError):
            volume.remove_home("a")
        assert home.check_writable().problem is None
        there.leave()
    home.enter()  # a file that has no name any more
    volume.remove_home("a")
    home.leave()
    assert volume.homes() == []


def test_homes_removed_by_others_cost_no_descriptors(volume):
    def descriptors():
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    kept = volume.make_home("kept", 0o755)
    held = volume.make_home("held", 0o755)
    shutil.rmtree(os.path.join(volume.path, "held"))
    before = descriptors()
    for _ in range(150):
        volume.make_home("new", 0o755)
        shutil.rmtree(os.path.join(volume.path, "new"))
    assert descriptors() < before + 70
    assert os.fstat(held.fd).st_nlink == 0, "who has it may go on"
    assert volume.home("kept") is kept
    before = descriptors()
    del held
    assert descriptors() == before - 1


def test_two_volumes_on_one_directory(volume, directory, keys, default):
    with Volume.open(directory, keys) as other:
        here = volume.make_home("a", 0o755)
        there = other.home("a")
        assert there.standing().record == here.standing().record
        there.store(other.fresh_record("a", DATASTORE_DEFAULT))
        assert here.standing().state is HomeState.CLEAR
        other.remove_home("a")
        with pytest.raises(NotFoundError):
            volume.home("a")


def test_read_only_changes_nothing(directory, keys, fingerprint, default):
    with Volume.open(directory, keys) as volume:
        home = volume.make_home("a", 0o755)
        os.close(files.create(home, home.fd, "disk", mode=0o600))
        os.close(files.create(home, home.fd, "a.vmx", mode=0o600))
        os.makedirs(directory / "empty")
        os.makedirs(directory / "a" / ".ioflt.d", exist_ok=True)
        (directory / "a" / ".ioflt.d" / "new-1").touch()
    before = fingerprint(directory)
    with Volume.open(directory, keys, read_only=True) as volume:
        for name in volume.homes():
            home = volume.home(name)
            home.standing()
            with pytest.raises(ReadOnlyError):
                home.check_writable()
            with pytest.raises(ReadOnlyError):
                files.create(home, home.fd, "new", mode=0o600)
            with pytest.raises(ReadOnlyError):
                home.before_rename("other")
        home = volume.home("a")
        for name in ("disk", "a.vmx"):
            fd = files.open_regular(home.fd, name, os.O_RDONLY)
            treatment = home.treatment(name)
            if treatment is not Treatment.CLEAR:
                assert files.look(fd, treatment).length == 0
            file = files.open_file(home, fd, treatment, writable=False, place=lambda: None, name=name)
            assert bytes(file.read(0, 100)) == b""
            file.flush()
            file.sync(data_only=False)
            file.close()
    assert fingerprint(directory) == before


def test_what_is_no_regular_file(volume, directory):
    home = volume.make_home("a", 0o755)
    os.mkfifo(directory / "a" / "fifo")
    os.symlink("/etc/passwd", directory / "a" / "link")
    os.mkdir(directory / "a" / "sub")
    for name in ("fifo", "link", "sub"):
        with pytest.raises((IofltError, OSError)):
            files.open_regular(home.fd, name, os.O_RDONLY)


def test_copy_contents_keeps_holes_and_stops_at_errors(volume, monkeypatch):
    home = volume.make_home("a", 0o755)
    treatment = home.treatment("x")

    def make(name):
        fd = files.create(home, home.fd, name, mode=0o600)
        return files.open_file(home, fd, treatment, writable=True, place=lambda: None)

    source, target, third = make("source"), make("target"), make("third")
    source.write(3 << 20, b"data")
    source.truncate((5 << 20) + 7)
    done = []
    files.copy_contents(source, target, done.append)
    assert sum(done) == source.length == target.length
    assert bytes(target.read(3 << 20, 8)) == b"data\0\0\0\0"
    assert os.fstat(target.fd).st_blocks * 512 < 1 << 20

    def broken(fd, offset, whence):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "lseek", broken)
    with pytest.raises(OSError, match="Input/output"):
        files.copy_contents(source, third)
    for file in (source, target, third):
        file.close()


def test_split_home_path():
    assert split_home_path("/d/vm/") == ("/d", "vm")
    with pytest.raises(UsageError):
        split_home_path("/")
