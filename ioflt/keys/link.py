"""One blocking connection to keyd."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import TracebackType

from ioflt.errors import DeniedError, PeerError
from ioflt.transport import unix
from ioflt.wire.frame import CutShort, Pause, wipe
from ioflt.wire.keyd.connection import ClientConnection
from ioflt.wire.keyd.messages import Lock, ReplyBody, RequestBody

#: Seconds that keyd may take for one answer: it may itself be waiting for a key server.
TIMEOUT = 60.0

#: The same for a lock, in which mounts write back all they have.
LOCK_TIMEOUT = 900.0

_CHUNK = 64 << 10


class ConnectionLost(PeerError):
    """keyd ended the connection without an answer."""


class Link:
    """A greeted connection, for one call at a time. After any error it is of no more use."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._connection = ClientConnection()
        self._chunk = bytearray(_CHUNK)

    @classmethod
    def open(cls, path: Path) -> Link:
        """Connect and greet. Raises NotListening, DeniedError, PeerError."""
        link = cls(unix.connect(path, TIMEOUT))
        try:
            # Requests hold passphrases: they go to root or to ourselves only.
            if unix.peer_of(link._socket).uid not in (0, os.geteuid()):
                raise DeniedError("the socket is served by another user", file=path)
            link._exchange(link._connection.hello())
        except BaseException:
            link.close()
            raise
        return link

    def call(self, request: RequestBody) -> ReplyBody:
        """The reply to a request. Raises ConnectionLost or PeerError."""
        self._socket.settimeout(LOCK_TIMEOUT if isinstance(request, Lock) else TIMEOUT)
        return self._exchange(self._connection.send(request))

    def wait_closed(self) -> None:
        """Return when the other side has closed."""
        try:
            while self._socket.recv(_CHUNK):
                pass
        except OSError as error:
            raise PeerError(f"keyd does not end: {error}") from error

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _exchange(self, frame: bytearray) -> ReplyBody:
        try:
            self._socket.sendall(frame)
        except OSError:
            pass  # it may have answered (a refusal) before it closed; if not, the next read says so
        finally:
            wipe(frame)
        while True:
            try:
                event = self._connection.next_event()
            except CutShort as error:
                raise ConnectionLost("keyd ended the connection") from error
            if event is Pause.CLOSED:
                raise ConnectionLost("keyd ended the connection")
            if event is not Pause.NEED_DATA:
                return event
            self._read()

    def _read(self) -> None:
        try:
            count = self._socket.recv_into(self._chunk)
        except TimeoutError as error:
            raise PeerError("keyd does not answer") from error
        except OSError as error:
            raise ConnectionLost(f"keyd ended the connection: {error.strerror}") from error
        with memoryview(self._chunk) as chunk:
            self._connection.receive_data(chunk[:count])
            chunk[:count] = bytes(count)
