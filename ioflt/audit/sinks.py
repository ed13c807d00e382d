"""Events told to this host's journal or syslog, beside the log. Nothing waits for them.

The journal gets the fields `MESSAGE` (the event's sentence), `IOFLT_EVENT` (its structured form) and
`IOFLT_HEAD` (the line's number and hash); syslog one line with all of that. With the head somebody else knows
how far the log went: see SPEC.md on what only that shows.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from pathlib import Path
from typing import Final, Literal, Protocol

from ioflt.audit.chain import Head
from ioflt.audit.event import Event, sentence, to_json

#: What events may go to: nothing, systemd's journal, or syslog.
SinkKind = Literal["none", "journal", "syslog"]

_JOURNAL: Final = Path("/run/systemd/journal/socket")
_SYSLOG: Final = Path("/dev/log")
_AUTHPRIV: Final = 10 << 3  # the facility of messages on who may what, syslog(3)
_INFO, _NOTICE = 6, 5

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Whom events are told to once they are in the log."""

    def tell(self, event: Event, head: Head) -> None:
        """Pass it on; one that cannot be passed on is dropped, and the log of keyd says so."""
        ...

    def close(self) -> None:
        """Let go of what it holds open."""
        ...


class NoSink:
    """Nobody else hears."""

    def tell(self, event: Event, head: Head) -> None:
        pass

    def close(self) -> None:
        pass


class SocketSink:
    """A daemon's datagram socket. Safe for calls from several threads."""

    def __init__(self, kind: Literal["journal", "syslog"], path: Path | None = None) -> None:
        """`path`: where its socket is, if not where that daemon has it on every machine."""
        self._message = _journal_message if kind == "journal" else _syslog_message
        self._path = path or (_JOURNAL if kind == "journal" else _SYSLOG)
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._silent = False

    def tell(self, event: Event, head: Head) -> None:
        message = self._message(event, head)
        with self._lock:
            try:
                self._send(message)
            except OSError as error:
                self._close()
                if not self._silent:
                    _log.warning("events are no longer told to %s: %s", self._path, error)
                self._silent = True
            else:
                if self._silent:
                    _log.warning("events are told to %s again", self._path)
                self._silent = False

    def close(self) -> None:
        with self._lock:
            self._close()

    def _send(self, message: bytes) -> None:
        """To whoever listens there now: it may have been started again since the last time."""
        if self._socket is not None:
            with contextlib.suppress(ConnectionError, FileNotFoundError):
                self._socket.send(message, socket.MSG_DONTWAIT)
                return
            self._close()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.connect(str(self._path))
        self._socket.send(message, socket.MSG_DONTWAIT)

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None


def make(kind: SinkKind) -> Sink:
    """The sink of that kind."""
    return NoSink() if kind == "none" else SocketSink(kind)


def _severity(event: Event) -> int:
    return _INFO if event.outcome == "done" else _NOTICE


def _journal_message(event: Event, head: Head) -> bytes:
    """The journal's native protocol: `NAME=value` lines. No value of ours has a newline in it."""
    fields = {
        "MESSAGE": sentence(event, os.uname().nodename),
        "PRIORITY": str(_severity(event)),
        "SYSLOG_FACILITY": str(_AUTHPRIV >> 3),
        "SYSLOG_IDENTIFIER": "ioflt",
        "IOFLT_EVENT": to_json(event).decode(),
        "IOFLT_HEAD": str(head),
    }
    return "".join(f"{name}={value}\n" for name, value in fields.items()).encode()


def _syslog_message(event: Event, head: Head) -> bytes:
    words = sentence(event, os.uname().nodename)
    return (
        f"<{_AUTHPRIV | _severity(event)}>ioflt[{os.getpid()}]: {words} head={head} event=".encode()
        + to_json(event)
    )
