"""What a POSIX file system does, at the mount: in homes of every kind, at the datastore's root, and in a
plain directory beside it, which is the judge of the tests themselves.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from ioflt import syscalls
from tests.mounted.place import HOMES, Place

pytestmark = [pytest.mark.fuse, pytest.mark.root]

NOBODY = 65534
OTHER_GROUP = 12345
KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO_RANGE, INSERT, UNSHARE = 1, 2, 8, 0x10, 0x20, 0x40

_libc = ctypes.CDLL(None, use_errno=True)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) itself; os.posix_fallocate would write zeros where it is refused."""
    if _libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextmanager
def fails(*codes: int) -> Iterator[None]:
    """The block raises an OSError with one of these numbers."""
    with pytest.raises(OSError) as raised:  # noqa: PT011  # the number is what is asked
        yield
    assert raised.value.errno in codes, raised.value


@contextmanager
def user(uid: int = NOBODY, gid: int = NOBODY, groups: tuple[int, ...] = ()) -> Iterator[None]:
    """The block runs with the rights of that user."""
    before = os.getgroups()
    os.setgroups(groups)
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(before)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR, mode: int = 0o644) -> Iterator[int]:
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def changes(path: Path, *times: str) -> Iterator[None]:
    """The block moves these of ctime and mtime forward, and none else."""
    before = path.stat()
    yield
    after = path.stat()
    for time in ("ctime", "mtime"):
        old, new = getattr(before, f"st_{time}_ns"), getattr(after, f"st_{time}_ns")
        assert (new > old) if time in times else (new == old), time


@pytest.fixture(params=["plain", *HOMES, "root"])
def here(request: pytest.FixtureRequest, shared: Place) -> Iterator[Path]:
    """An empty directory of each kind; of the root, what the test leaves is removed."""
    Path(shared.base).parent.chmod(0o711)
    if request.param == "root":
        yield shared.mountpoint
        for entry in shared.mountpoint.iterdir():
            if entry.name in HOMES:
                continue
            if not entry.is_symlink() and entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        return
    top = shared.base / "plain" if request.param == "plain" else shared.mountpoint / request.param
    directory = top / "test"
    directory.mkdir(parents=True)
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def inside(here: Path, shared: Place) -> Path:
    """`here`, but not the root: there, directories are homes with rules of their own."""
    if here == shared.mountpoint:
        inner = here / "home"
        inner.mkdir()
        return inner
    return here


@pytest.fixture
def file(here: Path) -> Path:
    path = here / "file"
    path.write_bytes(b"content")
    return path


# open(2)


def test_open_flags(here: Path) -> None:
    path = here / "file"
    with fails(errno.ENOENT):
        os.open(path, os.O_RDWR)
    with opened(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY) as fd:
        assert os.write(fd, b"0123456789") == 10
        with fails(errno.EBADF):
            os.read(fd, 1)
    with fails(errno.EEXIST):
        os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR)
    with opened(path, os.O_RDONLY) as fd:
        with fails(errno.EBADF):
            os.write(fd, b"x")
        assert os.read(fd, 100) == b"0123456789"
    with opened(path, os.O_WRONLY | os.O_TRUNC) as fd:
        assert os.fstat(fd).st_size == 0
    with fails(errno.ENOTDIR):
        os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    with fails(errno.ENOTDIR):
        os.open(path / "below", os.O_RDONLY)
    with fails(errno.EISDIR):
        os.open(here, os.O_WRONLY)
    with fails(errno.EISDIR):
        os.open(here, os.O_RDONLY | os.O_CREAT)


def test_open_through_symlinks(here: Path) -> None:
    (here / "link").symlink_to("file")
    with fails(errno.ELOOP):
        os.open(here / "link", os.O_RDONLY | os.O_NOFOLLOW)
    with fails(errno.EEXIST):
        os.open(here / "link", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    with opened(here / "link", os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"through")
    assert (here / "file").read_bytes() == b"through"
    (here / "a").symlink_to("b")
    (here / "b").symlink_to("a")
    with fails(errno.ELOOP):
        os.open(here / "a", os.O_RDONLY)


def test_appends_of_two_handles_interleave(here: Path) -> None:
    path = here / "log"
    flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
    with opened(path, flags) as first, opened(path, flags) as second:
        for number in range(200):
            os.write(first, b"a%03d\n" % number)
            os.write(second, b"b%03d\n" % number)
    lines = path.read_bytes().split()
    assert lines == [b"%c%03d" % (who, number) for number in range(200) for who in b"ab"]


def test_append_ignores_the_position(file: Path) -> None:
    with opened(file, os.O_RDWR | os.O_APPEND) as fd:
        os.lseek(fd, 2, os.SEEK_SET)
        os.write(fd, b"+")
    assert file.read_bytes() == b"content+"


def test_truncating_at_open_needs_write_permission(file: Path) -> None:
    file.chmod(0o644)
    with user(), fails(errno.EACCES):
        os.open(file, os.O_WRONLY | os.O_TRUNC)
    assert file.read_bytes() == b"content"


# Modes, owners


@pytest.mark.parametrize(
    ("mask", "asked", "got"), [(0, 0o777, 0o777), (0o022, 0o666, 0o644), (0o077, 0o777, 0o700), (0, 0, 0)]
)
def test_modes_of_what_is_made(inside: Path, mask: int, asked: int, got: int) -> None:
    with umask(mask):
        os.close(os.open(inside / "file", os.O_CREAT | os.O_RDWR, asked))
        os.mkdir(inside / "directory", asked)
        os.mkfifo(inside / "fifo", asked)
    for name in ("file", "directory", "fifo"):
        assert stat.S_IMODE((inside / name).stat().st_mode) == got, name


def test_a_home_gets_the_mode_asked_for(shared: Place) -> None:
    home = shared.mountpoint / "moded"
    with umask(0o027):
        home.mkdir(0o777)
    assert stat.S_IMODE(home.stat().st_mode) == 0o750
    home.rmdir()


def test_a_file_made_without_permissions_is_open_all_the_same(inside: Path) -> None:
    inside.chmod(0o777)
    with user(), opened(inside / "file", os.O_CREAT | os.O_RDWR, 0) as fd:
        os.write(fd, b"x")
        assert os.pread(fd, 9, 0) == b"x"
        with fails(errno.EACCES):
            os.open(inside / "file", os.O_RDWR)


def test_what_is_made_belongs_to_its_maker(inside: Path) -> None:
    inside.chmod(0o777)
    with user(NOBODY, OTHER_GROUP):
        (inside / "file").touch()
        (inside / "directory").mkdir()
        (inside / "link").symlink_to("nowhere")
        os.mkfifo(inside / "fifo")
    for name in ("file", "directory", "link", "fifo"):
        info = (inside / name).lstat()
        assert (info.st_uid, info.st_gid) == (NOBODY, OTHER_GROUP), name


def test_set_group_id_directories_give_their_group(inside: Path) -> None:
    os.chown(inside, 0, OTHER_GROUP)
    inside.chmod(0o2777)
    with user(NOBODY, NOBODY):
        (inside / "file").touch()
        (inside / "directory").mkdir()
        os.mkfifo(inside / "fifo")
        (inside / "link").symlink_to("nowhere")
    for name in ("file", "directory", "fifo", "link"):
        info = (inside / name).lstat()
        assert (info.st_uid, info.st_gid) == (NOBODY, OTHER_GROUP), name
        assert bool(info.st_mode & stat.S_ISGID) == (name == "directory")


def test_chmod(file: Path) -> None:
    for mode in (0, 0o111, 0o644, 0o4755, 0o7777):
        with changes(file, "ctime"):
            file.chmod(mode)
        assert stat.S_IMODE(file.stat().st_mode) == mode
    with user(), fails(errno.EPERM):
        file.chmod(0o644)
    assert file.read_bytes() == b"content"


def test_chmod_of_somebody_not_in_the_group_drops_set_group_id(file: Path) -> None:
    os.chown(file, NOBODY, 0)
    with user():
        file.chmod(0o2755)
    assert stat.S_IMODE(file.stat().st_mode) == 0o755


def test_chown(file: Path) -> None:
    with changes(file, "ctime"):
        os.chown(file, NOBODY, OTHER_GROUP)
    assert (file.stat().st_uid, file.stat().st_gid) == (NOBODY, OTHER_GROUP)
    os.chown(file, -1, -1)
    assert (file.stat().st_uid, file.stat().st_gid) == (NOBODY, OTHER_GROUP)
    with user():
        with fails(errno.EPERM):
            os.chown(file, 0, -1)
        with fails(errno.EPERM):
            os.chown(file, -1, 0)
    with user(groups=(54321,)):
        os.chown(file, -1, 54321)
    assert file.stat().st_gid == 54321


def test_chown_of_a_symlink(here: Path) -> None:
    link = here / "link"
    link.symlink_to("nowhere")
    os.chown(link, NOBODY, OTHER_GROUP, follow_symlinks=False)
    assert (link.lstat().st_uid, link.lstat().st_gid) == (NOBODY, OTHER_GROUP)


@pytest.mark.parametrize("who", ["owner", "root"])
def test_chown_clears_set_id_bits(file: Path, who: str) -> None:
    os.chown(file, NOBODY, NOBODY)
    file.chmod(0o6755)
    if who == "root":
        os.chown(file, 0, 0)
    else:
        with user(groups=(OTHER_GROUP,)):
            os.chown(file, -1, OTHER_GROUP)
    assert stat.S_IMODE(file.stat().st_mode) == 0o755


@pytest.mark.parametrize("how", ["write", "truncate", "ftruncate", "open", "fallocate", "mmap-less pwrite"])
@pytest.mark.parametrize(("mode", "left"), [(0o6777, 0o777), (0o2755, 0o755), (0o4666, 0o666)])
def test_writes_of_others_clear_set_id_bits(file: Path, how: str, mode: int, left: int) -> None:
    os.chown(file, NOBODY, -1)
    file.chmod(mode)
    with user():
        if how == "truncate":
            os.truncate(file, 3)
        elif how == "open":
            os.close(os.open(file, os.O_WRONLY | os.O_TRUNC))
        else:
            with opened(file) as fd:
                if how == "write":
                    os.write(fd, b"x")
                elif how == "ftruncate":
                    os.ftruncate(fd, 100)
                elif how == "fallocate":
                    fallocate(fd, 0, 0, 9000)
                else:
                    os.pwrite(fd, b"y" * 5000, 3)
    assert stat.S_IMODE(file.stat().st_mode) == left


def test_root_writes_and_keeps_set_id_bits(file: Path) -> None:
    file.chmod(0o6777)
    with opened(file) as fd:
        os.write(fd, b"x")
    assert stat.S_IMODE(file.stat().st_mode) == 0o6777


def test_sticky_directories(inside: Path) -> None:
    inside.chmod(0o1777)
    (inside / "file").touch()
    with user():
        with fails(errno.EPERM):
            (inside / "file").unlink()
        with fails(errno.EPERM):
            (inside / "file").rename(inside / "other")
        (inside / "own").touch()
        (inside / "own").unlink()


def test_permissions_of_directories(inside: Path) -> None:
    (inside / "file").touch()
    inside.chmod(0o755)
    with user(), fails(errno.EACCES):
        (inside / "other").touch()
    with user(), fails(errno.EACCES):
        (inside / "file").unlink()
    inside.chmod(0o700)
    with user(), fails(errno.EACCES):
        (inside / "file").stat()
    inside.chmod(0o755)


# Times


def test_times_are_set(file: Path) -> None:
    os.utime(file, ns=(1_111_111_111_222_333_444, 999_999_999_888_777_666))
    info = file.stat()
    assert (info.st_atime_ns, info.st_mtime_ns) == (1_111_111_111_222_333_444, 999_999_999_888_777_666)
    with changes(file, "ctime", "mtime"):
        os.utime(file)


def test_times_of_directories_and_symlinks(inside: Path) -> None:
    (inside / "directory").mkdir()
    (inside / "link").symlink_to("nowhere")
    for name in ("directory", "link"):
        os.utime(inside / name, ns=(10**18, 10**18 + 5), follow_symlinks=False)
        info = (inside / name).lstat()
        assert (info.st_atime_ns, info.st_mtime_ns) == (10**18, 10**18 + 5)


UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2


def utimensat(path: Path, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    times = (ctypes.c_long * 4)(*atime, *mtime)
    if _libc.utimensat(-100, os.fsencode(path), times, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def test_utimensat_now_and_omit(file: Path) -> None:
    os.utime(file, ns=(10**18, 10**18))
    with changes(file):
        utimensat(file, (0, UTIME_OMIT), (0, UTIME_OMIT))
    utimensat(file, (7, 8), (0, UTIME_OMIT))
    assert (file.stat().st_atime_ns, file.stat().st_mtime_ns) == (7 * 10**9 + 8, 10**18)
    utimensat(file, (0, UTIME_OMIT), (9, 1))
    assert (file.stat().st_atime_ns, file.stat().st_mtime_ns) == (7 * 10**9 + 8, 9 * 10**9 + 1)
    utimensat(file, (0, UTIME_OMIT), (0, UTIME_NOW))
    assert file.stat().st_atime_ns == 7 * 10**9 + 8
    assert file.stat().st_mtime_ns > 15 * 10**17


def test_who_may_set_times(file: Path) -> None:
    file.chmod(0o666)
    with user():
        utimensat(file, (0, UTIME_NOW), (0, UTIME_NOW))
        with fails(errno.EPERM):
            utimensat(file, (1, 1), (1, 1))
    file.chmod(0o644)
    with user(), fails(errno.EACCES):
        utimensat(file, (0, UTIME_NOW), (0, UTIME_NOW))


def test_times_that_changes_leave(inside: Path) -> None:
    file = inside / "file"
    with changes(inside, "ctime", "mtime"):
        file.write_bytes(b"x")
    with changes(inside), changes(file, "ctime", "mtime"):
        file.write_bytes(b"y")
    with changes(file, "ctime", "mtime"):
        os.truncate(file, 100)
    with changes(file, "ctime", "mtime"):
        os.truncate(file, 100)
    with changes(inside, "ctime", "mtime"), changes(file, "ctime"):
        os.link(file, inside / "link")
    with changes(inside, "ctime", "mtime"), changes(file, "ctime"):
        (inside / "link").unlink()
    with changes(inside, "ctime", "mtime"):
        (inside / "directory").mkdir()
    with changes(inside, "ctime", "mtime"):
        (inside / "directory").rmdir()
    with changes(inside, "ctime", "mtime"):
        file.rename(inside / "renamed")
    with nullcontext() if "thick" in inside.parts else changes(inside / "renamed"):  # it may be filled now
        (inside / "renamed").read_bytes()
        (inside / "renamed").open("r+b").close()
    with changes(inside, "ctime", "mtime"):
        (inside / "renamed").unlink()


def test_writing_leaves_the_access_time(file: Path) -> None:
    os.utime(file, ns=(10**18, 10**18))
    with opened(file) as fd:
        os.pwrite(fd, b"x" * 5000, 1)
        os.fsync(fd)
        os.ftruncate(fd, 77)
        fallocate(fd, ZERO_RANGE | KEEP_SIZE, 0, 4096)
    assert file.stat().st_atime_ns == 10**18
    assert file.stat().st_mtime_ns > 15 * 10**17


# Names


def test_rename_of_files(inside: Path) -> None:
    old, new = inside / "old", inside / "new"
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    number = old.stat().st_ino
    old.rename(new)
    assert new.read_bytes() == b"old"
    assert new.stat().st_ino == number
    assert os.listdir(inside) == ["new"]
    with fails(errno.ENOENT):
        old.rename(new)
    os.link(new, old)
    os.rename(new, old)  # links of one file: nothing happens
    assert sorted(os.listdir(inside)) == ["new", "old"]
    (inside / "directory").mkdir()
    with fails(errno.EISDIR):
        old.rename(inside / "directory")
    with fails(errno.ENOTDIR):
        (inside / "directory").rename(old)
    old.rename(inside / "directory" / "moved")
    assert (inside / "directory" / "moved").read_bytes() == b"old"


def test_rename_of_directories(inside: Path) -> None:
    first, second = inside / "first", inside / "second"
    first.mkdir()
    second.mkdir()
    (first / "file").write_bytes(b"x")
    first.rename(second)
    assert (second / "file").read_bytes() == b"x"
    first.mkdir()
    with fails(errno.ENOTEMPTY, errno.EEXIST):
        first.rename(second)
    with fails(errno.EINVAL):
        second.rename(second / "child")
    with fails(errno.ENOTEMPTY, errno.EEXIST):
        (second / "file").rename(second)
    first.rename(second / "child")
    assert sorted(os.listdir(second)) == ["child", "file"]


def rename2(old: Path, new: Path, flags: int) -> None:
    syscalls.renameat2(-100, str(old), -100, str(new), flags)


def test_rename_flags(inside: Path) -> None:
    first, second = inside / "first", inside / "second"
    first.write_bytes(b"1")
    second.write_bytes(b"2" * 5000)
    with fails(errno.EEXIST):
        rename2(first, second, syscalls.RENAME_NOREPLACE)
    rename2(first, second, syscalls.RENAME_EXCHANGE)
    assert (first.read_bytes(), second.read_bytes()) == (b"2" * 5000, b"1")
    rename2(first, inside / "third", syscalls.RENAME_NOREPLACE)
    assert not first.exists()
    (inside / "directory").mkdir()
    rename2(inside / "directory", second, syscalls.RENAME_EXCHANGE)
    assert second.is_dir()
    assert (inside / "directory").read_bytes() == b"1"
    with fails(errno.ENOENT):
        rename2(second, inside / "nothing", syscalls.RENAME_EXCHANGE)


def test_a_file_renamed_while_open_stays_open(inside: Path) -> None:
    (inside / "directory").mkdir()
    with opened(inside / "file", os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"before")
        (inside / "file").rename(inside / "directory" / "other")
        os.write(fd, b" and after")
        os.fsync(fd)
    assert (inside / "directory" / "other").read_bytes() == b"before and after"


def test_a_file_unlinked_while_open_stays_open(here: Path) -> None:
    with opened(here / "file", os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"x" * 10000)
        (here / "file").unlink()
        assert os.fstat(fd).st_nlink == 0
        os.pwrite(fd, b"y" * 5000, 8000)
        os.ftruncate(fd, 12000)
        os.fsync(fd)
        os.fchmod(fd, 0o600)
        assert os.pread(fd, 20000, 0) == b"x" * 8000 + b"y" * 4000
        (here / "file").write_bytes(b"another")
        assert os.fstat(fd).st_size == 12000
    assert (here / "file").read_bytes() == b"another"


def test_a_replaced_file_stays_open(here: Path) -> None:
    (here / "old").write_bytes(b"old")
    (here / "new").write_bytes(b"new")
    with opened(here / "old") as fd:
        (here / "new").rename(here / "old")
        assert os.pread(fd, 9, 0) == b"old"
        assert os.fstat(fd).st_nlink == 0
        os.write(fd, b"OLD")
    assert (here / "old").read_bytes() == b"new"


def test_rmdir(inside: Path) -> None:
    directory = inside / "directory"
    directory.mkdir()
    with fails(errno.EEXIST):
        directory.mkdir()
    (directory / "file").touch()
    with fails(errno.ENOTEMPTY, errno.EEXIST):
        directory.rmdir()
    with fails(errno.ENOTDIR):
        (directory / "file").rmdir()
    with fails(errno.EISDIR, errno.EPERM):
        directory.unlink()
    (directory / "file").unlink()
    with opened(directory, os.O_RDONLY) as fd:
        directory.rmdir()
        assert os.listdir(fd) == []
        with fails(errno.ENOENT):
            os.open("file", os.O_CREAT | os.O_RDWR, dir_fd=fd)
    with fails(errno.ENOENT):
        directory.rmdir()


def test_hard_links(inside: Path) -> None:
    first, second = inside / "first", inside / "directory" / "second"
    second.parent.mkdir()
    first.write_bytes(b"shared")
    os.link(first, second)
    assert first.stat().st_ino == second.stat().st_ino
    assert first.stat().st_nlink == second.stat().st_nlink == 2
    with fails(errno.EEXIST):
        os.link(first, second)
    with opened(second) as fd:
        os.pwrite(fd, b"SHARED AND LONGER", 0)
    assert first.read_bytes() == b"SHARED AND LONGER"
    first.unlink()
    assert second.stat().st_nlink == 1
    second.chmod(0o600)
    os.utime(second, ns=(1, 2))
    assert second.read_bytes() == b"SHARED AND LONGER"
    with fails(errno.EPERM):
        os.link(inside / "directory", inside / "other")
    os.symlink("nowhere", inside / "symlink")
    os.link(inside / "symlink", inside / "symlink2", follow_symlinks=False)
    assert os.readlink(inside / "symlink2") == "nowhere"


def test_one_of_two_links_unlinked_while_open(inside: Path) -> None:
    with opened(inside / "a", os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"1")
        os.link(inside / "a", inside / "b")
        (inside / "a").unlink()
        os.write(fd, b"2")
        assert os.fstat(fd).st_nlink == 1
    assert (inside / "b").read_bytes() == b"12"


def test_symlinks(here: Path) -> None:
    target = "t" * 1000
    (here / "link").symlink_to(target)
    assert os.readlink(here / "link") == target
    assert (here / "link").lstat().st_size == len(target)
    assert stat.S_IMODE((here / "link").lstat().st_mode) == 0o777
    with fails(errno.EEXIST):
        (here / "link").symlink_to("x")
    with fails(errno.EINVAL):
        os.readlink(here)
    os.symlink(b"\xff\xfe", os.fsencode(here) + b"/bytes")
    assert os.readlink(os.fsencode(here) + b"/bytes") == b"\xff\xfe"


def test_a_symlink_is_linked_by_whatever_name_it_has_left(inside: Path) -> None:
    (inside / "first").symlink_to("target")
    os.link(inside / "first", inside / "second", follow_symlinks=False)
    (inside / "first").unlink()
    os.link(inside / "second", inside / "third", follow_symlinks=False)  # the name it was found by is gone
    assert os.readlink(inside / "third") == "target"
    (inside / "first").symlink_to("another")
    (inside / "third").unlink()
    os.link(inside / "second", inside / "third", follow_symlinks=False)
    assert os.readlink(inside / "third") == "target"


def test_special_files(here: Path) -> None:
    os.mkfifo(here / "fifo", 0o640)
    assert stat.S_ISFIFO((here / "fifo").stat().st_mode)
    with fails(errno.ENXIO):
        os.open(here / "fifo", os.O_WRONLY | os.O_NONBLOCK)
    with (
        opened(here / "fifo", os.O_RDONLY | os.O_NONBLOCK) as reader,
        opened(here / "fifo", os.O_WRONLY | os.O_NONBLOCK) as writer,
    ):
        os.write(writer, b"through")
        assert os.read(reader, 100) == b"through"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        here_fd = os.open(here, os.O_PATH)
        address = f"/proc/self/fd/{here_fd}/socket"
        listener.bind(address)
        listener.listen()
        client.connect(address)
        os.close(here_fd)
    assert stat.S_ISSOCK((here / "socket").stat().st_mode)
    os.mknod(here / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    info = (here / "null").stat()
    assert stat.S_ISCHR(info.st_mode)
    assert info.st_rdev == os.makedev(1, 3)
    os.mknod(here / "regular", stat.S_IFREG | 0o604)
    assert stat.S_IMODE((here / "regular").stat().st_mode) == 0o604


@pytest.mark.parametrize(
    "name", ["n" * 255, "é" * 127, " ", "new\nline", "tab\t\\", "...", "%s{}", b"\xff\xfe\x80", "-rf", "ﬁ"]
)
def test_odd_names(here: Path, name: str | bytes) -> None:
    raw = os.fsencode(here) + b"/" + os.fsencode(name)
    with open(raw, "wb") as file:
        file.write(b"x")
    assert os.fsencode(name) in os.listdir(os.fsencode(here))
    os.rename(raw, here / "other")
    os.rename(here / "other", raw)
    with open(raw, "rb") as file:
        assert file.read() == b"x"
    os.unlink(raw)


def test_names_that_are_too_long(inside: Path) -> None:
    long = inside / ("n" * 256)
    actions: list[Callable[[], object]] = [
        long.touch,
        long.mkdir,
        long.unlink,
        lambda: long.symlink_to("x"),
        lambda: os.mkfifo(long),
        lambda: os.rename(inside, long),
        long.stat,
    ]
    for action in actions:
        with fails(errno.ENAMETOOLONG):
            action()


# Directories


def test_a_directory_of_many_is_read_while_it_shrinks(inside: Path) -> None:
    names = {f"file{number:04}" for number in range(2000)}
    for name in names:
        os.symlink("x", inside / name)
    seen = set()
    with os.scandir(inside) as entries:
        for entry in entries:
            assert entry.name not in seen
            seen.add(entry.name)
            os.unlink(inside / entry.name)
    assert seen == names
    assert os.listdir(inside) == []


def test_removing_a_tree(inside: Path) -> None:
    for number in range(30):
        (inside / "tree" / str(number) / "deep").mkdir(parents=True)
        (inside / "tree" / str(number) / "file").touch()
    subprocess.run(["rm", "-r", str(inside / "tree")], check=True)
    assert os.listdir(inside) == []


class Dirent(ctypes.Structure):
    _fields_ = (
        ("d_ino", ctypes.c_uint64),
        ("d_off", ctypes.c_int64),
        ("d_reclen", ctypes.c_ushort),
        ("d_type", ctypes.c_ubyte),
        ("d_name", ctypes.c_char * 256),
    )


_libc.opendir.restype = ctypes.c_void_p
_libc.readdir.restype = ctypes.POINTER(Dirent)
_libc.readdir.argtypes = _libc.closedir.argtypes = _libc.rewinddir.argtypes = [ctypes.c_void_p]
_libc.telldir.argtypes = [ctypes.c_void_p]
_libc.telldir.restype = ctypes.c_long
_libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]


def test_positions_in_a_directory(inside: Path) -> None:
    for number in range(300):
        os.symlink("x", inside / f"{number:03}")
    stream = _libc.opendir(os.fsencode(inside))
    try:
        positions, entries = [], []
        while True:
            position = _libc.telldir(stream)
            entry = _libc.readdir(stream)
            if not entry:
                break
            positions.append(position)
            entries.append((entry.contents.d_name, entry.contents.d_ino, entry.contents.d_type))
        assert len(entries) == 302
        by_name = {name: (number, kind) for name, number, kind in entries}
        assert by_name[b"."] == (inside.stat().st_ino, 4)
        assert by_name[b".."][1] == 4
        assert by_name[b"007"] == ((inside / "007").lstat().st_ino, 10)
        for index in (250, 3, 301, 0, 128):
            _libc.seekdir(stream, positions[index])
            assert _libc.readdir(stream).contents.d_name == entries[index][0]
        os.symlink("x", inside / "new")
        (inside / "000").unlink()
        _libc.rewinddir(stream)
        names = set()
        while entry := _libc.readdir(stream):
            names.add(entry.contents.d_name)
        assert b"new" in names
        assert b"000" not in names
    finally:
        _libc.closedir(stream)


# Contents


def test_truncate(here: Path) -> None:
    path = here / "file"
    path.write_bytes(b"x" * 10000)
    for length in (9999, 4096, 4095, 5000, 1, 0, 12345, 1 << 20, 8191):
        os.truncate(path, length)
        assert path.stat().st_size == length
    data = path.read_bytes()
    assert data == bytes(8191)
    path.write_bytes(b"x" * 5000)
    with opened(path) as fd:
        os.ftruncate(fd, 4500)
        os.ftruncate(fd, 9000)
        assert os.pread(fd, 10000, 0) == b"x" * 4500 + bytes(4500)
        with fails(errno.EINVAL):
            os.ftruncate(fd, -1)
    with opened(path, os.O_RDONLY) as fd, fails(errno.EINVAL):
        os.ftruncate(fd, 1)
    with fails(errno.EISDIR):
        os.truncate(here, 0)
    with fails(errno.ENOENT):
        os.truncate(here / "absent", 0)


def test_sparse_files(here: Path, request: pytest.FixtureRequest) -> None:
    path = here / "sparse"
    with opened(path, os.O_CREAT | os.O_RDWR) as fd:
        os.pwrite(fd, b"end", 1 << 24)
        assert os.fstat(fd).st_size == (1 << 24) + 3
        assert os.pread(fd, 4096, 1 << 23) == bytes(4096)
        assert os.pread(fd, 8192, (1 << 24) - 100) == bytes(100) + b"end"
        if "thick" not in request.node.name:
            assert os.lseek(fd, 0, os.SEEK_DATA) == 1 << 24
            assert os.lseek(fd, 0, os.SEEK_HOLE) == 0
            assert os.fstat(fd).st_blocks * 512 < 1 << 22
        with fails(errno.ENXIO):
            os.lseek(fd, 1 << 25, os.SEEK_DATA)
        with fails(errno.ENXIO):
            os.lseek(fd, (1 << 24) + 3, os.SEEK_HOLE)


def test_seeking_data_and_holes(here: Path, request: pytest.FixtureRequest) -> None:
    with opened(here / "file", os.O_CREAT | os.O_RDWR) as fd:
        os.pwrite(fd, b"a" * 65536, 65536)
        os.ftruncate(fd, 1 << 20)
        end = os.lseek(fd, 65536, os.SEEK_HOLE)
        assert os.lseek(fd, 70000, os.SEEK_DATA) == 70000
        if "thick" in request.node.name:
            assert end == 1 << 20
            return
        assert end == 131072
        assert os.lseek(fd, 0, os.SEEK_DATA) == 65536
        assert os.lseek(fd, 5, os.SEEK_HOLE) == 5
        with fails(errno.ENXIO):
            os.lseek(fd, 131072, os.SEEK_DATA)


@pytest.mark.parametrize("mode", [0, KEEP_SIZE])
def test_fallocate_reserves(here: Path, mode: int) -> None:
    path = here / "file"
    path.write_bytes(b"x" * 5000)
    with opened(path) as fd:
        fallocate(fd, mode, 3000, 100_000)
        assert os.fstat(fd).st_size == (5000 if mode else 103_000)
        assert os.fstat(fd).st_blocks * 512 >= 100_000
        assert os.pread(fd, 6000, 0)[:5000] == b"x" * 5000
        if not mode:
            assert os.pread(fd, 103_000, 5000) == bytes(98_000)
        with fails(errno.EINVAL):
            fallocate(fd, mode, 0, 0)
        with fails(errno.EINVAL):
            fallocate(fd, mode, -1, 10)
    with opened(path, os.O_RDONLY) as fd, fails(errno.EBADF):
        fallocate(fd, mode, 0, 10)


@pytest.mark.parametrize("mode", [PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE])
@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, 4096),
        (100, 50),
        (4000, 200),
        (4000, 9000),
        (19_900, 100),
        (19_900, 5000),
        (25_000, 5000),
        (0, 1 << 20),
    ],
)
def test_fallocate_zeroes(here: Path, mode: int, offset: int, length: int) -> None:
    path = here / "file"
    content = bytearray(os.urandom(20_000))
    path.write_bytes(content)
    with opened(path) as fd:
        fallocate(fd, mode, offset, length)
    end = offset + length
    stop = min(end, len(content))
    if offset < stop:
        content[offset:stop] = bytes(stop - offset)
    if mode == ZERO_RANGE and end > len(content):
        content.extend(bytes(end - len(content)))
    assert path.read_bytes() == content


def test_kinds_of_fallocate_that_are_not_served(here: Path) -> None:
    if "plain" in here.parts:
        return  # a plain file system has more of them
    (here / "file").write_bytes(b"x" * 65536)
    with opened(here / "file") as fd:
        for mode in (COLLAPSE, INSERT, UNSHARE, PUNCH_HOLE):
            with fails(errno.EOPNOTSUPP):
                fallocate(fd, mode, 0, 4096)
    assert (here / "file").read_bytes() == b"x" * 65536


def test_punching_frees_space(here: Path, request: pytest.FixtureRequest) -> None:
    path = here / "file"
    path.write_bytes(b"x" * (1 << 22))
    with opened(path) as fd:
        os.fsync(fd)
        before = os.fstat(fd).st_blocks
        fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 1 << 20, 1 << 21)
        freed = (before - os.fstat(fd).st_blocks) * 512
    assert freed == 0 if "thick" in request.node.name else (1 << 21) - 16384 <= freed <= 1 << 21


def test_direct_io(here: Path) -> None:
    path = here / "file"
    buffer = mmap.mmap(-1, 65536)
    buffer.write(bytes(range(256)) * 256)
    with opened(path, os.O_CREAT | os.O_RDWR | os.O_DIRECT) as fd:
        assert os.pwritev(fd, [buffer], 0) == 65536
        assert os.pwritev(fd, [memoryview(buffer)[:4096]], 1 << 20) == 4096
        answer = mmap.mmap(-1, 65536)
        assert os.preadv(fd, [answer], 4096) == 65536
        assert answer[: 65536 - 4096] == buffer[4096:]
        assert os.fstat(fd).st_size == (1 << 20) + 4096
    with opened(path) as cached:
        assert os.pread(cached, 256, 0) == bytes(range(256))
        with opened(path, os.O_WRONLY | os.O_DIRECT) as direct:
            buffer[:4096] = b"d" * 4096
            os.pwritev(direct, [memoryview(buffer)[:4096]], 0)
        assert os.pread(cached, 4096, 0) == b"d" * 4096
        os.pwrite(cached, b"c" * 10, 0)
        with opened(path, os.O_RDONLY | os.O_DIRECT) as direct:
            os.preadv(direct, [answer], 0)
        assert answer[:11] == b"c" * 10 + b"d"


def test_shared_mappings(here: Path) -> None:
    path = here / "file"
    path.write_bytes(bytes(10_000))
    with opened(path) as fd:
        mapped = mmap.mmap(fd, 10_000)
        mapped[100:105] = b"hello"
        mapped[9990:10_000] = b"0123456789"
        mapped.flush()
        assert os.pread(fd, 5, 100) == b"hello"
        os.pwrite(fd, b"WRITE", 200)
        assert mapped[200:205] == b"WRITE"
        mapped[0:4] = b"last"
        mapped.close()
    with opened(path, os.O_RDONLY) as fd:
        assert os.pread(fd, 4, 0) == b"last"
        with mmap.mmap(fd, 10_000, prot=mmap.PROT_READ) as mapped:
            assert mapped[9990:] == b"0123456789"
        with pytest.raises(PermissionError):
            mmap.mmap(fd, 10_000, prot=mmap.PROT_WRITE)


def test_a_private_mapping_changes_nothing(file: Path) -> None:
    with opened(file) as fd, mmap.mmap(fd, 7, flags=mmap.MAP_PRIVATE) as mapped:
        mapped[0:4] = b"mine"
    assert file.read_bytes() == b"content"


def test_programs_run(here: Path) -> None:
    shutil.copy2("/bin/true", here / "program")
    assert subprocess.run([here / "program"], check=False).returncode == 0
    (here / "script").write_text("#!/bin/sh\nexit 7\n")
    (here / "script").chmod(0o755)
    assert subprocess.run([here / "script"], check=False).returncode == 7


def test_file_locks(file: Path) -> None:
    import fcntl

    with opened(file) as first, opened(file) as second:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with fails(errno.EWOULDBLOCK):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(first, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_large_offsets(here: Path, request: pytest.FixtureRequest) -> None:
    if "thick" in request.node.name:
        return  # its space would have to be there
    with opened(here / "file", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 1 << 43)
        os.pwrite(fd, b"x", (1 << 43) - 1)
        assert os.pread(fd, 10, (1 << 43) - 3) == b"\0\0x"
        with fails(errno.EFBIG, errno.EINVAL):
            os.ftruncate(fd, (1 << 63) - 1)


def test_copies(here: Path) -> None:
    content = os.urandom(300_001)
    (here / "a").write_bytes(content)
    with opened(here / "a", os.O_RDONLY) as source, opened(here / "b", os.O_CREAT | os.O_RDWR) as target:
        copied = 0
        while chunk := os.copy_file_range(source, target, 1 << 20):
            copied += chunk
    assert copied == len(content)
    with opened(here / "a", os.O_RDONLY) as source, opened(here / "c", os.O_CREAT | os.O_RDWR) as target:
        while os.sendfile(target, source, None, 1 << 20):
            pass
    assert (here / "b").read_bytes() == (here / "c").read_bytes() == content


def test_statvfs(here: Path, shared: Place) -> None:
    ours, theirs = os.statvfs(here), os.statvfs(shared.datastore)
    assert (ours.f_blocks, ours.f_frsize, ours.f_namemax) == (theirs.f_blocks, theirs.f_frsize, 255)
    assert subprocess.run(["df", str(here)], capture_output=True, check=False).returncode == 0
