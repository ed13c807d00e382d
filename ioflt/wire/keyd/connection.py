"""Both sides of a keyd connection, without the socket.

    client   START ──Hello──► GREETING ──Welcome──► IDLE ──request──► WAITING ──reply──► IDLE
    server   START ──Hello──► WAITING ──reply──► IDLE ──request──► WAITING (further ones wait unread)

A Failure in place of Welcome refuses the client; the server closes after it.

Every other message in a state is an error; after an error a side stays in ERROR and reads nothing more.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, Literal

import msgspec

from ioflt.errors import PeerError
from ioflt.wire.failure import Failure
from ioflt.wire.frame import LocalProtocolError, Pause, ReceiveBuffer, RemoteProtocolError, write_frame
from ioflt.wire.keyd.messages import VERSIONS, Reply, Request
from ioflt.wire.keyd.replies import ReplyBody, Welcome
from ioflt.wire.keyd.requests import Hello, RequestBody

_IDS: Final = 2**32


class State(Enum):
    START = auto()
    GREETING = auto()
    IDLE = auto()
    WAITING = auto()
    ERROR = auto()


class ClientConnection:
    """The asking side. One request at a time: `send` and then `next_event` until it gives the reply."""

    def __init__(self, versions: tuple[int, ...] = VERSIONS) -> None:
        """`versions`: those that are offered."""
        self.state = State.START
        self._versions = versions
        self._id = 0
        self._buffer = ReceiveBuffer(msgspec.msgpack.Decoder(Reply))

    @classmethod
    def greeted(cls) -> ClientConnection:
        """One whose Hello somebody else has sent, and read the Welcome to it."""
        connection = cls()
        connection._id = 1
        connection.state = State.IDLE
        return connection

    def hello(self, operation: str = "", as_principal: str | None = None) -> bytearray:
        """The first bytes to send, `Hello` has the parameters. The reply to them is a Welcome."""
        hello = Hello("ioflt-keyd", self._versions, operation, as_principal)
        return self._send(hello, State.START, State.GREETING)

    def send(self, request: RequestBody) -> bytearray:
        """The bytes of a request. Raises LocalProtocolError when one is not yet answered."""
        return self._send(request, State.IDLE, State.WAITING)

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Store what was read; no bytes mean that keyd closed."""
        self._buffer.receive_data(data)

    def next_event(self) -> ReplyBody | Literal[Pause.NEED_DATA, Pause.CLOSED]:
        """The reply, or NEED_DATA, or CLOSED. Raises RemoteProtocolError for anything else."""
        try:
            return self._next_event()
        except RemoteProtocolError:
            self.state = State.ERROR
            raise

    def _send(self, request: RequestBody, wanted: State, then: State) -> bytearray:
        if self.state is not wanted:
            raise LocalProtocolError(f"a {type(request).__name__} in state {self.state.name}")
        self._id = (self._id + 1) % _IDS
        frame = write_frame(Request(self._id, request))
        self.state = then
        return frame

    def _next_event(self) -> ReplyBody | Literal[Pause.NEED_DATA, Pause.CLOSED]:
        event = self._buffer.next_event()
        if isinstance(event, Pause):
            return event
        if self.state not in (State.GREETING, State.WAITING) or event.id != self._id:
            raise self._buffer.fail("an answer that was not asked for")
        greeting = self.state is State.GREETING
        if isinstance(event.body, Welcome) != greeting and not isinstance(event.body, Failure):
            raise self._buffer.fail("an answer of the wrong kind")
        if isinstance(event.body, Welcome) and event.body.version not in self._versions:
            raise self._buffer.fail("a protocol version that was not offered")
        self.state = State.IDLE
        return event.body


class ServerConnection:
    """The answering side: `next_event` gives a request, `send` answers it; then the next."""

    def __init__(self) -> None:
        self.state = State.START
        self._id = 0
        self._buffer = ReceiveBuffer(msgspec.msgpack.Decoder(Request))

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Store what was read; no bytes mean that the client closed."""
        self._buffer.receive_data(data)

    def next_event(self) -> RequestBody | Literal[Pause.NEED_DATA, Pause.CLOSED]:
        """The next request, Hello first, or NEED_DATA, or CLOSED.

        Raises RemoteProtocolError for anything else, and LocalProtocolError while a request is not answered.
        """
        if self.state is State.WAITING:
            raise LocalProtocolError("the last request is not answered")
        try:
            return self._next_event()
        except RemoteProtocolError:
            self.state = State.ERROR
            raise

    def send(self, reply: ReplyBody) -> bytearray:
        """The bytes of the answer to the last request."""
        if self.state is not State.WAITING:
            raise LocalProtocolError(f"a {type(reply).__name__} in state {self.state.name}")
        frame = write_frame(Reply(self._id, reply))
        self.state = State.IDLE
        return frame

    def _next_event(self) -> RequestBody | Literal[Pause.NEED_DATA, Pause.CLOSED]:
        event = self._buffer.next_event()
        if isinstance(event, Pause):
            return event
        hello = isinstance(event.body, Hello)
        if hello != (self.state is State.START):
            raise self._buffer.fail("a request out of turn")
        self._id = event.id
        self.state = State.WAITING
        return event.body


def welcome(hello: Hello) -> Welcome:
    """The answer to a Hello: the highest version of both. Raises PeerError where they have none in common."""
    common = set(hello.versions) & set(VERSIONS)
    if not common:
        theirs, ours = (", ".join(map(str, versions)) for versions in (hello.versions, VERSIONS))
        raise PeerError(f"keyd is of another version of ioflt: it speaks version {ours}, asked was {theirs}")
    return Welcome(max(common))
