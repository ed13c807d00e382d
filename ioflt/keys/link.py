"""One blocking connection to keyd."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from ioflt.errors import DeniedError, PeerError
from ioflt.keys.channel import Channel, ConnectionLost, Receiver
from ioflt.transport import unix
from ioflt.wire import failure
from ioflt.wire.failure import Failure
from ioflt.wire.keyd.connection import ClientConnection
from ioflt.wire.keyd.messages import VERSIONS
from ioflt.wire.keyd.replies import ReplyBody, Welcome
from ioflt.wire.keyd.requests import Lock, LookAtServers, RequestBody, TryProvider, Unlock

#: Seconds that keyd may take for one answer: it may itself be waiting for a key server.
TIMEOUT = 60.0

#: The same for lock and unlock, in which mounts write back all they have, or fetch their keys again; and for
#: what goes to one server after the other.
LOCK_TIMEOUT = 900.0

_LONG = Lock | Unlock | LookAtServers | TryProvider

#: Versions of the protocol that this program no longer speaks.
_EARLIER = (1,)

__all__ = ["LOCK_TIMEOUT", "TIMEOUT", "ConnectionLost", "Link"]


class Link:
    """A greeted connection, for one call at a time. After any error it is of no more use."""

    def __init__(self, sock: socket.socket, connection: ClientConnection | None = None) -> None:
        self._socket = sock
        self._channel = Channel(sock, "keyd")
        self._connection = connection or ClientConnection()
        self._receiver: Receiver[ReplyBody] = self._connection

    @classmethod
    def open(cls, path: Path) -> Link:
        """Connect and greet. Raises NotListening, DeniedError, PeerError."""
        return cls.over(unix.connect(path, TIMEOUT))

    @classmethod
    def over(
        cls,
        sock: socket.socket,
        operation: str = "",
        as_principal: str | None = None,
        versions: tuple[int, ...] = VERSIONS,
    ) -> Link:
        """Greet over a connected socket, which is taken over: for that operation, and for whom, in one of
        these versions of the protocol.

        Raises DeniedError, PeerError.
        """
        link = cls(sock, ClientConnection(versions))
        try:
            # Requests hold passphrases: they go to root or to ourselves only.
            if unix.peer_of(sock).uid not in (0, os.geteuid()):
                raise DeniedError("keyd's socket is served by another user")
            answer = link._channel.exchange(
                link._connection.hello(operation, as_principal), link._receiver, TIMEOUT
            )
            if isinstance(answer, Failure):
                raise failure.rebuild(answer)
        except BaseException:  # nobody else closes it
            link.close()
            raise
        return link

    @classmethod
    def greeted(cls, sock: socket.socket) -> Link:
        """Over a socket whose other end was greeted by somebody else (`over`)."""
        return cls(sock, ClientConnection.greeted())

    @staticmethod
    def refuse_older(sock: socket.socket) -> None:
        """Raises PeerError when the keyd at the other end of a connected socket speaks an earlier version.

        Such a one ends a connection at once whose greeting it does not know.
        """
        with contextlib.closing(Channel(sock, "keyd")) as channel, contextlib.suppress(ConnectionLost):
            connection = ClientConnection(_EARLIER)
            if isinstance(channel.exchange(connection.hello(), connection, TIMEOUT), Welcome):
                theirs, ours = (", ".join(map(str, versions)) for versions in (_EARLIER, VERSIONS))
                raise PeerError(
                    f"keyd is of another version of ioflt: it speaks version {theirs}, asked was {ours}"
                )

    @contextmanager
    def process(self) -> Iterator[int]:
        """A pidfd of the keyd at the other end: readable once that process has ended."""
        pidfd = unix.peer_pidfd(self._socket)
        if pidfd is None:  # before Linux 6.5
            pidfd = os.pidfd_open(unix.peer_of(self._socket).pid)
        try:
            yield pidfd
        finally:
            os.close(pidfd)

    def call(self, request: RequestBody) -> ReplyBody:
        """The reply to a request. Raises ConnectionLost or PeerError."""
        timeout = LOCK_TIMEOUT if isinstance(request, _LONG) else TIMEOUT
        return self._channel.exchange(self._connection.send(request), self._receiver, timeout)

    def post(self, request: RequestBody) -> None:
        """Send a request that is answered some time: its socket is readable then. Raises as `call`."""
        self._channel.post(self._connection.send(request), TIMEOUT)

    def collect(self) -> ReplyBody:
        """The answer to what was posted. Raises as `call`."""
        return self._channel.collect(self._receiver, TIMEOUT)

    def fileno(self) -> int:
        """Its socket, for who hands it to another process."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket. May be called again."""
        self._channel.close()

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
