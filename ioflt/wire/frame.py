"""Frames: how a message lies on a socket, and the buffer that takes them off it.

A frame is a length (u32, little endian, 1 to `MAX_FRAME`) and that many bytes of msgpack: one message.

The invariant that the fuzz tests hold: any bytes, cut anywhere, give messages or RemoteProtocolError, never
anything else.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, Generic, Literal, TypeVar

import msgspec

from ioflt.errors import BugError, PeerError, UsageError

#: Longest message. The largest legal one is a record and the one that it replaces, 2 MiB each; a batch of
#: 1024 wrapped keys with their AADs is below 3 MiB.
MAX_FRAME = 5 << 20

#: Most bytes that wait unread: one frame, and what came with its end.
MAX_BUFFER = MAX_FRAME + (1 << 20)

_LENGTH_SIZE = 4

Message = TypeVar("Message")


class RemoteProtocolError(PeerError):
    """The other side sent what the protocol does not allow. Nothing more is read from it."""


class CutShort(RemoteProtocolError):
    """The connection ended inside a message."""


class LocalProtocolError(BugError):
    """This side wanted to send what the protocol does not allow now."""


class Pause(Enum):
    """What `next_event` returns when there is no message."""

    NEED_DATA = auto()
    CLOSED = auto()


NEED_DATA: Final = Pause.NEED_DATA
CLOSED: Final = Pause.CLOSED

_encoder = msgspec.msgpack.Encoder()


def write_frame(message: msgspec.Struct) -> bytearray:
    """The frame of a message. A bytearray, so that the sender can wipe it: it may hold keys.

    Raises LocalProtocolError for a message above `MAX_FRAME`, UsageError for text with lone surrogates.
    """
    frame = bytearray(_LENGTH_SIZE)
    try:
        _encoder.encode_into(message, frame, _LENGTH_SIZE)
    except UnicodeEncodeError:
        raise UsageError("a name that is not UTF-8 cannot be sent") from None
    size = len(frame) - _LENGTH_SIZE
    if size > MAX_FRAME:
        wipe(frame)
        raise LocalProtocolError(f"a message of {size} bytes, {MAX_FRAME} are allowed")
    frame[:_LENGTH_SIZE] = size.to_bytes(_LENGTH_SIZE, "little")
    return frame


def wipe(buffer: bytearray) -> None:
    """Zero a buffer that held a key."""
    buffer[:] = bytes(len(buffer))


class ReceiveBuffer(Generic[Message]):
    """Bytes from a peer, taken off as messages. After an error `next_event` raises it for ever."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[Message]) -> None:
        self._decoder = decoder
        self._data = bytearray()
        self._ended = False
        self._error: RemoteProtocolError | None = None

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Store what was read; no bytes mean that the peer closed."""
        if not data:
            self._ended = True
        elif self._error is None:
            self._data += data
            if len(self._data) > MAX_BUFFER:
                self.fail("more is sent than is read")

    def next_event(self) -> Message | Literal[Pause.NEED_DATA, Pause.CLOSED]:
        """The next message; NEED_DATA when it is not whole yet; CLOSED after the last one.

        Raises RemoteProtocolError for anything that is not a message of this protocol.
        """
        if self._error is not None:
            raise self._error.with_traceback(None)
        if len(self._data) < _LENGTH_SIZE:
            return self._pause()
        size = int.from_bytes(self._data[:_LENGTH_SIZE], "little")
        if not 0 < size <= MAX_FRAME:
            raise self.fail(f"a frame of {size} bytes")
        end = _LENGTH_SIZE + size
        if len(self._data) < end:
            return self._pause()
        try:
            with memoryview(self._data) as whole, whole[_LENGTH_SIZE:end] as payload:
                message = self._decoder.decode(payload)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            # The reason is not passed on: it may quote what was sent.
            raise self.fail("a frame is not a message of this protocol") from None
        self._data[:end] = bytes(end)  # it may have held a key
        del self._data[:end]
        return message

    def _pause(self) -> Literal[Pause.NEED_DATA, Pause.CLOSED]:
        if not self._ended:
            return NEED_DATA
        if self._data:
            raise self.fail("the connection ended inside a frame", CutShort)
        return CLOSED

    def fail(self, reason: str, kind: type[RemoteProtocolError] = RemoteProtocolError) -> RemoteProtocolError:
        """Enter the error state, also for a message out of turn. Returns the error, to be raised."""
        wipe(self._data)
        self._data.clear()
        self._error = kind(reason)
        return self._error
