"""The log's files: lines are only added, and fsynced in groups.

`NNNN.jsonl` in one directory; a full file is followed by the next, the chain goes on. One process writes.

Group commit: `append` writes a line, `sync` waits until it is on disk. While one caller's fsync runs, others
write theirs, and the next fsync is for all of these. Lines that nobody waits for are synced within `SOON_S`.

A crash may leave the beginning of a line at the end. It is set aside in a file `torn-<number>-<hash>` (the
number of the line that was to be), durably, before the next line takes its place.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from ioflt.audit.chain import Head, Line, follow, line_hash
from ioflt.crypto.rng import random_bytes
from ioflt.errors import BusyError, MalformedError, StorageError

#: Bytes of a file from which on the next one is begun.
FILE_SIZE: Final = 16 << 20

#: Seconds in which a line gets to disk that nobody waits for.
SOON_S: Final = 0.1

_TORN: Final = "torn-"
_NAME = re.compile(r"(\d{4,12})\.jsonl")


@dataclass(frozen=True, slots=True)
class Torn:
    """What was found after the last whole line, and set aside as `file`."""

    file: Path
    data: bytes


@dataclass(frozen=True, slots=True)
class _Written:
    """How far the log is written: the file that has its end, and the number of its last line."""

    fd: int
    sequence: int


class EventLog:
    """The log in a directory, which is there. Safe for calls from several threads.

    Once an fsync failed, nothing is taken any more: nobody knows what is on disk.
    """

    _head: Head
    _written: _Written
    _end: int  # of the last line, in its file
    _size: int  # of that file

    def __init__(self, directory: Path, file_size: int = FILE_SIZE) -> None:
        """Raises StorageError; BusyError when another process writes it."""
        self._directory = directory
        self._file_size = file_size
        self._lock = threading.Lock()
        self._grown = threading.Condition(self._lock)
        self._sync_lock = threading.Lock()
        self._failure: StorageError | None = None
        self._closed = False
        self._owner = _own(directory)
        try:
            self._open()
        except BaseException:  # nobody else closes it
            os.close(self._owner)
            raise
        self._synced = self._head.sequence
        self._syncer = threading.Thread(target=self._sync_soon, name="event log", daemon=True)
        self._syncer.start()

    @property
    def head(self) -> Head:
        """The last line."""
        with self._lock:
            return self._head

    def append(self, event: bytes) -> Head:
        """Write the next line for that event. Returns it as the head that it is now.

        Raises StorageError; then the log is what it was.
        """
        with self._lock:
            self._check()
            if self._end >= self._file_size and self._size == self._end:
                self._next_file()
            line, head = follow(self._head, event)
            self._write(line + b"\n")
            self._head = head
            self._written = _Written(self._written.fd, head.sequence)
            self._grown.notify_all()
            return head

    def sync(self, sequence: int) -> None:
        """Return once the lines up to that one are on disk. Raises StorageError."""
        with self._sync_lock:
            if self._synced >= sequence:
                return
            self._check()
            self._sync(self._written)

    def wait(self, sequence: int, seconds: float) -> None:
        """Return once there is a line after that one, the log is closed, or that time is over."""
        with self._lock:
            self._grown.wait_for(lambda: self._closed or self._head.sequence > sequence, seconds)

    def close(self) -> None:
        """Get everything to disk and let go of the log. Raises StorageError."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._grown.notify_all()
        self._syncer.join()
        try:
            with self._sync_lock:
                if self._failure is None and self._synced < self._written.sequence:
                    self._sync(self._written)
        finally:
            os.close(self._written.fd)
            os.close(self._owner)

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        """Find the last line, and set aside what is after it."""
        self.torn: Torn | None = None
        names = file_names(self._directory)
        path = self._directory / (names[-1] if names else _file_name(1))
        data = b""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.fsync(self._owner)
                data = _read_all(fd)
                self._end, head = _last_line(data)
                for name in reversed(names[:-1]):
                    if head is None:
                        head = _last_line((self._directory / name).read_bytes())[1]
                self._head = head or Head(0, random_bytes(32).hex())
                if data[self._end :]:
                    self.torn = self._set_aside(data[self._end :])
            except BaseException:  # nobody else closes it
                os.close(fd)
                raise
        except OSError as error:
            raise StorageError("cannot open the event log", error.errno or 0, file=path) from error
        self._number = int(path.stem)
        self._size = len(data)
        self._written = _Written(fd, self._head.sequence)

    def _set_aside(self, data: bytes) -> Torn:
        path = self._directory / f"{_TORN}{self._head.sequence + 1}-{line_hash(data)[:16]}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(path, flags, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.fsync(self._owner)
        return Torn(path, data)

    def _write(self, line: bytes) -> None:
        fd = self._written.fd
        try:
            done = 0
            while done < len(line):
                done += os.pwrite(fd, line[done:], self._end + done)
            if self._size > self._end + len(line):  # what was torn was longer
                os.ftruncate(fd, self._end + len(line))
        except OSError as error:
            failure = StorageError("cannot write the event log", error.errno or 0, file=self._path)
            try:
                os.ftruncate(fd, self._end)
            except OSError:  # half a line stays: none may follow it
                self._failure = failure
            self._size = self._end
            raise failure from error
        self._end += len(line)
        self._size = self._end

    def _next_file(self) -> None:
        """Begin the next file, once the full one is on disk."""
        with self._sync_lock:
            self._sync(self._written)
            path = self._directory / _file_name(self._number + 1)
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                os.fsync(self._owner)
            except OSError as error:
                raise StorageError(
                    "cannot begin a file of the event log", error.errno or 0, file=path
                ) from error
            os.close(self._written.fd)
            self._number += 1
            self._end = self._size = 0
            self._written = _Written(fd, self._head.sequence)

    @property
    def _path(self) -> Path:
        return self._directory / _file_name(self._number)

    def _sync(self, written: _Written) -> None:
        """Called by the holder of `_sync_lock`, while no file is exchanged therefore."""
        try:
            os.fdatasync(written.fd)
        except OSError as error:
            self._failure = StorageError("cannot sync the event log", error.errno or 0, file=self._path)
            raise self._failure from error
        self._synced = written.sequence

    def _sync_soon(self) -> None:
        while True:
            with self._lock:
                self._grown.wait_for(lambda: self._closed or self._head.sequence > self._synced)
                if self._closed or self._failure is not None:
                    return
                self._grown.wait_for(lambda: self._closed, SOON_S)
            try:
                self.sync(self._written.sequence)
            except StorageError:  # `append` says so from now on
                return

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        if self._closed:
            raise StorageError("the event log is closed", errno.EBADF, file=self._directory)


def file_names(directory: Path) -> list[str]:
    """The log's files in their order."""
    found = (match for name in os.listdir(directory) if (match := _NAME.fullmatch(name)))
    return [match[0] for match in sorted(found, key=lambda match: int(match[1]))]


def torn_names(directory: Path) -> list[str]:
    """What was set aside in it; nothing where there is no log. Raises OSError."""
    try:
        return sorted(name for name in os.listdir(directory) if name.startswith(_TORN))
    except FileNotFoundError:
        return []


def _file_name(number: int) -> str:
    return f"{number:04}.jsonl"


def _own(directory: Path) -> int:
    """A descriptor of the directory, held by one writer alone."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError("cannot open the event log", error.errno or 0, file=directory) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise BusyError("another process writes this event log", file=directory) from None
    return fd


def _read_all(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        return file.read()


def _last_line(data: bytes) -> tuple[int, Head | None]:
    """Where the last line ends in a file, and what it is as a head: 0 and None where there is no line.

    A power cut may leave more than one line's worth of anything, so the last thing that is a line counts.
    """
    end = data.rfind(b"\n") + 1
    while end:
        start = data.rfind(b"\n", 0, end - 1) + 1
        line = data[start : end - 1]
        try:
            return end, Head(Line.from_bytes(line).sequence, line_hash(line))
        except MalformedError:
            end = start
    return 0, None
