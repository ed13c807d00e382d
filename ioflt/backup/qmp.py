"""QEMU's monitor and QEMU's guest agent, asked over their unix sockets.

The other end is not trusted to answer at all, or in order: every wait has its limit, and after the first
thing that is wrong nothing more is sent on that connection.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Final

from ioflt.errors import DeniedError, PeerError
from ioflt.transport import unix
from ioflt.wire.frame import Pause
from ioflt.wire.qmp.connection import DELIMITER, ReceiveBuffer, write_command
from ioflt.wire.qmp.messages import Answer, Event, Greeting, Message, Refusal

#: Seconds for the greeting: QEMU gives it as soon as nobody else has the monitor.
GREETING_S: Final = 10.0

#: Seconds for the answer to a command, none of which waits for the guest.
ANSWER_S: Final = 60.0

#: Events that are kept until they are asked for.
_MAX_EVENTS: Final = 1024

_CHUNK: Final = 64 << 10


class Refused(PeerError):
    """QEMU answered that it does not do it. `description`: why, in its words."""

    def __init__(self, command: str, refusal: Refusal, path: Path) -> None:
        super().__init__(f"QEMU refuses {command}: {refusal.description}", file=path)
        self.kind = refusal.kind
        self.description = refusal.description


class _Conversation:
    """A socket on which one command at a time is answered. A context manager, for one thread."""

    def __init__(self, path: Path, buffer: ReceiveBuffer, timeout: float) -> None:
        self.path = path
        try:
            self.socket = unix.connect(path, timeout)
        except DeniedError as error:
            raise DeniedError("you may not use this socket of QEMU's", file=path) from error
        self._buffer = buffer
        self._broken: str | None = None
        self._events: deque[Event] = deque(maxlen=_MAX_EVENTS)

    def close(self) -> None:
        """Close the connection. May be called again."""
        self.socket.close()

    def __enter__(self) -> _Conversation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def broken(self) -> bool:
        """Whether nothing more can be asked."""
        return self._broken is not None

    def _send(self, data: bytes | bytearray, timeout: float) -> None:
        if self._broken is not None:
            raise PeerError(self._broken, file=self.path)
        self.socket.settimeout(timeout)
        try:
            self.socket.sendall(data)
        except TimeoutError as error:
            raise self._fail(f"takes no commands for {timeout:g} s") from error
        except OSError as error:
            raise self._fail(f"ended the connection: {error.strerror}") from error

    def _next(self, until: float, doing: str) -> Message:
        """The next message. Raises PeerError at the time `until`, and for what is no message."""
        while True:
            try:
                found = self._buffer.next_event()
            except PeerError as error:
                raise self._fail(f"breaks its protocol: {error.message}") from error
            if found is Pause.CLOSED:
                raise self._fail(f"ended the connection {doing}")
            if found is not Pause.NEED_DATA:
                return found
            left = until - monotonic()
            if left <= 0 or not self._receive(left):
                raise self._fail(f"does not answer {doing}")

    def _receive(self, timeout: float) -> bool:
        """Take in what comes; False when nothing does."""
        self.socket.settimeout(timeout)
        try:
            self._buffer.receive_data(self.socket.recv(_CHUNK))
        except (TimeoutError, BlockingIOError):
            return False
        except OSError as error:
            raise self._fail(f"ended the connection: {error.strerror}") from error
        return True

    def _fail(self, what: str) -> PeerError:
        self._broken = what
        self.close()
        return PeerError(what, file=self.path)


class Monitor(_Conversation):
    """QEMU's monitor, which serves one client at a time."""

    def __init__(self, path: Path) -> None:
        """Connect. Raises NotListening, DeniedError, PeerError."""
        super().__init__(path, ReceiveBuffer(), GREETING_S)
        self._number = 0
        try:
            self.peer = unix.peer_of(self.socket)
            found = self._next(monotonic() + GREETING_S, "by a greeting: it serves one client at a time")
            if not isinstance(found, Greeting):
                raise self._fail("is no QMP socket: it does not begin with QEMU's greeting")
            self.version = found.version
            self.ask("qmp_capabilities", timeout=GREETING_S)
        except BaseException:  # nobody else closes it
            self.close()
            raise

    def __enter__(self) -> Monitor:
        return self

    def ask(self, command: str, arguments: dict[str, Any] | None = None, timeout: float = ANSWER_S) -> object:
        """A command's answer. Raises Refused, PeerError."""
        self._number += 1
        until = monotonic() + timeout
        self._send(write_command(command, arguments or {}, self._number), timeout)
        while True:
            found = self._next(until, f"to {command} within {timeout:g} s")
            if isinstance(found, Event):
                self._events.append(found)
            elif isinstance(found, Greeting) or found.id != self._number:
                raise self._fail(f"answers {command} with something else")
            elif isinstance(found, Refusal):
                raise Refused(command, found, self.path)
            else:
                return found.value

    def wait_for(self, wanted: Callable[[Event], bool], timeout: float) -> Event | None:
        """The first event that is wanted, those that came already included; None: it does not come in time.

        Others before it are dropped. Raises PeerError.
        """
        until = monotonic() + timeout
        while True:
            while self._events:
                event = self._events.popleft()
                if wanted(event):
                    return event
            left = until - monotonic()
            if left <= 0 or not self.take_in(left):
                return None

    def take_in(self, timeout: float) -> bool:
        """Wait for events, and keep them; False when none comes. Raises PeerError when QEMU is gone."""
        until = monotonic() + timeout
        while True:
            try:
                found = self._buffer.next_event()
            except PeerError as error:
                raise self._fail(f"breaks its protocol: {error.message}") from error
            if isinstance(found, Event):
                self._events.append(found)
                return True
            if found is Pause.CLOSED:
                raise self._fail("ended the connection")
            if found is not Pause.NEED_DATA:
                raise self._fail("answers without having been asked")
            left = until - monotonic()
            if not self._receive(max(0.0, left)):
                return False


class GuestAgent(_Conversation):
    """QEMU's agent in a guest. Who answers there is the guest, which may be anybody's."""

    def __init__(self, path: Path, timeout: float = GREETING_S) -> None:
        """Connect, and see that it answers. Raises NotListening, DeniedError, PeerError."""
        super().__init__(path, ReceiveBuffer(delimited=True), timeout)
        number = secrets.randbits(31)
        until = monotonic() + timeout
        try:
            self._send(DELIMITER + write_command("guest-sync-delimited", {"id": number}), timeout)
            while True:  # what it says to others may come before
                found = self._next(until, f"within {timeout:g} s: maybe none runs in the guest")
                if isinstance(found, Answer) and found.value == number:
                    break
        except BaseException:  # nobody else closes it
            self.close()
            raise

    def __enter__(self) -> GuestAgent:
        return self

    def ask(self, command: str, arguments: dict[str, Any] | None = None, timeout: float = ANSWER_S) -> object:
        """A command's answer. Raises Refused, PeerError."""
        self._send(write_command(command, arguments or {}), timeout)
        found = self._next(monotonic() + timeout, f"to {command} within {timeout:g} s")
        if isinstance(found, Refusal):
            raise Refused(command, found, self.path)
        if not isinstance(found, Answer):
            raise self._fail(f"answers {command} with something else")
        return found.value
