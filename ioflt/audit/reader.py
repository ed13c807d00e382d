"""The log's files, read: from disk by who may, or as keyd gives them out. keyd may be writing meanwhile."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ioflt.audit.chain import Fault, Finding, Head, Line, Walk
from ioflt.audit.event import Event, from_json
from ioflt.audit.log import file_names, torn_names
from ioflt.errors import DeniedError, MalformedError, NotFoundError, StorageError
from ioflt.paths import Paths

_CHUNK: Final = 1 << 20

#: The event of what was set aside after a crash.
REPAIR: Final = "events repair"


@dataclass(frozen=True, slots=True)
class LogFile:
    """A file of the log, as far as it was written when it was read."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of the log: `data` of its file `name`, empty at its end. `files`: how many there are."""

    name: str
    data: bytes
    files: int


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


def of_folder(where: Paths, name: str) -> Path:
    """Where the log of the folder of that name lies. Raises NotFoundError where it has none."""
    directory = where.folder_events(name)
    if not directory.is_dir():
        raise NotFoundError(f"no event log of a folder: {name}")
    return directory


def on_disk(directory: Path) -> Iterator[LogFile]:
    """The files in their order. Raises DeniedError, StorageError."""
    for name in _names(directory):
        yield LogFile(name, _data(directory / name))


def page(directory: Path, number: int, offset: int, size: int) -> Page:
    """At most `size` bytes from `offset` on of the file of that number, from 0; of none there is: nothing.

    Raises DeniedError, StorageError.
    """
    names = _names(directory)
    if number >= len(names):
        return Page("", b"", len(names))
    return Page(names[number], _data(directory / names[number], offset, size), len(names))


def read(files: Iterable[LogFile]) -> Iterator[Read]:
    """All events in their order. What is no line of the log is passed over: `verify` tells of it."""
    for file in files:
        for data in file.data.split(b"\n"):
            try:
                line = Line.from_bytes(data)
                event = from_json(line.event)
            except MalformedError:
                continue
            yield Read(line.sequence, event)


def of_operation(files: Iterable[LogFile], operation: str) -> Iterator[Read]:
    """As `read`, of one operation; quicker, as the other lines are not taken apart."""
    mark = f'"operation":"{operation}"'.encode()
    for file in files:
        lines = [line for line in file.data.split(b"\n") if mark in line]
        yield from (
            each
            for each in read([LogFile(file.name, b"\n".join(lines))])
            if each.event.operation == operation
        )


def pages(directory: Path) -> Callable[[int, int], Page]:
    """For `follow`: of the file of a number what there is from an offset on."""
    return lambda number, offset: page(directory, number, offset, _CHUNK)


def follow(pages: Callable[[int, int], Page], wait: Callable[[], None]) -> Iterator[Read]:
    """As `read`, and then those that come. `wait` returns once there may be more; so it never ends.

    A line is read once it is whole: what keyd sets aside when it is started anew is not. Raises DeniedError,
    StorageError.
    """
    number = offset = 0
    while True:
        found = pages(number, offset)
        whole = found.data[: found.data.rfind(b"\n") + 1]
        if whole:
            yield from read([LogFile(found.name, whole)])
            offset += len(whole)
        elif number + 1 < found.files:
            number, offset = number + 1, 0
        else:
            wait()


def verify(files: Iterable[LogFile], known: Head | None = None) -> Verified:
    """Follow the chain through all files, up to `known` and beyond."""
    walk = Walk(known)
    found: list[Found] = []
    count, rest, name = 0, b"", ""

    def note(findings: list[Finding]) -> None:
        found.extend(Found(name, each.sequence, each.fault, each.detail) for each in findings)

    for file in files:
        if rest:  # of the file before
            note(walk.end(rest))
        name = file.name
        *lines, rest = file.data.split(b"\n")
        for line in lines:
            count += 1
            note(walk.line(line) + _check_event(line))
    note(walk.end())
    return Verified(count, walk.head, len(rest), tuple(found))


def set_aside(directory: Path) -> list[Found]:
    """What was set aside after a crash, and is not as its event says. Raises DeniedError, StorageError."""
    told: dict[str, tuple[int, object]] = {}
    for each in of_operation(on_disk(directory), REPAIR):
        for change in each.event.changes:
            if isinstance(change.after, dict):
                told[str(change.after.get("file"))] = each.sequence, change.after.get("sha256")
    found = []
    for name in sorted(told.keys() | set(torn_names(directory))):
        sequence, digest = told.get(name, (0, None))
        why = _is_aside(directory, name, digest)
        if why is not None:
            found.append(Found(name, sequence, "set aside", why))
    return found


def _is_aside(directory: Path, name: str, digest: object) -> str | None:
    """What is wrong with a file that was set aside; `digest`: its SHA-256 as its event has it."""
    if digest is None:
        return "no event tells of this file"
    if name not in torn_names(directory):
        return "the file of which this event tells is not there"
    if hashlib.sha256(_data(directory / name)).hexdigest() != digest:
        return "not what its event says: changed since"
    return None


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


def _data(path: Path, offset: int = 0, size: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)
    except PermissionError:
        raise DeniedError("the event log is read by its owner only", file=path) from None
    except OSError as error:
        raise StorageError("cannot read the event log", error.errno or 0, file=path) from error
