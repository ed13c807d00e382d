"""A mount's control socket: status, lock and unlock, header changes, quiesce.

One task per client, one request at a time per client; `_commands` lets one state change run at a time.
Only the uid that runs the mount, and root, are listened to.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import trio

from ioflt import syscalls
from ioflt.crypto.secret import Secret
from ioflt.datastore import files, recovery
from ioflt.datastore.container import Container
from ioflt.datastore.home import Home
from ioflt.datastore.standing import Treatment, stored_as
from ioflt.datastore.vmx import VmxFile
from ioflt.datastore.wrapping import Change, change_container, changed_vmx
from ioflt.errors import (
    BusyError,
    IofltError,
    KeyUnavailableError,
    NotFoundError,
    PeerError,
    UnsupportedError,
    UsageError,
)
from ioflt.filters.written import Area, Watch, Written
from ioflt.fuse import fastpath, tracking
from ioflt.fuse.nodes import Node
from ioflt.fuse.operations import Operations
from ioflt.fuse.ranges import END
from ioflt.fuse.turns import Turns
from ioflt.transport.listener import Listener
from ioflt.transport.unix import peer_of
from ioflt.wire import failure
from ioflt.wire.control import messages
from ioflt.wire.control.connection import requests, write
from ioflt.wire.frame import Pause, RemoteProtocolError

_CHUNK = 64 << 10

_log = logging.getLogger("ioflt.mount")

_T = TypeVar("_T")


class Control:
    """Serves the control socket of one mount."""

    def __init__(self, operations: Operations, mountpoint: str) -> None:
        self._operations = operations
        self._mountpoint = mountpoint
        self._commands = trio.Lock()
        self._turns = Turns()

    async def serve(
        self, listener: Listener, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Runs until cancelled."""
        async with trio.open_nursery() as self._limits:
            await trio.serve_listeners(self._handle, [listener.trio_listener()], task_status=task_status)

    async def _handle(self, stream: trio.SocketStream) -> None:
        peer = peer_of(stream.socket)
        client = _Client(self)
        try:
            if peer.uid not in (0, os.geteuid()):
                return
            await client.run(stream)
        except RemoteProtocolError as error:
            _log.warning("control: pid %d is cut off: %s", peer.pid, error)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # gone in mid-answer: what it asked for was done
        except Exception:  # one client never ends the mount
            _log.exception("control: a bug, met by pid %d", peer.pid)
        finally:
            client.end()
            client.end_watch()
            await trio.aclose_forcefully(stream)

    async def answer(self, client: _Client, request: messages.RequestBody) -> messages.ReplyBody:
        """The reply to one request; errors travel as Failure."""
        try:
            # Whoever has the lock may wait for just this; what is written concerns no state; and a quiesce
            # takes the lock itself, once it is its turn.
            if isinstance(
                request, messages.Resume | messages.Watch | messages.TakeWritten | messages.Quiesce
            ):
                return await self._do(client, request)
            async with self._commands:
                return await self._do(client, request)
        except IofltError as error:
            return failure.of(error)
        except OSError as error:
            return failure.of(PeerError(f"the mount failed: {error}"))

    async def _do(self, client: _Client, request: messages.RequestBody) -> messages.ReplyBody:
        if isinstance(request, messages.Hello):
            if request.version != messages.VERSION:
                raise UnsupportedError("unknown version", f"control protocol {request.version}")
            client.greeted = True
            return self._status()
        if not client.greeted:
            raise PeerError("Hello comes first")
        if isinstance(request, messages.Lock):
            return await self._lock(request.mode)
        if isinstance(request, messages.Unlock):
            await self._unlock()
        elif isinstance(request, messages.AddKeyslot):
            with Secret(request.passphrase) as passphrase:
                request.passphrase[:] = bytes(len(request.passphrase))
                number = await self._on_container(
                    request.path, lambda fd: recovery.add_slot(fd, self._operations.volume.keys, passphrase)
                )
            return messages.Keyslot(number)
        elif isinstance(request, messages.RemoveKeyslot):
            await self._on_container(request.path, lambda fd: recovery.remove_slot(fd, request.number, None))
        elif isinstance(request, messages.RestoreHeader):
            keys = self._operations.volume.keys
            await self._on_container(
                request.path, lambda fd: recovery.restore_header(fd, keys, request.backup)
            )
        elif isinstance(request, messages.Rewrap):
            ensure, drop = (tuple(key.ref for key in keys) for keys in (request.ensure, request.drop))
            await self.rewrap(request.path, Change(ensure, drop))
        elif isinstance(request, messages.Quiesce):
            await self._quiesce(client, request)
        elif isinstance(request, messages.Resume):
            client.resume()
        elif isinstance(request, messages.Watch):
            client.begin_watch(await self._home(request.home))
            await self._operations.reopen_fast()
        elif isinstance(request, messages.TakeWritten):
            return client.take_written()
        elif isinstance(request, messages.TrackChanges):
            return messages.Tracked(await tracking.switch(self._written(request.path), on=request.on))
        elif isinstance(request, messages.TakeChangeId):
            taken = await tracking.take(self._written(request.path), request.at_least)
            return messages.ChangeIdTaken(taken.uuid, taken.sequence)
        elif isinstance(request, messages.ChangedAreas):
            return await tracking.areas(self._written(request.path), request.since, request.start)
        else:
            await self._invalidate(request.path)
        return messages.Done()

    async def _quiesce(self, client: _Client, request: messages.Quiesce) -> None:
        home = None if request.home is None else await self._home(request.home)
        if home is not None and not client.quiesces:
            await self._turns.await_own(home)
        async with self._commands:
            if not client.quiesces:
                if home is not None:
                    self._turns.begin(home)
                client.begin(request.limit, home)
                self._operations.gate.hold_writes(home)
            elif client.home is not home:
                raise UsageError("this connection has other writes wait already")
            await self._operations.sync_all(home)

    async def _home(self, asked: messages.Home) -> Home:
        """The home with that directory and that id. Raises NotFoundError."""

        def found() -> Home:
            volume = self._operations.volume
            for name in volume.homes():
                with suppress(FileNotFoundError):  # gone meanwhile
                    info = os.stat(name, dir_fd=volume.fd, follow_symlinks=False)
                    if (info.st_dev, info.st_ino) == (asked.device, asked.inode):
                        home = volume.home(name)
                        record = home.unverified().record
                        if record is not None and record.home_id == asked.id:
                            return home
            raise NotFoundError("no such VM in this mount")

        return await _in_thread(found)

    def release_writes(self, home: Home | None) -> None:
        """End a quiesce."""
        if home is not None:
            self._turns.end(home)
        self._operations.gate.release_writes(home)

    @property
    def limits(self) -> trio.Nursery:
        """For what ends quiesces at their limits, whatever else is under way."""
        return self._limits

    @property
    def written(self) -> Written:
        """What tells of writes to stored files."""
        return self._operations.written

    def _status(self) -> messages.Status:
        operations = self._operations
        return messages.Status(
            datastore=failure.shown(operations.volume.path),
            mountpoint=failure.shown(self._mountpoint),
            pid=os.getpid(),
            read_only=operations.volume.read_only,
            locked=operations.gate.locked,
            open_files=len(operations.handles.files),
            statistics=fastpath.add_to(operations.counters),
        )

    # Locking

    async def _lock(self, mode: messages.LockMode) -> messages.ReplyBody:
        """Before the DEKs go: pages dropped and dirty ones written while writes are still served, then I/O
        stopped, lengths and VMX committed, all synced.

        Writes leave pages, too. Those that came meanwhile are dropped last, where nothing that waits has a
        page: of all files when I/O fails, of closed ones when it waits. Open ones are named in the answer.
        """
        operations = self._operations
        names = self._open_names()
        if mode == "refuse" and names:
            return messages.Busy(names)
        if operations.gate.locked:
            if mode == "force":
                operations.gate.deny()
            return messages.Locked(names, ())  # all else was done, and pages that wait cannot be dropped
        operations.gate.begin(deny_reads=mode == "force")
        try:
            await operations.drop_pages()
        except BaseException:  # cancelled, too: the gate does not stay shut
            operations.gate.open()
            raise
        if mode == "refuse" and (names := self._open_names()):  # an open was under way
            operations.gate.open()
            return messages.Busy(names)
        if mode == "force":
            operations.gate.deny()
        else:
            operations.gate.suspend()
        unflushed = await operations.sync_all()
        for node in operations.nodes.all():
            async with node.ranges.hold(0, END, exclusive=True):
                if isinstance(node.file, (Container, VmxFile)):
                    node.file.wipe()
        for node in operations.nodes.all():
            if mode == "force" or node.file is None:
                await operations.drop_pages(node)
        _log.info("locked (%s)", mode)
        return messages.Locked(self._open_names(), tuple(failure.shown(name) for name in unflushed))

    async def _unlock(self) -> None:
        operations = self._operations
        if not operations.gate.locked:
            return
        for node in operations.nodes.all():
            async with node.ranges.hold(0, END, exclusive=True):
                file = node.file
                if not isinstance(file, (Container, VmxFile)):
                    continue
                try:
                    await _in_thread(lambda file=file: file.rekey(operations.volume.keys))
                except KeyUnavailableError:
                    raise
                except (IofltError, OSError) as error:
                    _log.error("%s stays shut after the unlock: %s", node.shown, error)
        operations.gate.open()
        operations.resume_filling()
        _log.info("unlocked")

    def _open_names(self) -> tuple[str, ...]:
        """What is open and needs a key."""
        handles = self._operations.handles.files.values()
        names = sorted({handle.node.shown for handle in handles if not handle.node.keyless})
        return tuple(failure.shown(name) for name in names[: messages.MAX_PATHS])

    # Containers

    async def _on_container(self, path: str, action: Callable[[int], _T]) -> _T:
        """Do something to a container's header, whether it is open in this mount or not."""
        node = self._find(path)
        if node is not None:
            async with node.opening:  # it stays open, or closed, until the header is written
                if node.writers and isinstance(node.file, Container):
                    return await _in_thread(action, node.file.fd)

        def on_closed() -> _T:
            fd = self._open_backing(path)
            try:
                if not syscalls.try_write_lock(fd):
                    raise BusyError("open for writing in another mount", file=path)
                return action(fd)
            finally:
                os.close(fd)

        return await _in_thread(on_closed)

    async def rewrap(self, path: str, change: Change) -> None:
        """Change the keys of a file, whether it is open in this mount or not."""
        operations = self._operations
        keys = operations.volume.keys
        if operations.gate.locked:
            raise BusyError("the mount is locked", file=path)
        node = self._find(path)
        if node is not None and node.writers and isinstance(node.file, VmxFile):
            await operations.reseal(node, lambda text: changed_vmx(text, keys, change))
        elif stored_as(path) is Treatment.VMX:
            raise BusyError("open for writing in another mount", file=path)
        else:
            await self._on_container(path, lambda fd: change_container(fd, keys, change))
        _log.info("%s: opens by %s now", path, ", ".join(map(str, change.ensure)))

    def _written(self, path: str) -> Node:
        """The node of a file that is open for writing in this mount. Raises BusyError."""
        if self._operations.gate.locked:
            raise BusyError("the mount is locked", file=path)
        node = self._find(path)
        if node is None or node.writers == 0:
            raise BusyError("open for writing in another mount", file=path)
        return node

    def _find(self, path: str) -> Node | None:
        try:
            fd = syscalls.open_beneath(self._operations.volume.fd, path, os.O_PATH)
        except OSError as error:
            raise NotFoundError(os.strerror(error.errno or 0), file=path) from error
        try:
            return self._operations.nodes.find(os.stat(fd))
        finally:
            os.close(fd)

    def _open_backing(self, path: str) -> int:
        directory, name = os.path.split(path)
        dir_fd = syscalls.open_beneath(
            self._operations.volume.fd, directory or ".", os.O_PATH | os.O_DIRECTORY
        )
        try:
            return files.open_regular(dir_fd, name, os.O_RDWR)
        finally:
            os.close(dir_fd)

    async def _invalidate(self, path: str) -> None:
        operations = self._operations
        node = self._find(path)
        if node is not None and node.file is None and node.treatment is not Treatment.VMX:
            await operations.drop_pages(node)


class _Client:
    """One connection."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self.greeted = False
        self.quiesces = False
        self.home: Home | None = None  # whose writes wait; None: all
        self._limit = trio.CancelScope()  # of what ends the quiesce at its limit
        self._ended = False
        self._watch: Watch | None = None
        self._taken: list[Area] = []

    async def run(self, stream: trio.SocketStream) -> None:
        buffer = requests()
        while True:
            event = buffer.next_event()
            if event is Pause.CLOSED:
                return
            if event is Pause.NEED_DATA:
                buffer.receive_data(await stream.receive_some(_CHUNK))
                continue
            await stream.send_all(write(await self._control.answer(self, event)))

    def begin(self, limit: int | None, home: Home | None) -> None:
        """A quiesce of no more than so many seconds."""
        self.quiesces, self._ended, self.home = True, False, home
        if limit is not None:
            self._control.limits.start_soon(self._end_after, limit, self._limit)

    async def _end_after(self, limit: int, scope: trio.CancelScope) -> None:
        with scope:
            await trio.sleep(limit)
            _log.warning("control: writes were held back as long as was asked for, and go on")
            self.end()
            self._ended = True

    def resume(self) -> None:
        """Raises BusyError where its limit ended it."""
        if self._ended:
            self._ended = False
            raise BusyError("writes were held back for as long as was asked for, and went on")
        self.end()

    def end(self) -> None:
        """A quiesce ends with the connection that asked for it."""
        self._limit.cancel()
        self._limit = trio.CancelScope()
        if self.quiesces:
            self.quiesces = False
            self._control.release_writes(self.home)

    def begin_watch(self, home: Home) -> None:
        """Raises UsageError where another one is watched."""
        if self._watch is None:
            self._watch = self._control.written.watch(home)
        elif self._watch.home is not home:
            raise UsageError("a connection watches one VM")

    def take_written(self) -> messages.WrittenAreas:
        """Raises UsageError where nothing is watched."""
        if self._watch is None:
            raise UsageError("Watch comes first")
        if not self._taken:
            self._taken = self._watch.take()
        now, self._taken = self._taken[: messages.MAX_AREAS], self._taken[messages.MAX_AREAS :]
        return messages.WrittenAreas(tuple(now), more=bool(self._taken))

    def end_watch(self) -> None:
        """As a quiesce."""
        if self._watch is not None:
            self._control.written.end(self._watch)
            self._watch = None


async def _in_thread(call: Callable[..., _T], *args: object) -> _T:
    return await trio.to_thread.run_sync(call, *args)
