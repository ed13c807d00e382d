"""The fields of key locators: every byte but ASCII letters and digits is `%` and two hex digits."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from ioflt.errors import MalformedError, UsageError

NULL: Final = "<VMWARE-NULL>"
EMPTY: Final = "<VMWARE-EMPTYSTRING>"

_PLAIN = re.compile(rb"[^0-9A-Za-z]")
_HEX = re.compile(rb"%([0-9A-Fa-f]{2})")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def esc(value: str) -> str:
    """`value` as a field; the empty string has a word of its own. UsageError for a value that is one."""
    if value in (NULL, EMPTY):
        raise UsageError(f"{value} cannot be a value in a key locator")
    raw = (value or EMPTY).encode()
    return _PLAIN.sub(lambda match: b"%%%02x" % match[0][0], raw).decode("ascii")


def esc_null(value: str | None) -> str:
    """As `esc`, for fields that may be null: None is the literal `<VMWARE-NULL>`, not escaped."""
    return NULL if value is None else esc(value)


def unesc(field: str) -> str:
    """The value of a field that may not be null.

    Raises MalformedError "empty field", "bad escape", "not UTF-8" or "null field".
    """
    value = unesc_null(field)
    if value is None:
        raise MalformedError("null field")
    return value


def unesc_null(field: str) -> str | None:
    """The value of a field, None for `<VMWARE-NULL>` in either form."""
    if not field:
        raise MalformedError("empty field")
    value = unescape_bytes(field)
    return None if value == NULL else "" if value == EMPTY else value


def unescape_bytes(text: str) -> str:
    """`text` with its `%xx` resolved. Raises MalformedError "bad escape" or "not UTF-8"."""
    bad = _BAD_ESCAPE.search(text)
    if bad:
        raise MalformedError("bad escape", repr(text[bad.start() : bad.start() + 3]))
    try:
        return _HEX.sub(lambda match: bytes([int(match[1], 16)]), text.encode()).decode()
    except UnicodeError:
        raise MalformedError("not UTF-8") from None


def unbase64(text: str) -> bytes:
    """Strictly canonical base64. Raises MalformedError "bad base64"."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedError("bad base64") from None
    if base64.b64encode(data).decode() != text:
        raise MalformedError("bad base64", "not canonical")
    return data
