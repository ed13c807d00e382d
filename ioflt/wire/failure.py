"""Errors as they travel: class name, message, file, reason; rebuilt from an allow-list on the other side.

A class that is not in the list arrives as the nearest one of the list that it is a case of.
Failures of a peer (`PeerError`) and of ours (`BugError`) arrive as PeerError: for the receiver both are the
same, the other side misbehaved.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from ioflt import errors
from ioflt.errors import CorruptDataError, IofltError, PeerError, StorageError

#: Longest text of an error, in characters; longer ones are cut.
MAX_TEXT = 4096

_Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]

_PLAIN: dict[str, type[IofltError]] = {
    cls.__name__: cls
    for cls in (
        errors.UsageError,
        errors.DeniedError,
        errors.UnshownError,
        errors.NotFoundError,
        errors.ChangesUnknownError,
        errors.ExistsError,
        errors.BusyError,
        errors.ReadOnlyError,
        errors.CrossHomeError,
        errors.KeyUnavailableError,
        errors.ProviderUnavailable,
        errors.KeyNotFound,
        errors.KeyNotUsable,
        errors.KeyCorrupt,
        errors.ProviderLocked,
        errors.PeerError,
    )
}

_CORRUPT: dict[str, type[CorruptDataError]] = {
    cls.__name__: cls
    for cls in (
        errors.CorruptDataError,
        errors.MalformedError,
        errors.UnsupportedError,
        errors.AuthenticationError,
        errors.IntegrityError,
    )
}


class Failure(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="type",
    tag="failure",
    omit_defaults=True,
):
    """What went wrong with one request, or with one item of a batch.

    `message` is the detail after the reason for corrupt data, else the whole message; `errno` is that of a
    StorageError.
    """

    error: Annotated[str, msgspec.Meta(max_length=64)]
    message: _Text
    file: _Text | None = None
    reason: _Text = ""
    errno: Annotated[int, msgspec.Meta(ge=0, le=4095)] = 0


def of(error: IofltError) -> Failure:
    """The failure that tells of `error`."""
    name = type(error).__name__
    if isinstance(error, CorruptDataError):
        return Failure(name, shown(error.detail), _file(error.file), reason=shown(error.reason))
    if isinstance(error, StorageError):
        message = error.message.rpartition(": ")[0]  # the rest is the errno's own text
        return Failure(name, shown(message), _file(error.file), errno=error.errno)
    names = (kind.__name__ for kind in type(error).__mro__)
    known = next((name for name in names if name in _PLAIN), PeerError.__name__)
    return Failure(known, shown(error.message), _file(error.file))


def rebuild(failure: Failure) -> IofltError:
    """The error that a failure tells of, PeerError when its class is not in the allow-list."""
    corrupt = _CORRUPT.get(failure.error)
    if corrupt is not None:
        return corrupt(failure.reason, failure.message, file=failure.file)
    if failure.error == StorageError.__name__:
        return StorageError(failure.message, failure.errno, file=failure.file)
    return _PLAIN.get(failure.error, PeerError)(failure.message, file=failure.file)


def shown(text: str) -> str:
    """A text or path for people to read: bytes that are no UTF-8 as escapes, and not too long."""
    shown = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return shown if len(shown) <= MAX_TEXT else shown[: MAX_TEXT - 1] + "…"


def _file(file: str | None) -> str | None:
    return None if file is None else shown(file)
