"""Names and relative paths as records hold them: what `os.fsdecode` gives, each meaning one file."""

from __future__ import annotations

from typing import Final

from ioflt.errors import MalformedError

#: Longest name of a file, bytes: NAME_MAX of every file system that a datastore lies on.
MAX_NAME: Final = 255

_MAX_PATH = 4095  # bytes, PATH_MAX without its NUL


def check_name(value: object) -> str:
    """One directory entry. Raises MalformedError("bad name")."""
    return _check(value, "bad name", parts=1)


def check_path(value: object) -> str:
    """A path below a home: no empty, `.` or `..` part, not absolute. Raises MalformedError("bad path")."""
    return _check(value, "bad path", parts=_MAX_PATH)


def _check(value: object, reason: str, parts: int) -> str:
    if not isinstance(value, str):
        raise MalformedError(reason, "no string")
    try:
        raw = value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise MalformedError(reason, "no file name") from None
    # a name has one spelling: escapes that would decode to text are a second one
    if raw.decode("utf-8", "surrogateescape") != value or b"\0" in raw or len(raw) > _MAX_PATH:
        raise MalformedError(reason, "no file name")
    split = raw.split(b"/")
    if len(split) > parts or any(part in (b"", b".", b"..") or len(part) > MAX_NAME for part in split):
        raise MalformedError(reason, repr(value)[:80])
    return value
