"""The log of all mounts of a user or host: one file of limited size, which no message floods."""

from __future__ import annotations

import fcntl
import logging
import logging.handlers
import os
import sys
import time
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path

#: Bytes of the log file; one older one is kept.
SIZE = 1 << 20

#: Seconds within which a message is not written again.
INTERVAL_S = 10.0

#: Different messages that are remembered for that.
MESSAGES = 256


class LogFile(logging.handlers.WatchedFileHandler):
    """Appends to a file that other mounts append to as well, and turns it over when it is full.

    Who turns it over holds its flock; the others notice that the name means another file now.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self.addFilter(Repetitions())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
            if self.stream is not None:
                self._turn_over(self.stream.fileno())
        except OSError:  # a full disk; the mount goes on
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """What the log cannot take is said where a command is heard, in one line."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        with suppress(OSError):
            why = f"{self.baseFilename}: {error.strerror}"
            print(f"ioflt: warning: {why}; not logged: {record.getMessage()}", file=sys.stderr)

    def close(self) -> None:
        with suppress(OSError):  # what could not be written before is tried again
            super().close()

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return open(descriptor, "a", encoding=self.encoding, errors=self.errors)

    def _turn_over(self, fd: int) -> None:
        if os.fstat(fd).st_size <= SIZE:
            return
        with suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.stat(self.baseFilename)):
                os.replace(self.baseFilename, f"{self.baseFilename}.1")


class Repetitions(logging.Filter):
    """Drops what was written a moment ago; when it is written again, it says how often it was dropped."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}  # when it was written, dropped since

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        key = (text, repr(record.exc_info[1]) if record.exc_info else "")
        now = time.monotonic()
        written, dropped = self._seen.pop(key, (now - INTERVAL_S, 0))
        if now - written < INTERVAL_S:
            self._seen[key] = (written, dropped + 1)
            return False
        if dropped:
            record.msg, record.args = f"{text} (and {dropped} times before)", ()
        if len(self._seen) >= MESSAGES:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = (now, 0)
        return True
