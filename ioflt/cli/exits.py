"""Exit codes: the contract with scripts. A number is never given a second meaning."""

from __future__ import annotations

import errno
import signal
from enum import IntEnum

import click

from ioflt import errors


class Exit(IntEnum):
    """What a command's exit code says."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    DENIED = 3
    KEY_UNAVAILABLE = 4
    CORRUPT_DATA = 5
    BUSY = 6
    READ_ONLY = 7
    STORAGE = 8
    PEER = 9
    NOT_FOUND = 10
    EXISTS = 11
    CROSS_HOME = 12
    FOUND = 13  # `check` ran, and found something that is not sound
    CHANGES_UNKNOWN = 14  # a full backup is due
    BUG = 70


_BY_ERROR: dict[type[BaseException], int] = {
    errors.IofltError: Exit.FAILURE,
    errors.UsageError: Exit.USAGE,
    errors.DeniedError: Exit.DENIED,
    errors.NotFoundError: Exit.NOT_FOUND,
    errors.ChangesUnknownError: Exit.CHANGES_UNKNOWN,
    errors.ExistsError: Exit.EXISTS,
    errors.BusyError: Exit.BUSY,
    errors.ReadOnlyError: Exit.READ_ONLY,
    errors.CrossHomeError: Exit.CROSS_HOME,
    errors.KeyUnavailableError: Exit.KEY_UNAVAILABLE,
    errors.CorruptDataError: Exit.CORRUPT_DATA,
    errors.StorageError: Exit.STORAGE,
    errors.PeerError: Exit.PEER,
    errors.BugError: Exit.BUG,
    click.UsageError: Exit.USAGE,
    click.ClickException: Exit.FAILURE,
    click.Abort: 128 + signal.SIGINT,
    KeyboardInterrupt: 128 + signal.SIGINT,
    BrokenPipeError: 128 + signal.SIGPIPE,
    FileNotFoundError: Exit.NOT_FOUND,
    FileExistsError: Exit.EXISTS,
    PermissionError: Exit.DENIED,
    OSError: Exit.STORAGE,
    BaseException: Exit.BUG,
}

_BY_ERRNO = {
    errno.EROFS: Exit.READ_ONLY,
    errno.EBUSY: Exit.BUSY,
    errno.EACCES: Exit.DENIED,
    errno.EPERM: Exit.DENIED,
}


def exit_code(error: BaseException) -> int:
    """The exit code for any exception: that of the nearest class in the table."""
    if isinstance(error, OSError | errors.StorageError) and error.errno in _BY_ERRNO:
        return _BY_ERRNO[error.errno]
    if isinstance(error, click.Abort | KeyboardInterrupt) and str(error) in signal.Signals.__members__:
        return 128 + signal.Signals[str(error)]
    return next(_BY_ERROR[kind] for kind in type(error).__mro__ if kind in _BY_ERROR)
