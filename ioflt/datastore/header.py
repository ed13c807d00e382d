"""A container's header on the datastore: read it, and change it so that nobody else's change is lost.

Stock cryptsetup locks a container with flock and counts the header's sequence number up. So each change
here takes the same lock, reads the newest valid copy again, applies itself to that, and writes the secondary
copy, fsync, the primary copy, fsync. Who has the container open for writing (the OFD lock) is the only one
to change it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ioflt import syscalls
from ioflt.datastore import atomic
from ioflt.errors import BusyError, CorruptDataError, MalformedError
from ioflt.format.luks2 import binary
from ioflt.format.luks2 import header as luks2
from ioflt.format.luks2.layout import (
    HEADER_OFFSETS,
    HEADER_SIZE,
    HEADERS_SIZE,
)


def read_header(fd: int) -> luks2.Header:
    """The newest valid header, of our profile. Raises CorruptDataError."""
    area = os.pread(fd, HEADERS_SIZE, 0)
    if not any(area):
        raise MalformedError("no header", "nothing or zeros where it was")
    header = luks2.parse(area)
    luks2.check_profile(header)
    return header


def is_recrypting(fd: int) -> bool:
    """Whether it is a container that is being recrypted in place, which nobody opens meanwhile."""
    try:
        return luks2.is_recrypting(luks2.parse(os.pread(fd, HEADERS_SIZE, 0)))
    except CorruptDataError:
        return False


def check_copies(fd: int) -> None:
    """Both copies are valid and the same: one alone is enough to read, but not to lose the next.

    Raises MalformedError.
    """
    names = ("primary", "secondary")
    found = []
    for which, offset in enumerate(HEADER_OFFSETS):
        try:
            found.append(binary.unpack(os.pread(fd, HEADER_SIZE, offset), which))
        except CorruptDataError as error:
            raise MalformedError(f"{names[which]} header copy damaged", str(error)) from None
    first, second = found
    if (first.sequence, first.text) != (second.sequence, second.text):
        told = f"sequence {first.sequence} and {second.sequence}: a change was interrupted; do it again"
        raise MalformedError("header copies differ", told)


def is_whole(fd: int) -> bool:
    """Whether `check_copies` finds nothing; else a write was cut, and one copy has what was before."""
    try:
        check_copies(fd)
    except MalformedError:
        return False
    return True


@contextmanager
def locked(fd: int, *, wait: float = 0) -> Iterator[None]:
    """Hold the flock that stock cryptsetup takes too.

    Raises BusyError when somebody holds it, after waiting that many seconds.
    """
    if not syscalls.try_flock(fd, fcntl.LOCK_EX, wait=wait):
        raise BusyError("another program is changing the header now")
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)


def change(fd: int, edit: Callable[[luks2.Header], luks2.Header]) -> luks2.Header:
    """Apply `edit` to the newest header and write it, the file's times kept. Call inside `locked`."""
    header = edit(read_header(fd))
    header = header.with_sequence(header.sequence + 1)
    write(fd, header)
    return header


def write(fd: int, header: luks2.Header) -> None:
    """Both copies, one after the other, each synced before the next. Keeps the file's times."""
    primary, secondary = luks2.serialize(header)
    info = os.fstat(fd)
    for data, offset in ((secondary, HEADER_SIZE), (primary, 0)):
        atomic.write_all(fd, data, offset)
        atomic.keep_times(fd, info)
        os.fsync(fd)
