"""The bottom of every chain: a region of a file on the datastore."""

from __future__ import annotations

import errno
import os

from ioflt import syscalls
from ioflt.filters.native import Native
from ioflt.filters.written import END, Notes, Within


class Backing:
    """Bytes from `start` to the end of the file behind `fd`. Does not own `fd`."""

    def __init__(self, fd: int, start: int, written: Within | None = None) -> None:
        """`written` is told what is written, by its place in the file."""
        self.fd = fd
        self.start = start
        self._notes = Notes(written, fd)

    def read(self, offset: int, length: int, *, nowait: bool = False) -> bytearray | memoryview:
        buffer = bytearray(length)
        position = self.start + offset
        # RWF_NOWAIT answers EAGAIN (or a short count) for what is not in the page cache.
        got = os.preadv(self.fd, (buffer,), position, os.RWF_NOWAIT if nowait else 0)
        if got == length:
            return buffer
        view = memoryview(buffer)
        while got < length:
            more = os.preadv(self.fd, (view[got:],), position + got, os.RWF_NOWAIT if nowait else 0)
            if more == 0:
                return view[:got]
            got += more
        return buffer

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        position = self.start + offset
        try:
            done = os.pwrite(self.fd, data, position)
            if done == len(data):
                return
            view = memoryview(data)
            while done < len(view):
                more = os.pwrite(self.fd, view[done:], position + done)
                if more == 0:
                    raise OSError(errno.EIO, "a write to the datastore made no progress")
                done += more
        finally:
            self._notes.note(position, position + len(data))

    def size(self) -> int:
        return max(0, os.fstat(self.fd).st_size - self.start)

    def resize(self, size: int) -> None:
        before = self.size()
        try:
            os.ftruncate(self.fd, self.start + size)
        finally:
            self._notes.note(self.start + min(before, size), END)  # it may be made longer again

    def allocate(self, offset: int, length: int, *, keep_size: bool) -> None:
        self._change(syscalls.FALLOC_FL_KEEP_SIZE if keep_size else 0, offset, length)

    def punch(self, offset: int, length: int) -> None:
        self._change(syscalls.FALLOC_FL_PUNCH_HOLE | syscalls.FALLOC_FL_KEEP_SIZE, offset, length)

    def zero(self, offset: int, length: int) -> None:
        self._change(syscalls.FALLOC_FL_ZERO_RANGE | syscalls.FALLOC_FL_KEEP_SIZE, offset, length)

    def seek_data(self, offset: int) -> int:
        return max(offset, os.lseek(self.fd, self.start + offset, os.SEEK_DATA) - self.start)

    def seek_hole(self, offset: int) -> int:
        return os.lseek(self.fd, self.start + offset, os.SEEK_HOLE) - self.start

    def sync(self, *, data_only: bool) -> None:
        if data_only:
            os.fdatasync(self.fd)
        else:
            os.fsync(self.fd)

    def native(self) -> Native:
        quiet = not self._notes.asked  # what is written in C nobody is told of
        return Native(self.fd, self.start, writes=quiet, grows=quiet)

    def close(self) -> None:
        """Nothing: the descriptor belongs to whoever opened it."""

    def _change(self, mode: int, offset: int, length: int) -> None:
        position = self.start + offset
        try:
            syscalls.fallocate(self.fd, mode, position, length)
        finally:
            self._notes.note(position, position + length)
