"""Opening and closing: the backing file, its keys, the writer's lock.

A node that is open has one `OpenFile` for all its handles. The writer's lock is an OFD lock on the backing
file, one per mount and inode, held while a handle may write. Whoever comes while another mount has it waits
for up to `LOCK_WAIT_S`: a live migration opens the disk at its target before the source has let go.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, nullcontext
from typing import TypeVar

import trio

from ioflt import syscalls
from ioflt.datastore import files
from ioflt.datastore.container import Container
from ioflt.datastore.files import Made
from ioflt.datastore.newcontainer import New
from ioflt.datastore.openfile import OpenFile
from ioflt.datastore.plain import PlainFile
from ioflt.datastore.standing import Standing, Treatment
from ioflt.datastore.vmx import VmxFile
from ioflt.errors import BusyError, IntegrityError, ReadOnlyError
from ioflt.filters.trace import Counters
from ioflt.filters.written import Within, Written
from ioflt.fuse import kernel, tracking
from ioflt.fuse.gate import Gate
from ioflt.fuse.nodes import Node, Nodes
from ioflt.fuse.ranges import END

_T = TypeVar("_T")

#: Seconds that an open for writing waits for another mount's lock, and the pause between tries.
LOCK_WAIT_S = 5.0
_LOCK_PAUSE_S = 0.005


class Opener:
    """Opens and closes the files of a mount."""

    def __init__(
        self,
        nodes: Nodes,
        counters: Counters,
        limiter: trio.CapacityLimiter,
        asking: trio.CapacityLimiter,
        gate: Gate,
        written: Written,
    ) -> None:
        """`asking`: for the threads that may wait for keyd, so that I/O does not wait for them. `written` is
        told what is written to stored files.
        """
        self._nodes = nodes
        self._counters = counters
        self._limiter = limiter
        self._asking = asking
        self._gate = gate
        self._written = written

    async def acquire(self, node: Node, *, write: bool, made: Made | None = None) -> None:
        """One handle more. `made`: the file, just made, which is taken over.

        Raises BusyError, KeyUnavailableError, CorruptDataError, ReadOnlyError, OSError.
        """
        with ExitStack() as unused:
            if made is not None:
                unused.callback(made.close)
            await self._acquire(node, write, made, unused)

    async def _acquire(self, node: Node, write: bool, made: Made | None, unused: ExitStack) -> None:
        async with node.opening:
            self._gate.enter(node.shown, keyless=node.keyless)
            locked = False
            if node.file is None:
                node.home.enter()
                node.entered = node.home
                try:
                    standing = None if made is None else self._at_once(node, made)
                    if made is not None and standing is not None:
                        unused.pop_all()
                        node.file, locked = self._open_made(node, made, standing)
                    else:
                        node.file, locked = await self._ask(self._open, node, made, unused, write)
                except BaseException:  # cancelled, too: who did not open it does not count
                    node.entered.leave()
                    raise
            elif not write and node.writers == 0:
                await self._refresh(node, node.file)
            try:
                self._gate.enter(node.shown, keyless=node.keyless)  # a lock came meanwhile: no key stays
                if write:
                    await self._add_writer(node, locked=locked)
                else:
                    node.readers += 1
            except BaseException:  # cancelled, too: nobody else closes it
                self._close_if_unused(node)
                raise

    async def release(self, node: Node, *, write: bool) -> None:
        """One handle less. What had to be written was written by `flush`; the rest is memory."""
        async with node.opening:
            if write:
                if node.writers == 1:
                    node.note_told()
                node.writers -= 1
            else:
                node.readers -= 1
            if node.writers > 0 or (node.readers > 0 and not write):
                return
            async with node.ranges.hold(0, END, exclusive=True):  # the filler or a sync may be at work
                if write and node.file is not None:
                    if isinstance(node.file, (Container, PlainFile)) and node.file.changes is not None:
                        await self._in_thread(node.file.track, None)
                    if isinstance(node.file, Container):
                        node.file.leave()
                    syscalls.unlock(node.file.fd)
                self._close_if_unused(node)

    async def flush(self, node: Node) -> None:
        """Make a length or a VMX that changed durable, and tags."""
        file = node.file
        if file is None or file.closable:
            return
        async with node.ranges.hold(0, END, exclusive=True):
            await self.thread_for(file)(file.flush)

    async def _add_writer(self, node: Node, *, locked: bool) -> None:
        """`locked`: we have the writer's lock, and what is to be read was read under it."""
        file = node.file
        if file is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        standing = node.home.writable_now()
        if standing is None:
            standing = await self._ask(node.home.check_writable)
        self._check_treatment(node, standing)
        self._check_descriptor(node, file)
        if node.writers == 0:
            if not locked:
                await self._lock(node, file)
            try:
                if not locked:
                    await self._refresh(node, file)
                if tracking.concerns(node, file):  # of the others none pays a thread
                    await self._ask(tracking.begin, node, file)
            except BaseException:  # cancelled, too: the lock goes with the try
                syscalls.unlock(file.fd)
                raise
        node.writers += 1

    async def catch_up(self, node: Node) -> None:
        """For a container that nobody writes here: see what another mount did to it since we last looked."""
        if not self._behind(node):
            return
        async with node.ranges.hold(0, END, exclusive=True):
            if isinstance(node.file, Container) and self._behind(node) and not self._gate.locked:
                node.note_stamp()
                await self._in_thread(node.file.refresh)

    @staticmethod
    def _behind(node: Node) -> bool:
        return isinstance(node.file, Container) and node.writers == 0 and node.changed

    async def _refresh(self, node: Node, file: OpenFile) -> None:
        """Another mount may have written since the file was opened here."""
        if isinstance(file, (Container, VmxFile)):
            async with node.ranges.hold(0, END, exclusive=True):
                if isinstance(file, VmxFile):
                    await self._follow(node, file)
                before = file.length
                node.note_stamp()
                await self.thread_for(file)(file.refresh)
            if file.length != before:  # whoever appends must not do it where the kernel saw the end last
                await self._in_thread(kernel.forget_attributes, node.number)

    async def _follow(self, node: Node, file: VmxFile) -> bool:
        """Another mount's commit put another backing inode in the place of a VMX."""
        if not await self._in_thread(file.follow):
            return False
        node.rebind()
        self._nodes.identity_changed(node)
        return True

    async def _lock(self, node: Node, file: OpenFile) -> None:
        with trio.move_on_after(LOCK_WAIT_S):
            while True:
                while not syscalls.try_write_lock(file.fd):  # noqa: ASYNC110 # other processes send no event
                    await trio.sleep(_LOCK_PAUSE_S)
                if not (isinstance(file, VmxFile) and await self._follow(node, file)):
                    return
        raise BusyError("open for writing in another mount, or by another program", file=node.shown)

    @staticmethod
    def _at_once(node: Node, made: Made) -> Standing | None:
        """By what to open it where that takes no wait: 0.2 ms, of which a thread would be as much again."""
        known = node.home.writable_now()
        if made.new is None or made.new.header.tagged or known is None or known.record is None:
            return None
        return None if known.record.clear_files else known

    def _open(self, node: Node, made: Made | None, unused: ExitStack, write: bool) -> tuple[OpenFile, bool]:
        """In a worker thread. With `write`, also returns whether it has the writer's lock: `_try_lock`."""
        unused.pop_all()  # from here on what cannot be used is closed here
        if made is not None:
            return self._open_made(node, made)
        standing = node.home.standing()
        if os.stat(node.path_fd).st_nlink == 0 and not node.unlinked:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))  # replaced; the kernel looks it up again
        read_only = node.home.volume.read_only or standing.problem is not None
        fd = -1
        if not read_only:
            try:
                fd = node.reopen(os.O_RDWR)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY):
                    raise
                read_only = True
        if fd < 0:
            fd = node.reopen(os.O_RDONLY)
        return self._open_file(node, fd, writable=not read_only, write=write)

    def _open_made(self, node: Node, made: Made, standing: Standing | None = None) -> tuple[OpenFile, bool]:
        try:
            with node.home.steady() if standing is None else nullcontext(standing) as known:
                node.treatment = self._treatment(node, made.fd, known)
            locked = self._try_lock(node, made.fd)
        except BaseException:  # nobody else closes it
            made.close()
            raise
        return self._open_treated(node, made.fd, writable=True, new=made.new), locked

    def _open_file(self, node: Node, fd: int, *, writable: bool, write: bool) -> tuple[OpenFile, bool]:
        try:
            with node.home.steady() as standing:
                node.treatment = self._treatment(node, fd, standing)
            locked = write and writable and self._try_lock(node, fd)
        except BaseException:  # nobody else closes it
            os.close(fd)
            raise
        return self._open_treated(node, fd, writable=writable), locked

    @staticmethod
    def _try_lock(node: Node, fd: int) -> bool:
        """Take the writer's lock before anything is read, if nobody has it: else that would have to be read
        again, by another thread (0.3 ms of an open). A VMX may be replaced until it is locked: see `_lock`.
        """
        return node.treatment is not Treatment.VMX and syscalls.try_write_lock(fd)

    def _open_treated(self, node: Node, fd: int, *, writable: bool, new: New | None = None) -> OpenFile:
        node.note_stamp()
        try:
            return files.open_file(
                node.home,
                fd,
                node.treatment,
                writable=writable,
                place=node.place,
                counters=self._counters,
                name=node.shown,
                written=Within(self._written, lambda: node.home),
                new=new,
            )
        except IntegrityError as error:  # of its tags, which do not know the file's name
            error.file = error.file or node.shown
            raise

    @staticmethod
    def _treatment(node: Node, fd: int, standing: Standing) -> Treatment:
        """How the file `fd` is stored, whose name may be listed in the home's record."""
        record = standing.record
        if record is None or not record.clear_files or node.parent is None:
            return node.home.treatment(node.path, fd, standing)
        if node.unlinked:  # it has no name any more
            return node.treatment
        try:
            info = os.stat(node.name, dir_fd=node.parent.path_fd, follow_symlinks=False)
        except FileNotFoundError:
            info = None
        if info is None or not os.path.samestat(info, os.fstat(fd)):  # another mount renamed it
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return node.home.treatment(node.home.path_of(node.parent.path_fd, node.name), fd, standing)

    def _check_treatment(self, node: Node, standing: Standing) -> None:
        """The home may have been converted while the file was open for reading: never write the old way."""
        if node.unlinked:
            return
        clear = node.treatment is Treatment.CLEAR
        if clear != (node.home.treatment(node.path, standing=standing) is Treatment.CLEAR):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    @staticmethod
    def _check_descriptor(node: Node, file: OpenFile) -> None:
        """What may not be written was opened for reading: the file system says why."""
        if fcntl.fcntl(file.fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            os.close(node.reopen(os.O_RDWR))
            raise ReadOnlyError("it was opened when it could not be written", file=node.shown)

    def _close_if_unused(self, node: Node) -> None:
        if node.readers == 0 and node.writers == 0 and node.file is not None:
            # also when closing fails, as network file systems do: the descriptor is gone, and its number free
            file, node.file = node.file, None
            node.entered.leave()
            file.close()

    def thread_for(self, file: OpenFile) -> Callable[..., Awaitable[None]]:
        """Where the file is written back or looked at again: a VMX needs its key for that."""
        return self._ask if isinstance(file, VmxFile) else self._in_thread

    async def _ask(self, call: Callable[..., _T], *args: object) -> _T:
        """What may ask keyd, and wait for it."""
        return await trio.to_thread.run_sync(call, *args, limiter=self._asking)

    async def _in_thread(self, call: Callable[..., _T], *args: object) -> _T:
        return await trio.to_thread.run_sync(call, *args, limiter=self._limiter)
