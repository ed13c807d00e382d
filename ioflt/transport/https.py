"""Requests to an HTTPS server, for callers that block: kept connections, no redirects, no proxies, a limit.

Requests here may be sent twice: when a kept connection turns out to be closed, a new one takes its place.
Bodies may hold keys: an answer lies in a buffer that is wiped, and the caller wipes what it sends.
"""

from __future__ import annotations

import http.client
import math
import ssl
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final

from ioflt.crypto.secret import Secret
from ioflt.errors import PeerError
from ioflt.transport.tls import reason_of

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

#: Longest answer, in bytes.
LIMIT: Final = 256 << 10

_MAX_IDLE: Final = 4


class HttpsFailed(PeerError):
    """No answer, or none that is HTTP."""


@dataclass(slots=True)
class Answer:
    """A status and a body, which is gone at the end of a `with`."""

    status: int
    _buffer: Secret
    _size: int

    @property
    def body(self) -> memoryview:
        return self._buffer.view()[: self._size]

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._buffer.wipe()


class _Bounded(ssl.SSLSocket):
    """Waits until a time, however often a little comes before that."""

    until = math.inf

    def recv_into(self, buffer: Buffer, nbytes: int | None = None, flags: int = 0) -> int:
        self._wait_no_longer()
        return super().recv_into(buffer, nbytes, flags)

    def send(self, data: Buffer, flags: int = 0) -> int:
        self._wait_no_longer()
        return super().send(data, flags)

    def _wait_no_longer(self) -> None:
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.settimeout(left)


class Https:
    """One server. Safe for calls from several threads."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, timeout: float) -> None:
        """`timeout`: seconds to connect, and again for an answer. The context becomes this server's own."""
        context.sslsocket_class = _Bounded
        self._host = host
        self._port = port
        self._context = context
        self._timeout = timeout
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPSConnection] = []
        self._closed = False

    def post(self, path: str, headers: dict[str, str], body: bytearray) -> Answer:
        """Raises HttpsFailed."""
        return self._ask("POST", path, headers, body)

    def get(self, path: str, headers: dict[str, str]) -> Answer:
        """Raises HttpsFailed."""
        return self._ask("GET", path, headers, None)

    def close(self) -> None:
        """Close the connections that are kept; those in use are closed when they have answered."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _ask(self, method: str, path: str, headers: dict[str, str], body: bytearray | None) -> Answer:
        while True:
            with self._lock:
                kept = self._idle.pop() if self._idle else None
            connection = kept or http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout, context=self._context
            )
            try:
                if kept is None:
                    connection.connect()
                if isinstance(connection.sock, _Bounded):
                    connection.sock.until = time.monotonic() + self._timeout
                connection.request(method, path, body, headers)
                answer = _read(connection.getresponse())
            except TimeoutError:
                connection.close()
                raise HttpsFailed(f"no answer within {self._timeout:g} seconds") from None
            except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: no name for TLS
                connection.close()
                if kept is None:
                    raise HttpsFailed(_reason(error)) from error
            except BaseException:  # half an answer may be left on it
                connection.close()
                raise
            else:
                self._keep(connection)
                return answer

    def _keep(self, connection: http.client.HTTPSConnection) -> None:
        with self._lock:
            if not self._closed and connection.sock is not None and len(self._idle) < _MAX_IDLE:
                self._idle.append(connection)
                return
        connection.close()


def _read(response: http.client.HTTPResponse) -> Answer:
    buffer = Secret.allocate(LIMIT + 1)
    size = 0
    with response:  # it holds the socket too, until it was read to its end
        while got := response.readinto(buffer.buffer()[size:]):
            size += got
    if size > LIMIT:
        buffer.wipe()
        raise HttpsFailed("its answer is too long")
    return Answer(response.status, buffer, size)


def _reason(error: Exception) -> str:
    if isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead):
        return "it closed the connection"
    return "it does not speak HTTP" if isinstance(error, http.client.HTTPException) else reason_of(error)
