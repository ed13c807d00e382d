"""keyd's socket: a trio task for each connection, a thread for each request that is being answered.

Threads: those that answer from memory wait for nobody. Each provider has its own, for requests that wait for
it (`outward`); those that wait for several have some in common. So has each kind of request that waits for
others: a lock for mounts, a status for what opens a provider. Whatever hangs uses up its own.

Tasks: the accept loop, a handler for each connection, one that waits for signals, one that tells how much was
denied; all in one nursery, which Stop or a signal cancels. A handler serves one request after the other.
Nothing that a client does ends more than its own connection; work in a thread whose client is gone runs to
its end and is dropped.
"""

from __future__ import annotations

import logging
import signal
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar, TypeVarTuple, Unpack

import trio

from ioflt.access.principals import Principal
from ioflt.errors import BugError, BusyError, DeniedError, IofltError, UsageError
from ioflt.keyd import administration, denials, outward
from ioflt.keyd.access import Access
from ioflt.keyd.answer import answer, wipe_keys
from ioflt.keyd.guarded import Guarded
from ioflt.keyd.guests import Guests, Room
from ioflt.keyd.permits import Rules
from ioflt.keyd.recorder import event
from ioflt.keyd.service import Service
from ioflt.keyd.session import Session
from ioflt.transport.listener import Listener
from ioflt.transport.unix import Peer, peer_of
from ioflt.wire import failure
from ioflt.wire.frame import Pause, RemoteProtocolError, wipe
from ioflt.wire.keyd.connection import ServerConnection, welcome
from ioflt.wire.keyd.replies import ReplyBody
from ioflt.wire.keyd.requests import (
    AwaitExport,
    BackUpProvider,
    ChangeAccess,
    ChangeProvider,
    ExplainAccess,
    GetAccess,
    GetStatus,
    GetWarnings,
    Hello,
    HoldVm,
    KeyRequest,
    Lock,
    LookAtServers,
    Prove,
    ProveVmx,
    ReadEvents,
    Reload,
    RequestBody,
    ResumeVm,
    SetKeyCache,
    Stop,
    TakeVmWritten,
    TryProvider,
    Unlock,
    WatchVm,
)

#: Threads of each sort.
MAX_THREADS = 32

#: Kinds of requests that wait for others than a provider that has a key.
_WAITING = (
    Lock,
    Unlock,
    Reload,
    SetKeyCache,
    GetStatus,
    GetWarnings,
    LookAtServers,
    TryProvider,
    BackUpProvider,
    ChangeProvider,
    WatchVm,
    TakeVmWritten,
    HoldVm,
    ResumeVm,
)

#: Requests that take a processor for long: whoever asks has one answered at a time.
_LONG = (Prove, ProveVmx)

#: Seconds that a client may take to say who it is.
HELLO_S = 10.0

#: The threads of requests that wait for several providers: whichever hangs, it holds up no one's own.
_SEVERAL = "several"

_CHUNK = 64 << 10

_log = logging.getLogger(__name__)

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")


class Server:
    """Serves one listener until it is told to stop."""

    def __init__(self, service: Service, access: Access, rules: Rules) -> None:
        self._service = service
        self._access = access
        self._rules = rules
        #: By the provider that is waited for, or the kind of request; "": nobody is waited for.
        self._threads = defaultdict[str, trio.CapacityLimiter](lambda: trio.CapacityLimiter(MAX_THREADS))
        self._guests = Guests(access)
        self._proving = defaultdict[Principal, trio.CapacityLimiter](lambda: trio.CapacityLimiter(1))
        self._end = trio.CancelScope()

    async def serve(self, listener: Listener, ready: Callable[[], None]) -> None:
        """Call `ready` once connections are taken; return after Stop, SIGTERM or SIGINT."""
        with self._end:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._wait_for_signal)
                nursery.start_soon(self._tell_denials)
                await nursery.start(trio.serve_listeners, self._handle, [listener.trio_listener()])
                ready()

    async def _wait_for_signal(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                name = signal.Signals(number).name
                _log.info("ends by %s", name)
                self._service.recorder.record_if_possible(event("keyd stop", reason=name))
                self._end.cancel()

    async def _tell_denials(self) -> None:
        while True:
            await trio.sleep(denials.INTERVAL_S)
            await self._run("denials", self._rules.denials.tell_rest)

    async def _handle(self, stream: trio.SocketStream) -> None:
        peer = peer_of(stream.socket)
        try:
            with self._guests.entered(peer) as room, self._service.users.connected(peer):
                if room is not Room.CLOSED:
                    await _Conversation(self, stream, peer, room).run()
        except RemoteProtocolError as error:
            _log.warning("pid %d of uid %d is cut off: %s", peer.pid, peer.uid, error)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # killed, or gone for other reasons: nothing of ours is lost
        except Exception:  # one client never ends the daemon
            _log.exception("a bug, met by pid %d of uid %d", peer.pid, peer.uid)
        finally:
            await trio.aclose_forcefully(stream)

    async def greet(self, peer: Peer, hello: Hello, room: Room) -> tuple[Session | None, ReplyBody]:
        """The connection's session, and the answer: a Failure for who may not connect, or not for him."""
        try:
            return await self._run("hello", self._session, peer, hello, room)
        except IofltError as error:
            return None, failure.of(error)

    def _session(self, peer: Peer, hello: Hello, room: Room) -> tuple[Session, ReplyBody]:
        """Raises BusyError, DeniedError, UsageError, PeerError."""
        if not self._access.may_connect(peer):
            raise DeniedError(f"uid {peer.uid} may not ask this of keyd")
        if room is not Room.SERVED:
            raise BusyError(f"uid {peer.uid} has as many connections to keyd as there may be")
        if hello.operation == "mount" and not self._access.owns(peer):
            raise DeniedError("root makes the mounts of this machine")
        if hello.as_principal is not None and not self._access.owns(peer):
            raise DeniedError(f"uid {peer.uid} may not act for {hello.as_principal}")
        reply = welcome(hello)
        return Session.of(peer, hello), reply

    async def answer(self, session: Session, request: RequestBody) -> ReplyBody:
        """The reply, from a thread; a Failure for what this session may not do."""
        if isinstance(request, Hello):
            raise BugError("a connection is greeted once")
        if isinstance(request, GetAccess | ChangeAccess | ExplainAccess):
            reply = await self._run(
                "",
                administration.answer,
                self._rules.authority,
                self._service.recorder,
                self._rules.denials,
                session.caller,
                request,
            )
            if isinstance(request, ChangeAccess):
                self._rules.exports.review()
            return reply
        if isinstance(request, AwaitExport):
            raise BugError("a conversation waits for itself")
        guarded = Guarded(self._service, self._rules, session)
        if isinstance(request, _WAITING) or (isinstance(request, ReadEvents) and request.wait):
            return await self._run(type(request).__name__, answer, guarded, request)
        if not isinstance(request, _LONG):
            return await self._answer(guarded, request, "")
        async with self._proving[session.caller.principal]:
            return await self._answer(guarded, request, "proofs")

    async def _answer(self, guarded: Guarded, request: KeyRequest, sort: str) -> ReplyBody:
        """In a thread of that sort, unless providers are waited for."""
        allowed = frozenset[str]()
        while True:
            try:
                with outward.only_to(allowed):
                    return await self._run(sort, answer, guarded, request)
            except outward.GoesOut as out:
                sort = f"provider {out.provider}" if not allowed else _SEVERAL
                allowed |= {out.provider}

    async def _run(self, sort: str, call: Callable[[Unpack[_Args]], _T], *args: *_Args) -> _T:
        """In a thread of that sort."""
        return await trio.to_thread.run_sync(call, *args, abandon_on_cancel=True, limiter=self._threads[sort])

    async def await_export(self, session: Session) -> ReplyBody:
        """Why the session's export has to end, once it has to."""
        export = session.export
        if export is None:
            return failure.of(UsageError("this connection exports nothing"))
        ended, token = trio.Event(), trio.lowlevel.current_trio_token()
        self._rules.exports.on_end(export, lambda: token.run_sync_soon(ended.set))
        await ended.wait()
        return failure.of(export.ended or BugError("an export was told to end for no reason"))

    async def end_export(self, session: Session) -> None:
        """The session's connection is gone, and so is its export, if it has one."""
        if session.export is not None:
            with trio.CancelScope(shield=True):
                await self._run("", self._rules.exports.gone, session.export, self._service.recorder)

    def stop(self) -> None:
        """End `serve`."""
        _log.info("ends as it was asked to")
        self._end.cancel()


class _Conversation:
    """One client's connection."""

    def __init__(self, server: Server, stream: trio.SocketStream, peer: Peer, room: Room) -> None:
        self._server = server
        self._stream = stream
        self._peer = peer
        self._room = room
        self._connection = ServerConnection()

    async def run(self) -> None:
        """Serve until the client closes, breaks the protocol, or is refused."""
        hello = None
        with trio.move_on_after(HELLO_S):
            hello = await self._next_request()
        if not isinstance(hello, Hello):
            return
        session, reply = await self._server.greet(self._peer, hello, self._room)
        await self._send(reply)
        if session is None:
            return
        try:
            while (request := await self._next_request()) is not None:
                if isinstance(request, AwaitExport):
                    if not await self._await_export(session):
                        return
                    continue
                reply = await self._server.answer(session, request)
                await self._send(reply)
                if isinstance(request, Stop) and not isinstance(reply, failure.Failure):
                    self._server.stop()
        finally:
            if session.watched is not None:
                session.watched[0].close()
            await self._server.end_export(session)

    async def _await_export(self, session: Session) -> bool:
        """Answer once the export has to end; False when the client is gone before, or says something."""
        reply = None
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._stream.receive_some(_CHUNK)
                nursery.cancel_scope.cancel()

            nursery.start_soon(listen)
            reply = await self._server.await_export(session)
            nursery.cancel_scope.cancel()
        if reply is None:
            return False
        await self._send(reply)
        return True

    async def _next_request(self) -> RequestBody | None:
        while True:
            event = self._connection.next_event()
            if event is Pause.CLOSED:
                return None
            if event is not Pause.NEED_DATA:
                return event
            self._connection.receive_data(await self._stream.receive_some(_CHUNK))

    async def _send(self, reply: ReplyBody) -> None:
        try:
            frame = self._connection.send(reply)
        except IofltError as error:  # longer than a frame
            frame = self._connection.send(failure.of(error))
        finally:
            wipe_keys(reply)
        try:
            await self._stream.send_all(frame)
        finally:
            wipe(frame)
