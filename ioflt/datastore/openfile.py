"""What an open file of a datastore can do, whatever stands behind it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from ioflt.filters.native import Native

#: Does something to a range (offset, length) of bytes.
RangeAction = Callable[[int, int], None]

#: Kinds of fallocate(2) that are served; all others are EOPNOTSUPP.
ALLOCATE = 0
ALLOCATE_KEEP_SIZE = 1
PUNCH_HOLE = 3
ZERO_RANGE = 0x10
ZERO_RANGE_KEEP_SIZE = 0x11

#: Largest length of a file, bytes: what a signed 64-bit offset leaves after our headers.
MAX_LENGTH = 2**63 - 2**21


class Writes(IntEnum):
    """Which writes need nothing but the write itself."""

    NONE = 0
    #: Those inside the file.
    INSIDE = 1
    #: Those that extend it by whole sectors, too.
    WHOLE_SECTORS = 2
    ANY = 3


@dataclass(frozen=True, slots=True)
class NativeFile:
    """An open file as `chain` has it, for whoever reads and writes it in C.

    `length`: one number of 64 bits, in bytes, which a write that extends the file changes. `clamps`: nobody
    else changes it while this mount has the writer's lock.
    """

    chain: Native
    length: memoryview
    writes: Writes
    clamps: bool


class OpenFile(Protocol):
    """An open file. Offsets and lengths are bytes of what the user sees.

    Calls may raise OSError (of the backing file) and IofltError. Calls that overlap must be kept apart by
    the caller; `sync_data` may run beside `read` and `write`, and beside what `native` lets others do.
    """

    @property
    def fd(self) -> int:
        """The descriptor of the backing file."""

    @property
    def length(self) -> int:
        """Exact length, bytes."""

    @property
    def settled(self) -> bool:
        """Whether the medium's idea of the length is that of `length` (data may still be unsynced)."""

    @property
    def closable(self) -> bool:
        """Whether `flush` has nothing to do."""

    def read(self, offset: int, length: int, *, nowait: bool = False) -> bytes | bytearray | memoryview:
        """Up to `length` bytes; fewer only at the end. `nowait`: BlockingIOError instead of disk I/O."""

    def write_waits(self, offset: int, end: int) -> bool:
        """Whether a write of whole sectors may wait for the medium or for another thread."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """All of `data`; extends the file as pwrite does."""

    def truncate(self, length: int) -> None:
        """Cut or extend to `length`; what is new reads as zeros."""

    def allocate(self, mode: int, offset: int, length: int) -> None:
        """fallocate(2) with one of the modes above."""

    def seek(self, offset: int, whence: int) -> int:
        """lseek(2) with SEEK_DATA or SEEK_HOLE; OSError ENXIO behind the end."""

    @property
    def compiles(self) -> bool:
        """Whether `native` is ever anything but None."""

    def native(self) -> NativeFile | None:
        """How to read and write it in C until something else is called here, `sync_data` excepted, from which
        the caller keeps what is done in C apart. None: not in C. Raises OSError.
        """

    def flush(self) -> None:
        """At each close of a descriptor: what must not be lost with the process is written."""

    def sync(self, *, data_only: bool) -> None:
        """fsync(2): data, then length, on the medium."""

    def sync_data(self, *, data_only: bool) -> None:
        """All of it while `settled` is true: the length needs nothing."""

    def close(self) -> None:
        """Drop keys and descriptors. Writes nothing."""


def check_range(offset: int, length: int) -> None:
    """Refuse what would pass `MAX_LENGTH` (EFBIG)."""
    if offset + length > MAX_LENGTH:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
