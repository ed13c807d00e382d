"""The form of a signed report: what keyd states of it, the signature, the report. See SPEC.md."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Final

import msgspec

from ioflt.audit.event import Actor

#: What every signed text begins with: the key signs nothing else.
PREFIX: Final = b"ioflt attest v1\n"


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What keyd vouches for: `by` brought the report of that SHA-256, at that time, and the event log had
    that head then, with an event for it.
    """

    report: str
    by: Actor
    time: datetime
    head: str


def statement(made: Statement) -> bytes:
    """Its JSON on one line, without the line's end."""
    return msgspec.json.encode(made)


def head_of(stated: bytes) -> str:
    """The head of the event log in the JSON of a statement, which is keyd's."""
    return msgspec.json.decode(stated, type=Statement).head


def signed(stated: bytes) -> bytes:
    """The text that is signed, for the JSON of a statement."""
    return PREFIX + stated + b"\n"


def report(content: dict[str, Any]) -> bytes:
    """The one text of a report: JSON in ASCII, names sorted, no blank, and a line's end.

    Bytes of file names that are no UTF-8 come as lone surrogates, and are escaped as such.
    """
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def document(stated: bytes, signature: bytes, content: bytes) -> bytes:
    """The whole file: the signed text, its signature, and the text of the report."""
    return signed(stated) + f"signature {signature.hex()}\n".encode() + content
