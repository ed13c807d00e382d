"""The last descriptor of a removed file waits for a task; all others are closed at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
import trio.testing

from ioflt.fuse.closing import Closer


def removed_file() -> int:
    """A descriptor of a file without a name."""
    return os.memfd_create("removed")


def is_open(fd: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{fd}")


async def test_what_has_a_name_is_closed_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fd = os.open(tmp_path / "file", os.O_PATH)
    Closer().close(fd)
    assert not is_open(fd)


async def test_what_has_none_is_closed_by_the_task() -> None:
    closer, fds = Closer(), [removed_file() for _ in range(20)]
    for fd in fds:
        closer.close(fd)
    assert all(map(is_open, fds))
    async with trio.open_nursery() as nursery:
        await nursery.start(closer.run)
        with trio.fail_after(60):
            while any(map(is_open, fds)):
                await trio.testing.wait_all_tasks_blocked(0.001)
        nursery.cancel_scope.cancel()


async def test_when_too_many_wait_the_next_is_closed_at_once() -> None:
    closer, fds = Closer(), [removed_file() for _ in range(300)]
    for fd in fds:
        closer.close(fd)
    still = [fd for fd in fds if is_open(fd)]
    assert 0 < len(still) < len(fds)
    for fd in still:
        os.close(fd)


async def test_what_is_no_descriptor_is_an_error() -> None:
    with pytest.raises(OSError, match=os.strerror(9)):
        Closer().close(-1)
