"""What the kernel may keep of names, and who is answered ESTALE for it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ioflt.fuse import told
from ioflt.fuse.told import Identity, Known, Refusals, ToldNames


class Inode:
    """A node as `told` sees it."""

    def __init__(self, path: Path) -> None:
        self.path_fd = os.open(path, os.O_PATH)
        info = os.stat(self.path_fd)
        self.identity: Identity = (info.st_dev, info.st_ino)
        self.names: dict[tuple[Known, str], float] = {}
        self.is_regular = path.is_file()


@pytest.fixture
def top(tmp_path: Path) -> Inode:
    for name in "ab":
        (tmp_path / name).write_text(name)
    return Inode(tmp_path)


def test_a_name_holds_until_it_is_another_files(top: Inode, tmp_path: Path) -> None:
    names, a, b = ToldNames(), Inode(tmp_path / "a"), Inode(tmp_path / "b")
    names.tell(top, "a", a)
    names.tell(top, "b", b)
    assert names.hold(a)
    assert names.hold(b)
    (tmp_path / "a").rename(tmp_path / "b")
    assert not names.hold(a)
    assert not names.hold(b)
    names.tell(top, "b", a)
    assert names.is_told(top, "b", a)
    assert not names.is_told(top, "b", b)
    assert not names.hold(b), "an open of what the name stood for may be on its way"


def test_a_name_that_the_kernel_took_away_is_none_that_it_keeps(top: Inode, tmp_path: Path) -> None:
    names, a = ToldNames(), Inode(tmp_path / "a")
    names.tell(top, "a", a)
    (tmp_path / "a").unlink()
    names.take(top, "a")
    assert names.hold(a)
    assert not names.is_told(top, "a", a)


def test_names_are_kept_for_seconds(top: Inode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, a = ToldNames(), Inode(tmp_path / "a")
    names.tell(top, "a", a)
    (tmp_path / "a").rename(tmp_path / "c")
    assert not names.hold(a)
    monkeypatch.setattr(told, "_KEPT_S", -1.0)
    assert names.hold(a)
    monkeypatch.undo()
    assert names.hold(a)


def test_a_directory_that_is_gone_has_no_names(top: Inode, tmp_path: Path) -> None:
    names, a = ToldNames(), Inode(tmp_path / "a")
    names.tell(top, "a", a)
    os.close(top.path_fd)
    top.path_fd = -1
    assert not names.hold(a)


def test_what_is_forgotten_or_no_file_is_told_no_more(top: Inode, tmp_path: Path) -> None:
    names, a, b = ToldNames(), Inode(tmp_path / "a"), Inode(tmp_path / "b")
    names.tell(top, "a", a)
    names.tell(top, "a", b)
    names.forget(a)
    assert names.is_told(top, "a", b)
    names.forget(b)
    assert not names.is_told(top, "a", b)
    names.tell(top, "a", b)
    names.tell(top, "a", top)
    assert names.is_told(top, "a", top)
    names.gone(top, "a")
    assert not names.is_told(top, "a", b)


def refused(refusals: Refusals, thread: int, number: int, *, holds: bool = False) -> bool:
    try:
        refusals.check(thread, number, holds=holds)
    except OSError as error:
        return error.errno == errno.ESTALE
    return False


def test_who_comes_again_is_served() -> None:
    refusals = Refusals()
    assert not refused(refusals, 1, 10, holds=True)
    assert refused(refusals, 1, 10)
    assert refused(refusals, 2, 10), "another thread has asked for nothing since"
    assert not refused(refusals, 1, 10)
    assert refused(refusals, 1, 10)
    refusals.looked(1, 11)
    assert not refused(refusals, 1, 11)
    assert refused(refusals, 1, 11)
    refusals.looked(1, None)
    assert refused(refusals, 1, 11)


def test_threads_that_never_come_again_are_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "_MAX_REFUSED", 2)
    refusals = Refusals()
    assert all(refused(refusals, thread, 10) for thread in (1, 2, 3))
    assert refused(refusals, 1, 10)
    assert not refused(refusals, 3, 10)
