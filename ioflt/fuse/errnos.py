"""The only place where an error becomes an errno. What is not known here is EIO, its traceback logged."""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import pyfuse3
import trio

from ioflt import errors
from ioflt.errors import IofltError, StorageError
from ioflt.fuse.gate import Shut

_log = logging.getLogger("ioflt.mount")


class _Tells(Protocol):
    def damaged(self, error: errors.IntegrityError) -> None: ...


_S = TypeVar("_S", bound=_Tells)
_P = ParamSpec("_P")
_R = TypeVar("_R")

#: The first class that fits decides.
_ERRNOS: tuple[tuple[type[IofltError], int], ...] = (
    (errors.UsageError, errno.EINVAL),
    (errors.DeniedError, errno.EACCES),
    (errors.NotFoundError, errno.ENOENT),
    (errors.ChangesUnknownError, errno.ESTALE),
    (errors.ExistsError, errno.EEXIST),
    (errors.BusyError, errno.EBUSY),
    (errors.ReadOnlyError, errno.EROFS),
    (errors.CrossHomeError, errno.EXDEV),
    (errors.KeyUnavailableError, errno.ENOKEY),
    (errors.IntegrityError, errno.EIO),
    (errors.CorruptDataError, errno.EUCLEAN),
    (errors.PeerError, errno.EIO),
)

#: Not worth a line in the log: they say what the caller did, not what is wrong with the datastore. The gate's
#: refusals have theirs.
_QUIET = (errors.CrossHomeError, errors.NotFoundError, errors.ExistsError, errors.UsageError, Shut)


#: Answers of the file system to what the caller did; all others tell of trouble, and are logged.
_CALLERS = frozenset(
    (
        errno.ENOENT,
        errno.EEXIST,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENOTEMPTY,
        errno.EINVAL,
        errno.ENXIO,
        errno.EACCES,
        errno.EPERM,
        errno.EXDEV,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EMLINK,
        errno.EFBIG,
        errno.EOPNOTSUPP,
        errno.ESTALE,
        errno.ETXTBSY,
        errno.EBUSY,
        errno.EROFS,
    )
)


def errno_of(error: BaseException) -> int:
    """The errno for an error of a request; logs what an administrator should see, once per request."""
    if isinstance(error, OSError):
        if error.errno not in _CALLERS:
            _log.error("the datastore's file system: %s", error)
        return error.errno or errno.EIO
    if isinstance(error, StorageError):
        _log.error("%s", error)
        return error.errno or errno.EIO
    if isinstance(error, IofltError):
        for kind, number in _ERRNOS:
            if isinstance(error, kind):
                if not isinstance(error, _QUIET):
                    _log.warning("%s", error)
                return number
    _log.error("a bug of ioflt, answered by EIO", exc_info=error)
    return errno.EIO


def translated(
    handler: Callable[Concatenate[_S, _P], Awaitable[_R]],
) -> Callable[Concatenate[_S, _P], Coroutine[Any, Any, _R]]:
    """A FUSE handler that raises nothing but FUSEError: anything else would end the mount.

    Of sectors that do not verify there is an event.
    """

    @wraps(handler)
    async def wrapper(served: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return await handler(served, *args, **kwargs)
        except (pyfuse3.FUSEError, trio.Cancelled):
            raise
        except Exception as error:
            if isinstance(error, errors.IntegrityError):
                served.damaged(error)
            raise pyfuse3.FUSEError(errno_of(error)) from None

    return wrapper
