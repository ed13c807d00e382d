"""What the handlers of a mount share: its state, and the way from a name to a node."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import TypeVar
from weakref import WeakKeyDictionary

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, RequestContext

from ioflt.datastore.container import Container
from ioflt.datastore.copies import Copies
from ioflt.datastore.home import Home
from ioflt.datastore.openfile import OpenFile
from ioflt.datastore.standing import is_private
from ioflt.datastore.vmx import VmxFile
from ioflt.datastore.volume import Volume
from ioflt.errors import IntegrityError, IofltError
from ioflt.filters.trace import Counters
from ioflt.filters.written import Written
from ioflt.fuse import fastpath
from ioflt.fuse.closing import Closer
from ioflt.fuse.events import Events
from ioflt.fuse.filler import Filler
from ioflt.fuse.forgetting import Forgetter
from ioflt.fuse.gate import Gate
from ioflt.fuse.handles import FileHandle, Handles
from ioflt.fuse.nodes import Node, Nodes, identity_of
from ioflt.fuse.opening import Opener
from ioflt.fuse.told import Refusals

#: Worker threads: enough for a queue depth of 16 on several disks, few enough for a small machine.
THREADS = 32

#: Requests that are served at once. As many threads may wait for keyd, which may wait for a key server that
#: hangs: then there are requests and threads left for all who need no key of that server.
REQUESTS = 1024

_T = TypeVar("_T")


class Served(pyfuse3.Operations):
    """One mount of a volume. Extended attributes stay undefined on purpose: the kernel then asks once, where
    a handler would be asked for `security.capability` before every write (29.7k → 14.5k IOPS).
    """

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, volume: Volume, events: Events) -> None:
        super().__init__()
        self.volume = volume
        self.events = events
        self.gate = Gate(fastpath.shut_all)
        self.counters = Counters()
        self.written = Written()
        self.handles = Handles()
        self.copies = Copies(volume)
        root_fd = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=volume.fd)
        self.closer = Closer()
        self.nodes = Nodes(Node(root_fd, os.stat(root_fd), volume.root, None, ""), self.closer.close)
        self._limiter = trio.CapacityLimiter(THREADS)
        self._asking = trio.CapacityLimiter(REQUESTS)  # those that may wait for keyd
        self.opener = Opener(self.nodes, self.counters, self._limiter, self._asking, self.gate, self.written)
        self.filler = Filler(self.gate, self._limiter)
        self.forgetter = Forgetter()
        #: One change of names at a time in each home.
        self._names: WeakKeyDictionary[Home, trio.Lock] = WeakKeyDictionary()
        self._refusals = Refusals()
        self._nowait = True  # whether the backing file system knows RWF_NOWAIT

    def damaged(self, error: IntegrityError) -> None:
        """An event tells of sectors that do not verify, and of which VM they are."""
        home = None
        with suppress(IofltError):  # it is gone; then it is the datastore's
            home = self.volume.home((error.file or "").partition("/")[0])
        self.events.damaged(error, home)

    async def _in_thread(self, call: Callable[..., _T], *args: object) -> _T:
        return await trio.to_thread.run_sync(call, *args, limiter=self._limiter)

    async def _handle(self, node: Node, *, writes: bool) -> FileHandleT:
        """The number of one more open(2), for which `opener` has the file. Raises MemoryError."""
        number = self.handles.add_file(FileHandle(node, writes))
        try:
            if node.file is not None and node.file.compiles:
                async with node.fast:
                    node.fast.add(number)
        except BaseException:  # cancelled, too: the kernel never hears of it
            del self.handles.files[number]
            node.fast.drop(number)
            with trio.CancelScope(shield=True):
                await self.opener.release(node, write=writes)
            raise
        return FileHandleT(number)

    def _check_name(self, node: Node, ctx: RequestContext) -> None:
        """Before a file is acted upon that the kernel knows by a name. Raises OSError ESTALE."""
        self._refusals.check(ctx.pid, node.number, holds=self.nodes.told.hold(node))

    def _check_told(self, node: Node, ctx: RequestContext) -> None:
        """Before an open, as well: an append goes to where the kernel has the end. Raises OSError ESTALE."""
        holds = self.nodes.told.hold(node) and node.attributes_hold()
        self._refusals.check(ctx.pid, node.number, holds=holds)

    async def _ask(self, call: Callable[..., _T], *args: object) -> _T:
        """What may ask keyd, and wait for it."""
        return await trio.to_thread.run_sync(call, *args, limiter=self._asking)

    async def _lookup(self, parent: Node, name: str) -> Node:
        if parent.is_top and is_private(name):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        if parent.parent is not None:
            node = self.nodes.find(os.stat(name, dir_fd=parent.path_fd, follow_symlinks=False))
            if node is not None:
                node.found(parent, name, parent.home)
                return node
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent.path_fd)
        home, standing = parent.home, None
        try:
            mode = os.stat(fd).st_mode
            if parent.parent is None and stat.S_ISDIR(mode):
                home = self._home(name, fd)
                if self.copies.is_new(home) and not self.volume.read_only:
                    await self._in_thread(self.copies.meet, home)
            if stat.S_ISREG(mode):  # nothing else is stored in two ways
                standing = home.known() or await self._ask(home.unverified)
        except BaseException:  # nobody else closes it
            os.close(fd)
            raise
        node = self.nodes.enter(parent, name, home, fd, standing)
        for idle in self.nodes.surplus():
            self.forgetter.ask(idle)
        return node

    def _home(self, name: str, path_fd: int) -> Home:
        return self.volume.adopt(
            name, os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=path_fd)
        )

    @staticmethod
    def _directory_of(node: Node) -> Node:
        if node.parent is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return node.parent

    async def _settle(self, node: Node, action: Callable[[Node], Awaitable[None]]) -> None:
        """Flush or sync; a VMX may have another backing inode afterwards."""
        if self.gate.closed:
            await self.gate.write(node.shown, keyless=node.keyless, homes=(node.home,))
        async with self._steady(node):
            await action(node)
            self._rebind(node)

    def _steady(self, node: Node) -> AbstractAsyncContextManager[object]:
        """A commit of a VMX replaces the file of its name: meanwhile no name may change."""
        return self._names_of(node.home) if isinstance(node.file, VmxFile) else nullcontext()

    def _names_of(self, home: Home) -> trio.Lock:
        """Held while a name of the home changes, its own one included."""
        return self._names.setdefault(home, trio.Lock())

    def _rebind(self, node: Node) -> None:
        if isinstance(node.file, VmxFile) and identity_of(os.fstat(node.file.fd)) != node.identity:
            node.rebind()
            self.nodes.identity_changed(node)

    def _start_filler(self, node: Node) -> None:
        if isinstance(node.file, Container) and node.file.unfilled and node.writers:
            self.filler.start(node)


def entry(node: Node) -> EntryAttributes:
    """What answers a request by which the kernel takes one more reference to the node."""
    attributes = node.attributes()
    node.lookups += 1
    return attributes


def file_of(node: Node) -> OpenFile:
    if node.file is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return node.file
