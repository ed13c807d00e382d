"""A file of a clear home: bytes pass through, whatever they look like."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from ioflt.datastore import cbtfiles, openfile
from ioflt.datastore.openfile import NativeFile, Writes
from ioflt.datastore.tracked import Tracked
from ioflt.filters.base import Link
from ioflt.format.cbt import sidecar


class PlainFile(Tracked):
    """`chain` begins at byte 0 of the backing file `fd`, which it owns."""

    _ctime_tells = True

    def __init__(self, fd: int, chain: Link, *, name: str = "") -> None:
        super().__init__(fd, name)
        self._changes_key = sidecar.clear_key()
        self._set_chain(chain)

    @property
    def fd(self) -> int:
        return self._fd

    @property
    def length(self) -> int:
        return self._chain.size()

    @property
    def settled(self) -> bool:
        return True

    @property
    def closable(self) -> bool:
        return self._cbt is None or self._cbt.at_rest

    def read(self, offset: int, length: int, *, nowait: bool = False) -> bytes | bytearray | memoryview:
        return self._chain.read(offset, length, nowait=nowait)

    def write_waits(self, offset: int, end: int) -> bool:
        return self._cbt is not None and self._cbt.at_rest

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        length = self._chain.size()
        try:
            self._chain.write(offset, data)
        except OSError:  # half written, for lack of space: what came is not part of the file
            with suppress(OSError):
                if self._chain.size() > length:
                    self._chain.resize(length)
            raise

    def truncate(self, length: int) -> None:
        self._chain.resize(length)

    def allocate(self, mode: int, offset: int, length: int) -> None:
        if mode in (openfile.ALLOCATE, openfile.ALLOCATE_KEEP_SIZE):
            self._chain.allocate(offset, length, keep_size=mode == openfile.ALLOCATE_KEEP_SIZE)
        elif mode == openfile.PUNCH_HOLE:
            self._chain.punch(offset, length)
        elif mode in (openfile.ZERO_RANGE, openfile.ZERO_RANGE_KEEP_SIZE):
            self._chain.zero(offset, length)
            if mode == openfile.ZERO_RANGE and offset + length > self._chain.size():
                self._chain.resize(offset + length)
        else:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def seek(self, offset: int, whence: int) -> int:
        return self._chain.seek_data(offset) if whence == os.SEEK_DATA else self._chain.seek_hole(offset)

    @property
    def compiles(self) -> bool:
        return True

    def native(self) -> NativeFile | None:
        chain = self._chain.native()
        if chain is None:
            return None
        length = memoryview(bytearray(8)).cast("Q")
        length[0] = self.length
        inside = Writes.INSIDE if chain.writes else Writes.NONE
        return NativeFile(chain, length, Writes.ANY if chain.grows else inside, clamps=False)

    def flush(self) -> None:
        """Written bytes are with the kernel already."""
        if self._cbt is not None:
            self._cbt.settle()

    def sync(self, *, data_only: bool) -> None:
        self._chain.sync(data_only=data_only)

    def sync_data(self, *, data_only: bool) -> None:
        self.sync(data_only=data_only)

    def close(self) -> None:
        self._chain.close()
        os.close(self._fd)

    @property
    def sidecar_name(self) -> str:
        return cbtfiles.of_clear(self._fd)
