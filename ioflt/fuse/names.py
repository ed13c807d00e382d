"""Requests that look for names and change them, directories included."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, nullcontext

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FileNameT, InodeT, ModeT, RequestContext

from ioflt import syscalls
from ioflt.datastore import atomic, files, namespace
from ioflt.datastore.files import Made
from ioflt.datastore.home import Home
from ioflt.datastore.standing import is_private, stored_as
from ioflt.fuse.errnos import translated
from ioflt.fuse.handles import DirHandle
from ioflt.fuse.nodes import Node
from ioflt.fuse.ranges import END
from ioflt.fuse.served import Served, entry, file_of

#: Seconds in which names that the kernel is to let go of come to their turn.
CROWDED_PAUSE_S = 0.005


class Names(Served):
    """Handlers for names."""

    @translated
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        parent, text = self.nodes[parent_inode], os.fsdecode(name)
        try:
            node = await self._lookup(parent, text)
        except FileNotFoundError:
            self.nodes.told.gone(parent, text)
            self._refusals.looked(ctx.pid, None)
            raise
        self._refusals.looked(ctx.pid, node.number)
        self.nodes.told.tell(parent, text, node)
        return entry(node)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for inode, lookups in inode_list:
            self.nodes.forget(inode, lookups)

    @translated
    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        home = self.nodes[parent_inode].home
        home.enter()  # until it is open: in between nobody gives it other data keys
        try:
            node, made = await self._create(parent_inode, name, mode, ctx)
            node.lookups += 1  # holds the node while the file is being opened
            try:
                await self.opener.acquire(node, write=True, made=made)
                if self.events.is_first(node, ctx.uid):
                    self.events.opened(node, ctx.uid)
                fh = await self._handle(node, writes=True)
                self.nodes.told.tell(self.nodes[parent_inode], os.fsdecode(name), node)
                return FileInfo(fh=fh, direct_io=False, keep_cache=False), node.attributes()
            except BaseException:  # cancelled, too: the reference goes with the try
                node.lookups -= 1
                self.nodes.drop_unused(node)
                raise
        finally:
            home.leave()

    @translated
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        if stat.S_ISREG(mode):
            node, made = await self._create(parent_inode, name, mode, ctx)
            made.close()
            self.nodes.told.tell(self.nodes[parent_inode], os.fsdecode(name), node)
            return entry(node)

        def make(dir_fd: int, text: str) -> None:
            os.mknod(text, mode & ~ctx.umask, rdev, dir_fd=dir_fd)

        return await self._make(parent_inode, name, ctx, make, os.unlink)

    @translated
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        mode = ModeT(mode & ~ctx.umask)

        def make_home(_dir_fd: int, text: str) -> None:
            self.volume.make_home(text, mode)

        def remove_home(text: str, *, dir_fd: int) -> None:
            self.volume.remove_home(text)

        def make(dir_fd: int, text: str) -> None:
            os.mkdir(text, mode, dir_fd=dir_fd)

        if parent_inode == pyfuse3.ROOT_INODE:
            return await self._make(parent_inode, name, ctx, make_home, remove_home)
        return await self._make(parent_inode, name, ctx, make, os.rmdir)

    @translated
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        def make(dir_fd: int, text: str) -> None:
            os.symlink(target, os.fsencode(text), dir_fd=dir_fd)

        return await self._make(parent_inode, name, ctx, make, os.unlink)

    @translated
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        node = self.nodes[inode]
        parent, text = self._target(new_parent_inode, new_name)
        await self.events.room()

        def make() -> None:
            namespace.release(parent.home, parent.path_fd, text)
            with parent.home.acting():
                link()

        def link() -> None:
            treatment = node.treatment if node.is_regular else None
            namespace.check_link(node.home, treatment, parent.home, text)
            if node.format == stat.S_IFLNK:  # a symlink has no path through /proc that does not follow it
                self._link_symlink(node, parent, text)
            else:
                source = f"/proc/self/fd/{node.path_fd}"
                os.link(source, text, dst_dir_fd=parent.path_fd, follow_symlinks=True)

        self._check_name(node, ctx)
        async with self._changing(parent.home, nodes=[node]):
            await self._ask(make)
            self.events.linked(parent, text, ctx.uid)
        node.unlinked = False
        self.nodes.told.tell(parent, text, node)
        return entry(node)

    @translated
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self._remove(parent_inode, name, os.unlink, ctx)

    @translated
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        if parent_inode != pyfuse3.ROOT_INODE:
            await self._remove(parent_inode, name, os.rmdir, ctx)
            return
        parent, text = self._target(parent_inode, name)  # of a home: the datastore's record is no matter
        await self.events.room()
        async with self._changing(parent.home, nodes=[self._known(parent, text)]):
            victim = self._known(parent, text)
            home = parent.home if victim is None else victim.home
            await self._meet(home)
            about = self.events.about(home)
            await self._ask(self.volume.remove_home, text)
            self.events.home_removed(about, ctx.uid)
            self._note_unlinked(victim)

    @translated
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        parent, old = self._target(parent_inode_old, name_old)
        new_parent, new = self._target(parent_inode_new, name_new)
        await self.events.room()
        node = await self._lookup(parent, old)
        self._check_renamed(parent, old, node, ctx)
        if flags & syscalls.RENAME_EXCHANGE:
            self._check_renamed(new_parent, new, await self._lookup(new_parent, new), ctx)
        move = namespace.Move(
            parent.home, parent.path_fd, old, new_parent.home, new_parent.path_fd, new, flags,
            is_dir=node.is_dir, top=parent.parent is None, new_top=new_parent.parent is None,
        )  # fmt: skip
        node.lookups += 1  # holds the node meanwhile
        try:
            converts = node.is_regular and not move.exchanges and await self._ask(lambda: move.converts)
            replaced = self._known(new_parent, new)
            # The writer's lock may be long in coming; nobody else's names wait for it.
            async with (
                self._held_for_writing(node) if converts else nullcontext(),
                self._changing(parent.home, new_parent.home, nodes=[node, replaced]),
            ):
                if await self._lookup(parent, old) is not node:
                    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
                was = node.shown
                await self._rename(node, move, new_parent, converts=converts)
                self.events.renamed(node, was, ctx.uid, replaces=replaced is not None)
        finally:
            node.lookups -= 1
            self.nodes.drop_unused(node)

    @translated
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        return FileNameT(os.readlink(b"", dir_fd=self.nodes[inode].path_fd))

    @translated
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        node = self.nodes[inode]
        if not node.is_dir:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return FileHandleT(self.handles.add_directory(DirHandle(node)))

    @translated
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        handle = self.handles.directories[fh]
        directory = handle.node
        if start_id == 0:
            handle.names = [".", "..", *self._list(directory)]
        for index in range(start_id, len(handle.names)):
            name = handle.names[index]
            dots = {".": directory, "..": directory.parent or directory}.get(name)
            try:
                node = dots or await self._lookup(directory, name)
                attributes = node.attributes()
            except FileNotFoundError:  # gone meanwhile
                continue
            except OSError:  # never as if the name were not there; the next call begins with it, and fails
                if index == start_id:
                    raise
                return
            if not pyfuse3.readdir_reply(token, FileNameT(os.fsencode(name)), attributes, index + 1):
                self.nodes.drop_unused(node)
                return
            if dots is None:  # the kernel takes no reference by way of the two
                self.nodes.told.tell(directory, name, node)
                node.lookups += 1
            if self.nodes.crowded:  # while the kernel waits for an answer it lets go of no name here
                await trio.sleep(CROWDED_PAUSE_S)
                return

    async def releasedir(self, fh: FileHandleT) -> None:
        self.handles.directories.pop(fh)

    @translated
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        await self._in_thread(atomic.sync_directory, self.handles.directories[fh].node.path_fd)

    def _target(self, parent_inode: int, name: FileNameT) -> tuple[Node, str]:
        """The directory and name of a change. Our own files are out of reach (EPERM)."""
        parent = self.nodes[parent_inode]
        text = os.fsdecode(name)
        if parent.is_top and is_private(text):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        if self.volume.read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return parent, text

    def _known(self, parent: Node, name: str) -> Node | None:
        """The node that the name stands for now, if the kernel knows it."""
        try:
            return self.nodes.find(os.stat(name, dir_fd=parent.path_fd, follow_symlinks=False))
        except FileNotFoundError:
            return None

    @staticmethod
    def _note_unlinked(node: Node | None) -> None:
        if node is not None and (node.is_dir or os.stat(node.path_fd).st_nlink == 0):
            node.unlinked = True

    async def _create(
        self, parent_inode: int, name: FileNameT, mode: int, ctx: RequestContext
    ) -> tuple[Node, Made]:
        """A new regular file, and what made it, which may write whatever its mode."""
        parent, text = self._target(parent_inode, name)
        owner = (ctx.uid, self._group(parent, ctx))
        mode = stat.S_IMODE(mode) & ~ctx.umask

        def make() -> Made:
            namespace.release(parent.home, parent.path_fd, text)
            return files.make(parent.home, parent.path_fd, text, mode=mode, owner=owner)

        await self.events.room()
        await self._have_keys(parent.home)
        async with self._changing(parent.home):
            made = await self._ask(make)
            try:
                node = await self._lookup(parent, text)
                self.events.created(node, ctx.uid)
                return node, made
            except BaseException:  # nobody else closes it
                made.close()
                raise

    async def _make(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        ctx: RequestContext,
        make: Callable[[int, str], None],
        undo: Callable[..., None],
    ) -> EntryAttributes:
        """Make something that is no regular file, as the caller's own."""
        parent, text = self._target(parent_inode, name)

        def run() -> None:
            with namespace.steady(parent.home):
                make(parent.path_fd, text)
                try:
                    self._own(parent, text, ctx)
                except BaseException:  # what has the wrong owner does not stay
                    undo(text, dir_fd=parent.path_fd)
                    raise

        await self.events.room()
        await self._have_keys(parent.home)
        async with self._changing(parent.home):
            await self._ask(run)
            node = await self._lookup(parent, text)
            await self._meet(node.home)
            self.events.created(node, ctx.uid)
            return entry(node)

    def _link_symlink(self, node: Node, parent: Node, name: str) -> None:
        try:
            syscalls.link(node.path_fd, parent.path_fd, name)
        except FileNotFoundError:  # we may not link a descriptor, but a name, if it still is this symlink's
            if os.geteuid() == 0 or self._known(self._directory_of(node), node.name) is not node:
                raise
            old = self._directory_of(node).path_fd
            os.link(node.name, name, src_dir_fd=old, dst_dir_fd=parent.path_fd, follow_symlinks=False)

    def _own(self, parent: Node, name: str, ctx: RequestContext) -> None:
        """Give what was just made to the caller; a directory in a set-group-id directory inherits the bit."""
        owner = (ctx.uid, self._group(parent, ctx))
        info = os.stat(name, dir_fd=parent.path_fd, follow_symlinks=False)
        if (info.st_uid, info.st_gid) != owner:
            os.chown(name, *owner, dir_fd=parent.path_fd, follow_symlinks=False)

    @staticmethod
    def _group(parent: Node, ctx: RequestContext) -> int:
        info = os.stat(parent.path_fd)
        return info.st_gid if info.st_mode & stat.S_ISGID else ctx.gid

    async def _remove(
        self, parent_inode: InodeT, name: FileNameT, how: Callable[..., None], ctx: RequestContext
    ) -> None:
        parent, text = self._target(parent_inode, name)
        await self.events.room()
        async with self._changing(parent.home, nodes=[self._known(parent, text)]):
            victim = self._known(parent, text)
            await self._ask(namespace.remove, parent.home, parent.path_fd, text, how)
            self.events.removed(parent, text, ctx.uid)
            self.nodes.told.take(parent, text)
            self._note_unlinked(victim)

    async def _rename(self, node: Node, move: namespace.Move, new_parent: Node, *, converts: bool) -> None:
        replaced = self._known(new_parent, move.new)
        parent, was_known = self._directory_of(node), node.attributes_hold()
        if converts:
            await self._rename_converting(node, move)
        else:
            await self._ask(namespace.rename, move, node.home if move.renames_home else None)
        told = self.nodes.told
        told.take(parent, move.old)
        told.tell(new_parent, move.new, node)
        if replaced is not None and replaced is not node:
            if move.exchanges:
                replaced.parent, replaced.name = parent, move.old
                told.tell(parent, move.old, replaced)
            else:
                self._note_unlinked(replaced)
        node.parent, node.name = new_parent, move.new
        if not node.is_dir:
            node.home = new_parent.home
        if was_known and node.is_regular:
            node.note_told()  # its time of change

    def _check_renamed(self, parent: Node, name: str, node: Node, ctx: RequestContext) -> None:
        """The kernel gives the new name to what it takes the old one for. Raises OSError ESTALE."""
        self._refusals.check(ctx.pid, node.number, holds=self.nodes.told.is_told(parent, name, node))

    async def _rename_converting(self, node: Node, move: namespace.Move) -> None:
        """To or from *.vmx: the content is stored the other way, under the same inode number."""
        if self.gate.closed:
            await self.gate.write(node.shown, keyless=node.keyless, homes=(node.home,))
        async with node.ranges.hold(0, END, exclusive=True):
            source = file_of(node)
            target = await self._ask(namespace.convert, move, source, node.place, node.number)
            node.file = target
            node.treatment = stored_as(move.new)
            node.rebind()
            self.nodes.identity_changed(node)
            source.close()

    @asynccontextmanager
    async def _held_for_writing(self, node: Node) -> AsyncIterator[None]:
        """The file open for writing by ourselves."""
        await self.opener.acquire(node, write=True)
        try:
            yield
        finally:
            await self.opener.release(node, write=True)

    async def _have_keys(self, home: Home) -> None:
        """Wait for a provider that does not answer before, not while, others' names wait: at the top, say."""
        known = home.known()
        if known is None or known.locked:
            await self._ask(home.check_writable)

    async def _meet(self, home: Home) -> None:
        """Read its record, if nobody did yet, so that an event has its id."""
        if home.known() is None:
            await self._ask(home.unverified)

    @asynccontextmanager
    async def _changing(self, *homes: Home, nodes: Sequence[Node | None] = ()) -> AsyncIterator[None]:
        """One change of names at a time in these homes and in those of `nodes`; none while writes wait, none
        in a home that is converted.
        """

        def concerned() -> set[Home]:
            return {*homes, *(node.home for node in nodes if node is not None)}

        if self.gate.closed:
            await self.gate.write(keyless=True, homes=concerned())
        async with AsyncExitStack() as held:
            for home in sorted(concerned(), key=id):  # everyone's order
                await held.enter_async_context(self._names_of(home))
            with ExitStack() as entered:
                for home in homes:
                    home.enter()
                    entered.callback(home.leave)
                yield

    def _list(self, directory: Node) -> list[str]:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory.path_fd)
        try:
            names = os.listdir(fd)
        finally:
            os.close(fd)
        return [name for name in names if not (directory.is_top and is_private(name))]
