"""Private directories of exports, and of what ended badly: nothing of them stays."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import pytest

from ioflt import paths
from ioflt.backup.place import Place
from ioflt.fuse.mountinfo import mount_id

pytestmark = [pytest.mark.fuse, pytest.mark.root]


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> paths.Paths:
    (tmp_path / "home").mkdir(mode=0o700)
    monkeypatch.setenv("IOFLT_HOME", str(tmp_path / "home"))
    return paths.find().ensure()


def mount_dead(mountpoint: Path) -> None:
    """As a mount is whose process was killed, once the kernel remembers nothing of it."""
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = b"fd=%d,rootmode=40000,user_id=0,group_id=0" % device
    assert libc.mount(b"dead", bytes(mountpoint), b"fuse", 0, options) == 0, os.strerror(ctypes.get_errno())
    os.close(device)
    with pytest.raises(OSError) as caught:  # noqa: PT011  # what it says is in the errno
        mountpoint.lstat()
    assert caught.value.errno == errno.ENOTCONN


def test_a_mount_that_nobody_serves_goes_with_its_place(where: paths.Paths) -> None:
    with Place.make(where) as place:
        mount_dead(place.mountpoint)
    assert mount_id(str(place.mountpoint)) is None
    assert not place.path.exists()


def test_what_was_half_removed_is_removed_by_the_next(where: paths.Paths) -> None:
    half = where.exports / "0123abcd"
    (half / "mnt").mkdir(parents=True)
    mount_dead(half / "mnt")
    with Place.make(where) as place:
        assert [path.name for path in where.exports.iterdir() if path.is_dir()] == [place.path.name]
    assert mount_id(str(half / "mnt")) is None
