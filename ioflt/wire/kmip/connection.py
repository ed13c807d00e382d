"""Both sides of a KMIP connection, without the socket.

    client   IDLE ──discover, send──► WAITING ──response──► IDLE
    server   IDLE ──request──► WAITING ──send──► IDLE   (further requests wait unread)

Every other message in a state is an error; after an error a side stays in ERROR and reads nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import Final, Literal

import msgspec

from ioflt.wire.frame import CLOSED, NEED_DATA, CutShort, LocalProtocolError, Pause, RemoteProtocolError, wipe
from ioflt.wire.kmip import ttlv
from ioflt.wire.kmip.enumerations import Operation, ResultReason, ResultStatus
from ioflt.wire.kmip.messages import (
    PAYLOADS,
    DiscoverVersions,
    RequestItem,
    RequestMessage,
    ResponseItem,
    ResponseMessage,
    Version,
    request,
)
from ioflt.wire.kmip.tags import Tag
from ioflt.wire.kmip.ttlv import HEADER_SIZE, MAX_SIZE, Item, ProtocolError, Type

#: What the client speaks, the preferred version first.
VERSIONS: Final = tuple(Version(major=1, minor=minor) for minor in (4, 3, 2, 1, 0))

#: DiscoverVersions is asked in this one: its first. A server of 1.0 refuses it.
_FIRST: Final = Version(major=1, minor=1)

#: Answers to DiscoverVersions by servers that are older than it, or than its version.
_TOO_OLD: Final = (
    ResultReason.OPERATION_NOT_SUPPORTED,
    ResultReason.FEATURE_NOT_SUPPORTED,
    ResultReason.INVALID_MESSAGE,
)


class State(Enum):
    IDLE = auto()
    WAITING = auto()
    ERROR = auto()


class Answer(msgspec.Struct, frozen=True):
    """A response. `items[i]` answers the request's item i; None: the server stopped before it."""

    message: ResponseMessage
    items: tuple[ResponseItem | None, ...]


class _Buffer:
    """Bytes from a peer, taken off as items. After an error `next_item` raises it for ever."""

    def __init__(self, tag: Tag) -> None:
        self._tag = tag
        self._data = bytearray()
        self._ended = False
        self._error: RemoteProtocolError | None = None

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Store what was read; no bytes mean that the peer closed."""
        if not data:
            self._ended = True
        elif self._error is None:
            self._data += data
            if len(self._data) > 2 * MAX_SIZE:
                self.fail(ProtocolError("too large", "more is sent than is read"))

    def next_item(self) -> Item | Literal[Pause.NEED_DATA, Pause.CLOSED]:
        """The next message's item; NEED_DATA when it is not whole; CLOSED after the last one."""
        if self._error is not None:
            raise self._error.with_traceback(None)
        if len(self._data) < HEADER_SIZE:
            return self._pause()
        tag, kind = int.from_bytes(self._data[:3], "big"), self._data[3]
        if tag != self._tag or kind != Type.STRUCTURE:
            raise self.fail(ProtocolError("another message", ttlv.tag_name(tag)))
        end = HEADER_SIZE + int.from_bytes(self._data[4:8], "big")
        if end > MAX_SIZE:
            raise self.fail(ProtocolError("too large", f"{end} bytes"))
        if end & 7:
            raise self.fail(ProtocolError("wrong length", f"{end - HEADER_SIZE} of {ttlv.tag_name(tag)}"))
        if len(self._data) < end:
            return self._pause()
        try:
            with memoryview(self._data) as whole, whole[:end] as message:
                item = ttlv.parse(message)
        except ProtocolError as error:
            raise self.fail(error) from None
        self._data[:end] = bytes(end)  # it may have held a key
        del self._data[:end]
        return item

    def fail(self, error: RemoteProtocolError) -> RemoteProtocolError:
        """Enter the error state. Returns the error, to be raised."""
        wipe(self._data)
        self._data = bytearray()  # the old one may still be viewed by the error's traceback
        self._error = error
        return error

    def _pause(self) -> Literal[Pause.NEED_DATA, Pause.CLOSED]:
        if not self._ended:
            return NEED_DATA
        if self._data:
            raise self.fail(CutShort("the connection ended inside a message"))
        return CLOSED


class ClientConnection:
    """The asking side. One message at a time: `send`, and then `next_event` until it gives the answer."""

    def __init__(self) -> None:
        self.state = State.IDLE
        self._buffer = _Buffer(Tag.RESPONSE_MESSAGE)
        self._asked: tuple[RequestItem, ...] = ()

    def discover(self) -> bytearray:
        """The bytes of DiscoverVersions. Its answer goes to `agreed`."""
        return self.send(
            request(_FIRST, [(Operation.DISCOVER_VERSIONS, DiscoverVersions(versions=VERSIONS))])
        )

    def send(self, message: RequestMessage) -> bytearray:
        """The bytes of a request. Raises LocalProtocolError when the last one is not answered."""
        if self.state is not State.IDLE:
            raise LocalProtocolError(f"a request in state {self.state.name}")
        data = ttlv.write(message.write())
        self._asked = message.items
        self.state = State.WAITING
        return data

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Store what was read; no bytes mean that the server closed."""
        self._buffer.receive_data(data)

    def next_event(self) -> Answer | Literal[Pause.NEED_DATA, Pause.CLOSED]:
        """The answer, or NEED_DATA, or CLOSED. Raises RemoteProtocolError for anything else."""
        try:
            item = self._buffer.next_item()
            if isinstance(item, Pause):
                return item
            if self.state is not State.WAITING:
                raise ProtocolError("an answer that was not asked for")
            message = ResponseMessage.read(item)
            answer = Answer(message, _in_order(self._asked, message.items))
        except RemoteProtocolError as error:
            self.state = State.ERROR
            raise self._buffer.fail(error) from None
        self.state = State.IDLE
        return answer


class ServerConnection:
    """The answering side: `next_event` gives a request, `send` answers it; then the next."""

    def __init__(self) -> None:
        self.state = State.IDLE
        self._buffer = _Buffer(Tag.REQUEST_MESSAGE)

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Store what was read; no bytes mean that the client closed."""
        self._buffer.receive_data(data)

    def next_event(self) -> RequestMessage | Literal[Pause.NEED_DATA, Pause.CLOSED]:
        """The next request, or NEED_DATA, or CLOSED. Raises RemoteProtocolError for anything else."""
        if self.state is State.WAITING:
            raise LocalProtocolError("the last request is not answered")
        try:
            item = self._buffer.next_item()
            if isinstance(item, Pause):
                return item
            message = RequestMessage.read(item)
        except RemoteProtocolError as error:
            self.state = State.ERROR
            raise self._buffer.fail(error) from None
        self.state = State.WAITING
        return message

    def send(self, message: ResponseMessage) -> bytearray:
        """The bytes of the answer to the last request."""
        if self.state is not State.WAITING:
            raise LocalProtocolError(f"a response in state {self.state.name}")
        data = ttlv.write(message.write())
        self.state = State.IDLE
        return data


def agreed(answer: Answer) -> Version:
    """The version to speak after `discover`: the highest that both have.

    Raises ProtocolError when there is none, or when the server refuses the question for other reasons.
    """
    item = answer.items[0]
    if item is not None and item.status == ResultStatus.SUCCESS:
        found = item.payload
        theirs = {version.key for version in found.versions} if isinstance(found, DiscoverVersions) else set()
        for version in VERSIONS:
            if version.key in theirs:
                return version
        raise ProtocolError("no common version", ", ".join(f"{a}.{b}" for a, b in sorted(theirs)))
    if item is not None and item.reason in _TOO_OLD:
        return VERSIONS[-1]
    raise ProtocolError("no version", "the server refuses to name its versions")


def _in_order(
    asked: Sequence[RequestItem], answers: Sequence[ResponseItem]
) -> tuple[ResponseItem | None, ...]:
    """The answers in the order of what was asked. Raises ProtocolError for those that answer nothing."""
    if len(answers) == 1 and answers[0].operation is None and answers[0].status != ResultStatus.SUCCESS:
        return tuple(answers) * len(asked)  # the server could not read the request
    found: list[ResponseItem | None] = [None] * len(asked)
    places = {item.id: place for place, item in enumerate(asked) if item.id is not None}
    for index, answer in enumerate(answers):
        place = index if answer.id is None else places.get(answer.id, -1)
        if not 0 <= place < len(asked) or found[place] is not None:
            raise ProtocolError("an answer that was not asked for")
        operation = asked[place].operation
        if operation == Operation.POLL:
            operation = answer.operation or operation
        if answer.operation not in (operation, None):
            raise ProtocolError("an answer to another operation")
        if answer.status == ResultStatus.SUCCESS and answer.payload is None and operation in PAYLOADS:
            raise ProtocolError("missing field", "ResponsePayload")
        if answer.status == ResultStatus.SUCCESS and answer.operation is None:
            raise ProtocolError("missing field", "Operation")
        found[place] = answer
    if None in found and all(answer.status == ResultStatus.SUCCESS for answer in answers):
        raise ProtocolError("an answer is missing")
    return tuple(found)
