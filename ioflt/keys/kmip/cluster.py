"""A cluster of KMIP servers that have the same keys, and the connections to it.

Tasks: any number may call `exchange`. A connection is used by one at a time; at most `MAX_CONNECTIONS` exist,
and who finds none waits. The server that answered last is asked first. A kept connection that turns out to
be dead says nothing about its server: the request is sent again on a fresh one. A server that fails on a
fresh connection is passed over for this request, and the next one is asked.

A server that lets a time limit pass hangs, and is passed over by all requests, those that wait for a
connection too: they would wait for it one after the other. A task of its own looks when it answers again, on
one connection more.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

import trio

from ioflt.errors import IofltError, PeerError, ProviderUnavailable
from ioflt.keys.kmip.file import KmipFile, KmipServer
from ioflt.transport import tls
from ioflt.transport.tls import Stream, TlsFailed, Trust
from ioflt.wire.frame import Pause, wipe
from ioflt.wire.kmip.connection import Answer, ClientConnection, agreed
from ioflt.wire.kmip.enumerations import Operation
from ioflt.wire.kmip.messages import RequestMessage, Version, request
from ioflt.wire.kmip.structure import Structure

MAX_CONNECTIONS: Final = 4

#: Seconds after which an unused connection is not used any more: servers close them, some without a word.
MAX_IDLE_S: Final = 60.0

#: Seconds between two looks whether a server that hung answers again.
LOOK_S: Final = 1.0

_CHUNK: Final = 64 << 10

#: One item of a request.
Asked: TypeAlias = tuple[Operation, Structure]

_log = logging.getLogger(__name__)


class Silent(TlsFailed):
    """The server let the time limit pass."""


class Connection:
    """A greeted connection to one server. Of no more use after an error."""

    def __init__(self, server: KmipServer, stream: Stream) -> None:
        self.server = server
        self.version = Version(major=1, minor=0)
        self.used = 0
        self.last = trio.current_time()
        self._stream = stream
        self._machine = ClientConnection()

    @property
    def certificate(self) -> bytes:
        """The server's certificate, DER."""
        return tls.certificate_of(self._stream)

    @property
    def tls_version(self) -> str:
        """TLSv1.3 or TLSv1.2."""
        return str(self._stream.version())

    async def greet(self) -> None:
        """Ask for the server's versions and take the highest of both. Raises PeerError."""
        self.version = agreed(await self._converse(self._machine.discover()))

    async def exchange(self, request: RequestMessage) -> Answer:
        """The answer to a request. Raises PeerError."""
        answer = await self._converse(self._machine.send(request))
        self.used += 1
        self.last = trio.current_time()
        return answer

    def close(self) -> None:
        """End it at once; what the server would still say does not matter."""
        self._stream.transport_stream.socket.close()

    async def _converse(self, data: bytearray) -> Answer:
        try:
            await self._stream.send_all(data)
            while True:
                event = self._machine.next_event()
                if event is Pause.CLOSED:
                    raise TlsFailed("the server ended the connection")
                if not isinstance(event, Pause):
                    return event
                received = await self._stream.receive_some(_CHUNK)
                self._machine.receive_data(received)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise TlsFailed(tls.reason_of(error)) from error
        finally:
            wipe(data)


class Cluster:
    """The servers of a provider's file."""

    def __init__(self, file: KmipFile, trust: Trust, nursery: trio.Nursery | None = None) -> None:
        """`nursery`: for the looks at servers that hang. Without one each request finds out by itself."""
        self._file = file
        self._trust = trust
        self._nursery = nursery
        self._context: ssl.SSLContext | None = None
        self._idle: list[Connection] = []
        self._places = trio.Semaphore(MAX_CONNECTIONS)
        self._good = file.servers[0]
        self._hanging: dict[KmipServer, str] = {}  # why they are passed over
        self._logged: dict[KmipServer, str] = {}

    async def exchange(self, asked: Sequence[Asked], *, idempotent: bool = True) -> Answer:
        """The answer of the first server that gives one.

        What is not `idempotent` is never sent a second time. Raises ProviderUnavailable with the reason of
        every server.
        """
        failed: dict[KmipServer, str] = {}
        async with self._places:
            while True:
                connection = await self._take(failed)
                fresh, sent = connection.used == 0, False
                try:
                    with self._in_time():
                        if not idempotent and not fresh:
                            await connection.greet()  # so that it is not sent into a dead connection
                        sent = True
                        answer = await connection.exchange(request(connection.version, asked))
                except BaseException as error:  # half an answer may be left on it
                    connection.close()
                    if not isinstance(error, PeerError):
                        raise
                    if fresh or isinstance(error, Silent):
                        self._blame(connection.server, error, failed, asked)
                    if sent and not idempotent:
                        raise ProviderUnavailable(
                            f"{self._what}: {connection.server} did not answer ({error});"
                            " whether it did what was asked is not known"
                        ) from error
                else:
                    self._answers(connection.server)
                    self._idle.append(connection)
                    return answer

    def close(self) -> None:
        """Close the connections that nobody uses."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def open(self, server: KmipServer) -> Connection:
        """A greeted connection to that server. Raises TlsFailed, PeerError."""
        if self._context is None:
            self._context = self._trust.context()
        with self._in_time():
            stream = await tls.connect(server.host, server.port, self._context, server.fingerprint)
            connection = Connection(server, stream)
            try:
                await connection.greet()
            except BaseException:  # cancelled, too: nobody else closes it
                connection.close()
                raise
            return connection

    @property
    def _what(self) -> str:
        return f"the key servers of {self._file.name}"

    @contextlib.contextmanager
    def _in_time(self) -> Iterator[None]:
        try:
            with trio.fail_after(self._file.timeout):
                yield
        except trio.TooSlowError:
            raise Silent(f"no answer within {self._file.timeout:g} seconds") from None

    async def _take(self, failed: dict[KmipServer, str]) -> Connection:
        """A kept connection or a new one, of a server that is not passed over."""
        while self._idle:
            connection = self._idle.pop()
            old = trio.current_time() - connection.last > MAX_IDLE_S
            if not old and connection.server not in failed and connection.server not in self._hanging:
                return connection
            connection.close()
        first = self._good
        for server in sorted(self._file.servers, key=lambda server: server != first):
            if server not in failed and server not in self._hanging:
                try:
                    return await self.open(server)
                except PeerError as error:
                    self._blame(server, error, failed)
                except IofltError as error:
                    raise ProviderUnavailable(f"{self._what}: {error}") from error
        reasons = self._hanging | failed
        told = "; ".join(f"{server}: {reasons[server]}" for server in self._file.servers if server in reasons)
        raise ProviderUnavailable(f"{self._what} do not answer: {told}")

    def _blame(
        self,
        server: KmipServer,
        error: PeerError,
        failed: dict[KmipServer, str],
        asked: Sequence[Asked] = (),
    ) -> None:
        """Pass a server over for this request, and for all if it hangs. The log has it once, until the server
        answers again.
        """
        failed[server] = str(error)
        if self._logged.get(server) != failed[server]:
            self._logged[server] = failed[server]
            _log.warning("key server %s of %s: %s", server, self._file.name, failed[server])
        if isinstance(error, Silent) and self._nursery is not None and server not in self._hanging:
            self._hanging[server] = failed[server]
            gets = [one for one in asked if one[0] == Operation.GET]
            self._nursery.start_soon(self._look_after, server, gets[:1])

    def _answers(self, server: KmipServer) -> None:
        self._good = server
        if self._logged.pop(server, None):
            _log.info("key server %s of %s answers again", server, self._file.name)

    async def _look_after(self, server: KmipServer, unanswered: Sequence[Asked]) -> None:
        """Until a server that hangs answers: it may greet and still give no key, as it gave none before.

        One connection at a time, which waits with the server: it is answered as soon as the server goes on.
        """
        while True:
            try:
                connection = await self.open(server)
                try:
                    if unanswered:
                        with self._in_time():
                            await connection.exchange(request(connection.version, unanswered))
                finally:
                    connection.close()
            except IofltError as error:
                self._hanging[server] = str(error)
                await trio.sleep(LOOK_S)
            else:
                del self._hanging[server]
                self._answers(server)
                return
