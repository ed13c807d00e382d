"""A filter at the bottom of the chain that fails or is slow, by switches that another process sets.

The switches are a file in shared memory: a mount opens it before it is confined, and looks at it at each
request.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import time
from pathlib import Path
from typing import Final

from ioflt.filters.base import Filter, Link

_FORMAT: Final = struct.Struct("<QQQQ")  # the inode and the byte that fail, how slow, how full

#: Bytes that cannot be read where one LBA cannot: a disk's sector of 512 lies in one of the container's.
_SECTOR: Final = 4096


class Switches:
    """`bad`: the inode of a stored file and a byte of its data, of which the sector fails; `delay_ms` of each
    read and write; `full`: no room for anything more.
    """

    def __init__(self, path: Path) -> None:
        """Of the file that `make` made."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._memory = mmap.mmap(fd, _FORMAT.size)
        finally:
            os.close(fd)

    @staticmethod
    def make(path: Path) -> None:
        """A new file, all switches off."""
        path.write_bytes(bytes(_FORMAT.size))

    def close(self) -> None:
        self._memory.close()

    def set(
        self, *, bad: tuple[int, int] | None = None, delay_ms: int | None = None, full: bool | None = None
    ) -> None:
        """Change those that are named; an inode 0 is no file's."""
        inode, at, slow, no_room = self._all()
        if bad is not None:
            inode, at = bad
        if delay_ms is not None:
            slow = delay_ms
        if full is not None:
            no_room = int(full)
        _FORMAT.pack_into(self._memory, 0, inode, at, slow, no_room)

    def fails(self, inode: int, offset: int, length: int) -> bool:
        """Whether reading or writing that of the file fails."""
        bad, at, _, _ = self._all()
        return (
            bad == inode
            and at // _SECTOR * _SECTOR < offset + length
            and offset < at // _SECTOR * _SECTOR + _SECTOR
        )

    @property
    def delay(self) -> float:
        """In seconds."""
        return self._all()[2] / 1000

    @property
    def full(self) -> bool:
        return bool(self._all()[3])

    def _all(self) -> tuple[int, int, int, int]:
        inode, at, slow, full = _FORMAT.unpack_from(self._memory)
        return inode, at, slow, full


class Faulty(Filter):
    """What the switches say; of writes all that would need room fail when there is none."""

    def __init__(self, below: Link, fd: int, switches: Switches) -> None:
        super().__init__(below)
        self._inode = os.fstat(fd).st_ino
        self._switches = switches

    def read(self, offset: int, length: int, *, nowait: bool = False) -> bytearray | memoryview:
        self._step(offset, length, nowait=nowait)
        return self.below.read(offset, length, nowait=nowait)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self._step(offset, len(data), nowait=False)
        self._need_room()
        self.below.write(offset, data)

    def resize(self, size: int) -> None:
        if size > self.below.size():
            self._need_room()
        self.below.resize(size)

    def allocate(self, offset: int, length: int, *, keep_size: bool) -> None:
        self._need_room()
        self.below.allocate(offset, length, keep_size=keep_size)

    def _step(self, offset: int, length: int, *, nowait: bool) -> None:
        if self._switches.delay:
            if nowait:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            time.sleep(self._switches.delay)
        if self._switches.fails(self._inode, offset, length):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _need_room(self) -> None:
        if self._switches.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
