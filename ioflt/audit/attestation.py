"""The form of a signed report: what keyd states of it, the signature, the report. See SPEC.md."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, ClassVar, Final

import msgspec

from ioflt.audit.event import Actor
from ioflt.errors import MalformedError

#: What every signed text begins with: the key signs nothing else.
PREFIX: Final = b"ioflt attest v1\n"
BACKUP_PREFIX: Final = b"ioflt backup v1\n"


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What keyd vouches for: `by` brought the report of that SHA-256, at that time, and the event log had
    that head then, with an event for it.
    """

    report: str
    by: Actor
    time: datetime
    head: str

    prefix: ClassVar[bytes] = PREFIX


class ManifestStatement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What keyd vouches for of a backup: `by`, who may back up the VM with the id `home`, brought the
    manifest of that SHA-256, at that time. `datastore`: the id of that in which keyd knew the VM, if any.
    """

    manifest: str
    home: str
    datastore: str | None
    by: Actor
    time: datetime

    prefix: ClassVar[bytes] = BACKUP_PREFIX


def statement(made: Statement | ManifestStatement) -> bytes:
    """Its JSON on one line, without the line's end."""
    return msgspec.json.encode(made)


def head_of(stated: bytes) -> str:
    """The head of the event log in the JSON of a statement, which is keyd's."""
    return msgspec.json.decode(stated, type=Statement).head


def manifest_statement(stated: bytes) -> ManifestStatement:
    """What the JSON of a statement about a manifest says. Raises MalformedError "bad statement"."""
    try:
        return msgspec.json.decode(stated, type=ManifestStatement)
    except msgspec.DecodeError as error:
        raise MalformedError("bad statement", str(error)[:200]) from None


def signed(stated: bytes, prefix: bytes = PREFIX) -> bytes:
    """The text that is signed, for the JSON of a statement."""
    return prefix + stated + b"\n"


def report(content: dict[str, Any]) -> bytes:
    """The one text of a report: JSON in ASCII, names sorted, no blank, and a line's end.

    Bytes of file names that are no UTF-8 come as lone surrogates, and are escaped as such.
    """
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def document(stated: bytes, signature: bytes, content: bytes) -> bytes:
    """The whole file: the signed text, its signature, and the text of the report."""
    return signed(stated) + f"signature {signature.hex()}\n".encode() + content
