"""The hash chain: each line of the log names the SHA-256 of the line before it. SPEC.md has it in bytes.

It holds without a key: who can write the log can also write all of it anew from some line on. That shows
against a *head* (sequence number and hash of a line) that somebody else has noted before.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from ioflt.audit.event import MAX_EVENT
from ioflt.errors import MalformedError

#: Longest line with its end, in bytes.
MAX_LINE: Final = MAX_EVENT + 256

_HASH_DIGITS: Final = 64

#: What is wrong with a line of the log, or with what should be one.
Fault = Literal["no line", "changed", "missing", "out of order", "cut short", "not the head", "set aside"]

_Hash = Annotated[str, Meta(pattern=f"^[0-9a-f]{{{_HASH_DIGITS}}}$")]


@dataclass(frozen=True, slots=True)
class Head:
    """The last line of a log: its number, from 1 on, and its hash. Of an empty log 0 and the log's id."""

    sequence: int
    hash: str

    def __str__(self) -> str:
        return f"{self.sequence}:{self.hash}"


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    seq: Annotated[int, Meta(ge=1, lt=2**53)]
    prev: _Hash
    event: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the log, without its end: its number, the hash of the line before it, an event's bytes."""

    sequence: int
    before: str
    event: bytes

    def to_bytes(self) -> bytes:
        return b'{"seq":%d,"prev":"%s","event":%s}' % (self.sequence, self.before.encode("ascii"), self.event)

    @classmethod
    def from_bytes(cls, data: bytes) -> Line:
        """The line of just these bytes, whatever event it holds. Raises MalformedError."""
        if len(data) >= MAX_LINE:
            raise MalformedError("line too long")
        try:
            found = _decoder.decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise MalformedError("bad line") from None
        line = cls(found.seq, found.prev, bytes(found.event))
        if line.to_bytes() != data:
            raise MalformedError("bad line", "not in its one form")
        return line


@dataclass(frozen=True, slots=True)
class Finding:
    """What a line shows. `sequence`: the line that it is about, as far as that is known."""

    fault: Fault
    sequence: int
    detail: str


_decoder: Final = msgspec.json.Decoder(_Line)


def follow(head: Head, event: bytes) -> tuple[bytes, Head]:
    """The next line for that event, without its end, and the head that it makes."""
    line = Line(head.sequence + 1, head.hash, event).to_bytes()
    return line, Head(head.sequence + 1, line_hash(line))


def line_hash(line: bytes) -> str:
    """The hash by which the next line names this one, which comes without its end."""
    return hashlib.sha256(line).hexdigest()


def parse_head(text: str) -> Head:
    """`str` of a head. Raises MalformedError."""
    sequence, _, digest = text.partition(":")
    plain = sequence.isascii() and sequence.isdigit() and len(sequence) <= 16
    if not plain or len(digest) != _HASH_DIGITS or set(digest) - set("0123456789abcdef"):
        raise MalformedError("bad head", "it is NUMBER:HASH")
    return Head(int(sequence), digest)


class Walk:
    """Verifies a log, line after line, from its first one on. Goes on after what it finds."""

    def __init__(self, known: Head | None = None) -> None:
        """`known`: a head noted before, which the log must still contain."""
        self._known = known
        self._met = known is None
        #: The last line that there was; before the first one None.
        self.head: Head | None = None
        #: The hash that the first line follows on: it tells logs apart.
        self.log_id: str | None = None

    def line(self, data: bytes) -> list[Finding]:
        """The next line, without its end. What is wrong with it, or with what should be before it."""
        expected = 1 if self.head is None else self.head.sequence + 1
        try:
            line = Line.from_bytes(data)
        except MalformedError as error:
            # The next line tells whether it was in the place of one.
            return [Finding("no line", expected, error.message)]
        found = list(self._place(line, expected))
        if self.head is None:
            self.log_id = line.before
            found += self._compare(Head(line.sequence - 1, line.before))
        self.head = Head(line.sequence, line_hash(data))
        return found + self._compare(self.head)

    def end(self, torn: bytes = b"") -> list[Finding]:
        """After the last line, with what comes after it and has no end."""
        found = []
        sequence = 0 if self.head is None else self.head.sequence
        if torn:
            found.append(Finding("cut short", sequence + 1, f"{len(torn)} bytes that are no whole line"))
        if not self._met and self._known is not None:
            detail = f"the log ends before line {self._known.sequence}, which was noted as its head"
            found.append(Finding("not the head", sequence, detail))
        return found

    def _compare(self, here: Head) -> list[Finding]:
        if self._known is None or here.sequence != self._known.sequence:
            return []
        self._met = True
        if here.hash == self._known.hash:
            return []
        return [
            Finding("not the head", here.sequence, "another line than the one that was noted as the head")
        ]

    def _place(self, line: Line, expected: int) -> list[Finding]:
        if line.sequence > expected:
            last = line.sequence - 1
            which = f"line {last} is" if last == expected else f"lines {expected} to {last} are"
            return [Finding("missing", expected, f"{which} not there")]
        if line.sequence < expected:
            detail = f"line {line.sequence} comes after line {expected - 1}"
            return [Finding("out of order", line.sequence, detail)]
        if self.head is not None and line.before != self.head.hash:
            detail = f"line {expected} does not follow on this line {expected - 1}"
            return [Finding("changed", expected - 1, detail)]
        return []
