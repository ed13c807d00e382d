"""The log as it lies on disk, read by who may read the files; keyd may be writing it meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ioflt.audit.chain import Fault, Finding, Head, Line, Walk
from ioflt.audit.event import Event, from_json
from ioflt.audit.log import file_names
from ioflt.errors import DeniedError, MalformedError, StorageError


@dataclass(frozen=True, slots=True)
class Read:
    """An event, and the number of its line."""

    sequence: int
    event: Event


@dataclass(frozen=True, slots=True)
class Found:
    """What is wrong with the log, and in which of its files; `line`: the number of the line it is about."""

    file: str
    line: int
    fault: Fault
    detail: str


@dataclass(frozen=True, slots=True)
class Verified:
    """Of a whole log. `torn`: bytes at its end that are no line, as a crash leaves them, or as keyd is just
    writing one. `head`: None for an empty log.
    """

    lines: int
    head: Head | None
    torn: int
    findings: tuple[Found, ...]


def read(directory: Path) -> Iterator[Read]:
    """All events in their order. What is no line of the log is passed over: `verify` tells of it.

    Raises DeniedError, StorageError.
    """
    for name in _names(directory):
        for data in _data(directory / name).split(b"\n"):
            try:
                line = Line.from_bytes(data)
                event = from_json(line.event)
            except MalformedError:
                continue
            yield Read(line.sequence, event)


def verify(directory: Path, known: Head | None = None) -> Verified:
    """Follow the chain through all files, up to `known` and beyond. Raises DeniedError, StorageError."""
    walk = Walk(known)
    found: list[Found] = []
    count, rest, name = 0, b"", ""

    def note(findings: list[Finding]) -> None:
        found.extend(Found(name, each.sequence, each.fault, each.detail) for each in findings)

    names = _names(directory)
    for name in names:
        *lines, rest = _data(directory / name).split(b"\n")
        for line in lines:
            count += 1
            note(walk.line(line) + _check_event(line))
        if rest and name != names[-1]:
            note(walk.end(rest))
    note(walk.end())
    return Verified(count, walk.head, len(rest), tuple(found))


def _check_event(line: bytes) -> list[Finding]:
    """A line that was whole when it was chained holds an event."""
    try:
        parsed = Line.from_bytes(line)
    except MalformedError:
        return []  # the walk says so
    try:
        from_json(parsed.event)
    except MalformedError as error:
        return [Finding("no line", parsed.sequence, error.message)]
    return []


def _names(directory: Path) -> list[str]:
    try:
        return file_names(directory)
    except FileNotFoundError:
        return []
    except PermissionError:
        raise DeniedError("the event log is read by its owner only", file=directory) from None
    except OSError as error:
        raise StorageError("cannot read the event log", error.errno or 0, file=directory) from error


def _data(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except PermissionError:
        raise DeniedError("the event log is read by its owner only", file=path) from None
    except OSError as error:
        raise StorageError("cannot read the event log", error.errno or 0, file=path) from error
