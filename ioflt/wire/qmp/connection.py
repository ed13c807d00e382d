"""The client's side of a conversation with QEMU's monitor or guest agent, without the socket.

The invariant that the fuzz tests hold: any bytes, cut anywhere, give messages or RemoteProtocolError, never
anything else.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from ioflt.wire.frame import CLOSED, NEED_DATA, CutShort, Pause, RemoteProtocolError
from ioflt.wire.qmp.messages import Answer, Event, Greeting, Message, Refusal

#: Longest line. A QEMU with a hundred disks describes its block nodes in less than 200 KiB.
MAX_LINE: Final = 4 << 20

#: Most characters of a refusal that are passed on.
MAX_DESCRIPTION: Final = 1000

#: A byte that no JSON text has: the guest agent puts it before the answer to a guest-sync-delimited.
DELIMITER: Final = b"\xff"


class ReceiveBuffer:
    """Bytes from QEMU, taken off as messages. After an error `next_event` raises it for ever.

    `delimited`: nothing counts before the first delimiter, and of a line what follows its last one.
    """

    def __init__(self, *, delimited: bool = False) -> None:
        self._data = bytearray()
        self._delimited = delimited
        self._begun = not delimited
        self._scanned = 0
        self._ended = False
        self._error: RemoteProtocolError | None = None

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Store what was read; no bytes mean that the peer closed."""
        if not data:
            self._ended = True
        elif self._error is None:
            self._data += data

    def next_event(self) -> Message | Literal[Pause.NEED_DATA, Pause.CLOSED]:
        """The next message; NEED_DATA when it is not whole yet; CLOSED after the last one."""
        if self._error is not None:
            raise self._error.with_traceback(None)
        while True:
            end = self._data.find(b"\n", self._scanned)
            if end < 0:
                self._scanned = len(self._data)
                if self._scanned > MAX_LINE:
                    raise self._fail(f"a line of more than {MAX_LINE} bytes")
                return self._pause()
            line = bytes(self._data[:end])
            del self._data[: end + 1]
            self._scanned = 0
            if len(line) > MAX_LINE:
                raise self._fail(f"a line of more than {MAX_LINE} bytes")
            if self._delimited:
                _, delimiter, line = line.rpartition(DELIMITER)
                self._begun = self._begun or bool(delimiter)
            if self._begun and line.strip():
                return self._message(line)

    def _pause(self) -> Literal[Pause.NEED_DATA, Pause.CLOSED]:
        if not self._ended:
            return NEED_DATA
        if self._data.strip():
            raise self._fail("the connection ended inside a line", CutShort)
        return CLOSED

    def _message(self, line: bytes) -> Message:
        try:
            value = msgspec.json.decode(line)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise self._fail("a line is no JSON") from None
        found = _understood(value) if isinstance(value, dict) else None
        if found is None:
            raise self._fail("a line is no message of this protocol")
        return found

    def _fail(
        self, reason: str, kind: type[RemoteProtocolError] = RemoteProtocolError
    ) -> RemoteProtocolError:
        self._data.clear()
        self._error = kind(reason)
        return self._error


def write_command(name: str, arguments: dict[str, Any], number: int | None = None) -> bytearray:
    """The line of a command. `number`: its answer has it, too."""
    command: dict[str, Any] = {"execute": name}
    if arguments:
        command["arguments"] = arguments
    if number is not None:
        command["id"] = number
    return bytearray(msgspec.json.encode(command) + b"\n")


def _understood(value: dict[str, Any]) -> Message | None:
    number = value.get("id")
    if number is not None and type(number) is not int:
        return None
    match value:
        case {"QMP": {"version": {"qemu": {"major": int(major), "minor": int(minor), "micro": int(micro)}}}}:
            return Greeting((major, minor, micro))
        case {"return": given}:
            return Answer(number, given)
        case {"error": {"class": str(kind), "desc": str(text)}}:
            return Refusal(number, kind[:MAX_DESCRIPTION], text[:MAX_DESCRIPTION])
        case {"event": str(name)}:
            data = value.get("data", {})
            return Event(name, data) if isinstance(data, dict) else None
    return None
