"""A blocking socket and a sans-io receiver, joined: send a frame, wait for the answer."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from time import monotonic
from typing import Literal, Protocol, TypeVar

from ioflt.errors import PeerError
from ioflt.wire.frame import CutShort, Pause, wipe

_CHUNK = 64 << 10

Event = TypeVar("Event", covariant=True)


class Receiver(Protocol[Event]):
    """The receiving half of a connection in `wire`."""

    def receive_data(self, data: memoryview) -> None: ...
    def next_event(self) -> Event | Literal[Pause.NEED_DATA, Pause.CLOSED]: ...


class ConnectionLost(PeerError):
    """The peer ended the connection without an answer."""


class Channel:
    """For one exchange at a time; of no more use after an error. `name` says in messages who the peer is."""

    def __init__(self, sock: socket.socket, name: str) -> None:
        self.socket = sock
        self._name = name
        self._chunk = bytearray(_CHUNK)

    def exchange(self, frame: bytearray, receiver: Receiver[Event], timeout: float) -> Event:
        """The answer to a frame, which is wiped; `timeout` in seconds, to send it and again for the answer.

        Raises ConnectionLost; PeerError for no answer in time and for a broken protocol.
        """
        self.post(frame, timeout)
        return self.collect(receiver, timeout)

    def post(self, frame: bytearray, timeout: float) -> None:
        """Send a frame, which is wiped: `collect` has the answer. Raises as `exchange`."""
        with self._named_errors():
            try:
                self.socket.settimeout(timeout)
                # A peer that refuses may close before it read all: its answer is there to be read all the
                # same.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self.socket.sendall(frame)
            finally:
                wipe(frame)

    def collect(self, receiver: Receiver[Event], timeout: float) -> Event:
        """The answer to what was posted. Raises as `exchange`."""
        with self._named_errors():
            return self._receive(receiver, monotonic() + timeout)

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise PeerError(f"{self._name} does not answer") from error
        except CutShort as error:
            raise ConnectionLost(f"{self._name} ended the connection") from error
        except OSError as error:
            raise ConnectionLost(f"{self._name} ended the connection: {error.strerror}") from error

    def _receive(self, receiver: Receiver[Event], until: float) -> Event:
        while True:
            event = receiver.next_event()
            if event is Pause.CLOSED:
                raise ConnectionLost(f"{self._name} ended the connection")
            if event is not Pause.NEED_DATA:
                return event
            left = until - monotonic()
            if left <= 0:  # however often a little came
                raise TimeoutError
            self.socket.settimeout(left)
            count = self.socket.recv_into(self._chunk)
            with memoryview(self._chunk) as chunk:
                receiver.receive_data(chunk[:count])
                chunk[:count] = bytes(count)  # it may hold a key

    def close(self) -> None:
        self.socket.close()
