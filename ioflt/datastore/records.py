"""Records on the datastore: read, verified by keyd, written atomically."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack

from ioflt.datastore import atomic
from ioflt.datastore.atomic import RECORD
from ioflt.errors import (
    AuthenticationError,
    IofltError,
    KeyUnavailableError,
    MalformedError,
    NotFoundError,
)
from ioflt.format.record import record as form
from ioflt.format.record.record import DatastoreRecord, HomeRecord, Unverified
from ioflt.keys.service import KeyService
from ioflt.types import KeyRef

#: What changes with every replacement of a record: inode, size, mtime and ctime in nanoseconds.
Stamp = tuple[int, int, int, int]


def stamp(top_fd: int) -> Stamp | None:
    """Identifies the record file as it is now; None when there is none."""
    try:
        info = os.stat(RECORD, dir_fd=top_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def is_current(top_fd: int, fd: int) -> bool:
    """Whether `fd` is the record file as it is now."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(RECORD, dir_fd=top_fd, follow_symlinks=False))
    except FileNotFoundError:
        return False


def read(top_fd: int) -> bytes:
    """The record's bytes. Raises OSError, MalformedError for what is no small regular file."""
    try:
        fd = os.open(RECORD, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=top_fd)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):  # a symlink, a socket
            raise
        raise MalformedError("not a regular file", os.strerror(error.errno or 0), file=RECORD) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise MalformedError("not a regular file", file=RECORD)
        data = b""
        while len(data) <= form.MAX_SIZE and (more := os.read(fd, form.MAX_SIZE + 1 - len(data))):
            data += more
        return data
    finally:
        os.close(fd)


def _before(top_fd: int) -> bytes | None:
    """The record file that is about to be replaced; what is none counts as missing."""
    try:
        return read(top_fd)[: form.MAX_SIZE]
    except (FileNotFoundError, MalformedError):
        return None


def refuse_home(error: MalformedError, path: str) -> None:
    """Raises NotFoundError where a datastore's record was wanted, and that of a home is."""
    if error.reason == "wrong kind":
        raise NotFoundError("no datastore here, but the home of a VM", file=path) from error


def verify(
    unverified: Unverified[DatastoreRecord] | Unverified[HomeRecord],
    by: Sequence[KeyRef],
    keys: KeyService,
    shown: str,
    *,
    changing: bool = False,
) -> None:
    """Raises AuthenticationError if a MAC by one of the keys `by` is wrong, those that can be had.

    `changing`: those of a clear home may be by some of its datastore's keys only, while these are changed.
    `shown`: what to call the home or datastore. Raises the first one's KeyUnavailableError when none can be
    had.
    """
    results = keys.check_record(unverified.payload, unverified.tags, by, shown)
    missing = [result for result in results if isinstance(result, IofltError)]
    for error in missing:
        if not isinstance(error, KeyUnavailableError):
            raise error
    if changing or False not in results:
        if True in results:
            return
        if missing:
            raise missing[0]
    raise AuthenticationError("bad MAC", "record changed, or made with another key", file=RECORD)


def is_maced(unverified: Unverified[HomeRecord], by: Sequence[KeyRef], keys: KeyService) -> bool:
    """Whether a clear home's record has a MAC by each of the keys. Raises KeyUnavailableError."""
    results = keys.check_record(unverified.payload, unverified.tags, by)
    for error in results:
        if isinstance(error, IofltError):
            raise error
    return all(results)


def store(
    top_fd: int,
    record: DatastoreRecord | HomeRecord,
    by: Sequence[KeyRef],
    keys: KeyService,
    shown: str,
    *,
    new: bool = False,
    held: ExitStack | None = None,
) -> None:
    """Write the record, MACed by each of the keys `by`, durably. `new`: FileExistsError if there is one.

    `shown`: what to call the home or datastore. `held`: the file stays locked (flock) until that is closed.
    Raises KeyUnavailableError when one of the keys cannot be had.
    """
    payload = form.encode(record)
    tags = keys.seal_record(by, None if new else _before(top_fd), payload, shown)
    write(top_fd, form.seal(payload, tags), new=new, held=held)


def write(top_fd: int, data: bytes, *, new: bool = False, held: ExitStack | None = None) -> None:
    """The same with a record's bytes, as they were read."""
    with ExitStack() as own:
        draft = (own if held is None else held).enter_context(atomic.Draft(top_fd))
        atomic.write_all(draft.fd, data)
        os.fchmod(draft.fd, 0o644)
        if not new:
            draft.publish_over(top_fd, RECORD)
            return
        os.fsync(draft.fd)
        draft.publish_new(top_fd, RECORD)
        os.fsync(top_fd)
