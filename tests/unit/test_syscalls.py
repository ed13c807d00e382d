"""Linux calls that Python lacks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ioflt import syscalls

LONG_AGO = 10**18


@pytest.mark.root
def test_touch_of_a_file_of_somebody_else(tmp_path: Path) -> None:
    """As a user's mount does it, of a file that its group may write."""
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o666)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    fd = os.open(path, os.O_RDWR)
    os.seteuid(65534)
    try:
        syscalls.touch(fd)
    finally:
        os.seteuid(0)
        os.close(fd)
    assert path.stat().st_mtime_ns > LONG_AGO


def test_touch_leaves_the_access_time(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    with path.open("r+b") as file:
        syscalls.touch(file.fileno())
    assert path.stat().st_atime_ns == LONG_AGO
    assert path.stat().st_mtime_ns > LONG_AGO


def test_begin_writing_leaves_the_file_as_it_is(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10_000)
    with path.open("r+b") as file:
        syscalls.begin_writing(file.fileno())
    assert path.read_bytes() == b"x" * 10_000
    with pytest.raises(OSError, match="Bad file descriptor"):
        syscalls.begin_writing(-1)
