"""FUSE requests, translated. How a file is stored and what is durable when is the matter of `datastore`."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, nullcontext
from typing import TypeVar

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FileNameT, InodeT, ModeT, RequestContext

from ioflt import syscalls
from ioflt.datastore import atomic, files, namespace
from ioflt.datastore.container import Container
from ioflt.datastore.home import Home, is_private, stored_as
from ioflt.datastore.openfile import OpenFile
from ioflt.datastore.vmx import VmxFile
from ioflt.datastore.volume import Volume
from ioflt.filters.trace import Counters
from ioflt.fuse import kernel
from ioflt.fuse.errnos import translated
from ioflt.fuse.filler import Filler
from ioflt.fuse.gate import Gate
from ioflt.fuse.handles import DirHandle, FileHandle, Handles, writes
from ioflt.fuse.nodes import Node, Nodes
from ioflt.fuse.opening import Opener
from ioflt.fuse.ranges import END
from ioflt.sectors import cover, round_down

#: Bytes up to which a write is encrypted and handed to the page cache by the loop itself. A worker thread
#: costs some 60 µs, as much as encrypting and copying a quarter of a mebibyte.
INLINE_WRITE = 128 << 10

#: Worker threads: enough for a queue depth of 16 on several disks, few enough for a small machine.
THREADS = 32

_PRIVILEGES = stat.S_ISUID | stat.S_ISGID

_log = logging.getLogger("ioflt.mount")

_T = TypeVar("_T")


class Operations(pyfuse3.Operations):
    """One mount of a volume. Extended attributes stay undefined on purpose: the kernel then asks once, where
    a handler would be asked for `security.capability` before every write (29.7k → 14.5k IOPS).
    """

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, volume: Volume) -> None:
        super().__init__()
        self.volume = volume
        self.gate = Gate()
        self.counters = Counters()
        self.handles = Handles()
        root_fd = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=volume.fd)
        self.nodes = Nodes(Node(root_fd, os.stat(root_fd), volume.root, None, ""))
        self._limiter = trio.CapacityLimiter(THREADS)
        self._asking = trio.CapacityLimiter(THREADS)  # those that may wait for keyd
        self.opener = Opener(self.nodes, self.counters, self._limiter, self._asking, self.gate)
        self.filler = Filler(self.gate, self._limiter)
        self._names = trio.Lock()  # one change of names at a time
        self._nowait = True  # whether the backing file system knows RWF_NOWAIT

    # Names

    @translated
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        parent = self.nodes[parent_inode]
        return _entry(await self._lookup(parent, os.fsdecode(name)))

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for inode, lookups in inode_list:
            self.nodes.forget(inode, lookups)

    @translated
    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        node, fd = await self._create(parent_inode, name, mode, ctx)
        node.lookups += 1  # holds the node while the file is being opened
        try:
            await self.opener.acquire(node, write=True, created=fd)
            fh = FileHandleT(self.handles.add_file(FileHandle(node, True)))
            return FileInfo(fh=fh, direct_io=False, keep_cache=False), node.attributes()
        except BaseException:
            node.lookups -= 1
            self.nodes.drop_unused(node)
            raise

    @translated
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        if stat.S_ISREG(mode):
            node, fd = await self._create(parent_inode, name, mode, ctx)
            os.close(fd)
            return _entry(node)

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

        def make() -> None:
            parent.home.check_writable()
            namespace.check_link(node.home, node.treatment, parent.home, text)
            if node.format == stat.S_IFLNK:  # a symlink has no path through /proc that does not follow it
                old = self._directory_of(node)
                os.link(node.name, text, src_dir_fd=old, dst_dir_fd=parent.path_fd, follow_symlinks=False)
            else:
                source = f"/proc/self/fd/{node.path_fd}"
                os.link(source, text, dst_dir_fd=parent.path_fd, follow_symlinks=True)

        async with self._changing(parent.home):
            await self._in_thread(make)
        node.unlinked = False
        return _entry(node)

    @translated
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self._remove(parent_inode, name, os.unlink)

    @translated
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        def remove_home(text: str, *, dir_fd: int) -> None:
            self.volume.remove_home(text)

        await self._remove(
            parent_inode, name, remove_home if parent_inode == pyfuse3.ROOT_INODE else os.rmdir
        )

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
        node = await self._lookup(parent, old)
        move = namespace.Move(
            parent.home, parent.path_fd, old, new_parent.home, new_parent.path_fd, new, flags,
            is_dir=node.is_dir, top=parent.parent is None, new_top=new_parent.parent is None,
        )  # fmt: skip
        node.lookups += 1  # holds the node meanwhile
        try:
            converts = node.is_regular and not move.exchanges and await self._in_thread(lambda: move.converts)
            # The writer's lock may be long in coming; nobody else's names wait for it.
            async with (
                self._held_for_writing(node) if converts else nullcontext(),
                self._changing(parent.home, new_parent.home),
            ):
                if await self._lookup(parent, old) is not node:
                    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
                await self._rename(node, move, new_parent, converts=converts)
        finally:
            node.lookups -= 1
            self.nodes.drop_unused(node)

    async def _rename(self, node: Node, move: namespace.Move, new_parent: Node, *, converts: bool) -> None:
        replaced = self._known(new_parent, move.new)
        parent = node.parent
        if converts:
            await self._rename_converting(node, move)
        else:
            await self._in_thread(namespace.rename, move, node.home if move.renames_home else None)
        if replaced is not None and replaced is not node:
            if move.exchanges:
                replaced.parent, replaced.name = parent, move.old
            else:
                self._note_unlinked(replaced)
        node.parent, node.name = new_parent, move.new
        if not node.is_dir:
            node.home = new_parent.home

    async def _rename_converting(self, node: Node, move: namespace.Move) -> None:
        """To or from *.vmx: the content is stored the other way, under the same inode number."""
        if self.gate.closed:
            await self.gate.write(node.shown, keyless=node.keyless)
        async with node.ranges.hold(0, END, exclusive=True):
            source, before = _file_of(node), os.stat(node.path_fd)
            target = await self._in_thread(namespace.convert, move, source, node.place, node.number)
            node.file = target
            node.treatment = stored_as(move.new)
            node.rebind()
            self.nodes.identity_changed(node, before)
            source.close()

    @asynccontextmanager
    async def _held_for_writing(self, node: Node) -> AsyncIterator[None]:
        """The file open for writing by ourselves."""
        await self.opener.acquire(node, write=True)
        try:
            yield
        finally:
            await self.opener.release(node, write=True)

    @asynccontextmanager
    async def _changing(self, *homes: Home) -> AsyncIterator[None]:
        """One change of names at a time, none while writes wait, none in a home that is converted."""
        if self.gate.closed:
            await self.gate.write(keyless=True)
        async with self._names:
            with ExitStack() as entered:
                for home in homes:
                    home.enter()
                    entered.callback(home.leave)
                yield

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
            parent.home.check_writable()
            make(parent.path_fd, text)
            try:
                self._own(parent, text, ctx)
            except BaseException:
                undo(text, dir_fd=parent.path_fd)
                raise

        async with self._changing(parent.home):
            await self._in_thread(run)
            return _entry(await self._lookup(parent, text))

    async def _remove(self, parent_inode: InodeT, name: FileNameT, how: Callable[..., None]) -> None:
        parent, text = self._target(parent_inode, name)

        def run() -> None:
            parent.home.check_writable()
            how(text, dir_fd=parent.path_fd)

        async with self._changing(parent.home):
            victim = self._known(parent, text)
            await self._in_thread(run)
            self._note_unlinked(victim)

    @translated
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        return FileNameT(os.readlink(b"", dir_fd=self.nodes[inode].path_fd))

    # Attributes

    @translated
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        node = self.nodes[inode]
        if node.file is not None and node.writers == 0:
            await self.opener.catch_up(node)
        return node.attributes()

    @translated
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        node = self.nodes[inode]
        if self.volume.read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if not node.is_top:
            await self._ask(node.home.check_writable)
        if fields.update_size:
            await self._truncate(node, attr.st_size, fh)
        if node.keyless or node.file is None:
            self._set_attributes(node, attr, fields, ctx)
        else:  # a state block or a commit that is just being written puts the times and the mode back
            async with node.ranges.hold(0, END, exclusive=True):
                self._set_attributes(node, attr, fields, ctx)
        return node.attributes()

    def _set_attributes(
        self, node: Node, attr: EntryAttributes, fields: pyfuse3.SetattrFields, ctx: RequestContext
    ) -> None:
        path = f"/proc/self/fd/{node.path_fd}"
        symlink = node.format == stat.S_IFLNK
        if fields.update_mode:
            if symlink:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            os.chmod(path, stat.S_IMODE(attr.st_mode))
        if fields.update_uid or fields.update_gid:
            uid = attr.st_uid if fields.update_uid else -1
            gid = attr.st_gid if fields.update_gid else -1
            self._chown(node, uid, gid, symlink=symlink, ctx=ctx)
        if fields.update_atime or fields.update_mtime:
            now = os.stat(node.path_fd)
            times = (
                attr.st_atime_ns if fields.update_atime else now.st_atime_ns,
                attr.st_mtime_ns if fields.update_mtime else now.st_mtime_ns,
            )
            if symlink:
                syscalls.utimensat(node.path_fd, *times)
            else:
                os.utime(path, ns=times)
            if isinstance(node.file, VmxFile) and fields.update_mtime:
                node.file.set_mtime(attr.st_mtime_ns)

    @translated
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        found = os.fstatvfs(self.volume.fd)
        result = pyfuse3.StatvfsData()
        for field in (
            "f_bsize",
            "f_frsize",
            "f_blocks",
            "f_bfree",
            "f_bavail",
            "f_files",
            "f_ffree",
            "f_favail",
        ):
            setattr(result, field, getattr(found, field))
        result.f_namemax = found.f_namemax
        return result

    # Open files

    @translated
    async def open(self, inode: InodeT, flags: int, ctx: RequestContext) -> FileInfo:
        return await self._open(self.nodes[inode], flags, ctx)

    @translated
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        node = self.handles.files[fh].node
        if node.writers == 0 and off + size >= _file_of(node).length:
            await self.opener.catch_up(node)
        if self.gate.closed:
            await self.gate.read(node.shown, keyless=node.keyless)
        file = _file_of(node)
        if self._nowait and node.ranges.free(off, off + size, exclusive=False):
            try:
                return file.read(off, size, nowait=True)  # type: ignore[return-value] # any buffer will do
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                self._nowait = False
        async with node.ranges.hold(off, off + size, exclusive=False):
            data = await self._in_thread(_file_of(node).read, off, size)
            return data  # type: ignore[return-value]

    @translated
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        handle = self.handles.files[fh]
        node = handle.node
        if self.gate.closed:
            await self.gate.write(node.shown, keyless=node.keyless)
        file = _file_of(node)
        size = len(buf)
        start, end, waits = _written_range(file, off, off + size)
        if size <= INLINE_WRITE and not waits and node.ranges.free(start, end, exclusive=True):
            file.write(off, buf)
            return size
        while True:
            async with node.ranges.hold(start, end, exclusive=True):
                file, held = _file_of(node), (start, end)
                start, end, _ = _written_range(file, off, off + size)
                if held[0] <= start and end <= held[1]:  # else the length changed while we waited
                    await self._in_thread(file.write, off, buf)
                    return size

    @translated
    async def flush(self, fh: FileHandleT) -> None:
        handle = self.handles.files[fh]
        if handle.writes and not _file_of(handle.node).settled:  # else close(2) waits for no unlock
            await self._settle(handle.node, self.opener.flush)

    @translated
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        handle = self.handles.files[fh]
        node = handle.node
        if isinstance(node.file, VmxFile) and not handle.writes:
            return  # what others are writing is theirs to commit

        async def sync(node: Node) -> None:
            file = _file_of(node)
            if file.settled:
                await self._in_thread(lambda: file.sync(data_only=datasync))
                return
            async with node.ranges.hold(0, END, exclusive=True):
                await self._in_thread(lambda: file.sync(data_only=datasync))

        await self._settle(node, sync)

    async def release(self, fh: FileHandleT) -> None:
        handle = self.handles.files.pop(fh)
        try:
            await self.opener.release(handle.node, write=handle.writes)
        except Exception:
            _log.exception("closing %s", handle.node.shown)
        self.nodes.drop_unused(handle.node)

    @translated
    async def lseek(self, fh: int, offset: int, whence: int) -> int:
        """SEEK_DATA and SEEK_HOLE, by way of `hook`."""
        node = self.handles.files[fh].node
        if self.gate.closed:
            await self.gate.read(node.shown, keyless=node.keyless)
        async with node.ranges.hold(0, END, exclusive=False):
            return await self._in_thread(_file_of(node).seek, offset, whence)

    @translated
    async def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        """By way of `hook`."""
        node = self.handles.files[fh].node
        if self.gate.closed:
            await self.gate.write(node.shown, keyless=node.keyless)
        async with node.ranges.hold(0, END, exclusive=True):
            await self._in_thread(_file_of(node).allocate, mode, offset, length)
        self._start_filler(node)

    # Directories

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
                node.lookups += 1

    async def releasedir(self, fh: FileHandleT) -> None:
        self.handles.directories.pop(fh)

    @translated
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        await self._in_thread(atomic.sync_directory, self.handles.directories[fh].node.path_fd)

    # Used by `mount` and `control`

    async def sync_all(self) -> list[str]:
        """Write back every open file; the names of those that could not be."""
        failed = []
        for node in self.nodes.all():
            file = node.file
            if file is None or node.writers == 0:
                continue
            try:
                async with self._steady(node), node.ranges.hold(0, END, exclusive=True):
                    if node.file is not file:  # closed meanwhile
                        continue
                    before = os.stat(node.path_fd)
                    await self._in_thread(lambda file=file: file.sync(data_only=False))
                    self._rebind(node, before)
            except Exception as error:
                _log.error("%s could not be written back: %s", node.shown, error)
                failed.append(node.shown)
        return failed

    def resume_filling(self) -> None:
        """After an unlock: the filler ended when it was refused."""
        for node in self.nodes.all():
            self._start_filler(node)

    async def drop_pages(self, only: Node | None = None) -> None:
        """Have the kernel write back and drop what it caches; from a thread, as it waits for our writes."""
        for node in self.nodes.all() if only is None else [only]:
            if node.is_regular:
                await self._in_thread(kernel.drop_pages, node.number)

    def close(self) -> None:
        """After the loop: drop keys and descriptors."""
        for node in self.nodes.all():
            if node.file is not None:
                node.file.close()
                node.file = None
            node.close()

    # Inside

    async def _in_thread(self, call: Callable[..., _T], *args: object) -> _T:
        return await trio.to_thread.run_sync(call, *args, limiter=self._limiter)

    async def _ask(self, call: Callable[..., _T], *args: object) -> _T:
        """What may ask keyd, and wait for it."""
        return await trio.to_thread.run_sync(call, *args, limiter=self._asking)

    def _target(self, parent_inode: int, name: FileNameT) -> tuple[Node, str]:
        """The directory and name of a change. Our own files are out of reach (EPERM)."""
        parent = self.nodes[parent_inode]
        text = os.fsdecode(name)
        if parent.is_top and is_private(text):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        if self.volume.read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return parent, text

    async def _lookup(self, parent: Node, name: str) -> Node:
        if parent.is_top and is_private(name):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent.path_fd)
        home = parent.home
        try:
            if parent.parent is None and stat.S_ISDIR(os.stat(fd).st_mode):
                home = self._home(name, fd)
            standing = home.known()
            if standing is None:
                standing = await self._ask(home.unverified)
        except BaseException:
            os.close(fd)
            raise
        return self.nodes.enter(parent, name, home, fd, standing)

    def _home(self, name: str, path_fd: int) -> Home:
        return self.volume.adopt(
            name, os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=path_fd)
        )

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
    ) -> tuple[Node, int]:
        """A new regular file, and the descriptor that made it, which may write whatever its mode."""
        parent, text = self._target(parent_inode, name)
        owner = (ctx.uid, self._group(parent, ctx))
        mode = stat.S_IMODE(mode) & ~ctx.umask
        async with self._changing(parent.home):
            fd = await self._in_thread(
                lambda: files.create(parent.home, parent.path_fd, text, mode=mode, owner=owner)
            )
            try:
                return await self._lookup(parent, text), fd
            except BaseException:
                os.close(fd)
                raise

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

    def _chown(self, node: Node, uid: int, gid: int, *, symlink: bool, ctx: RequestContext) -> None:
        if symlink:
            syscalls.fchownat(node.path_fd, uid, gid)
            return
        path = f"/proc/self/fd/{node.path_fd}"
        mode = os.stat(node.path_fd).st_mode
        os.chown(path, uid, gid)
        if node.is_regular and ctx.uid == 0 and mode & _PRIVILEGES:
            os.chmod(path, stat.S_IMODE(mode))  # root keeps the bits, as on any file system

    @staticmethod
    def _directory_of(node: Node) -> int:
        if node.parent is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return node.parent.path_fd

    async def _open(self, node: Node, flags: int, ctx: RequestContext) -> FileInfo:
        if not node.is_regular:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        write = writes(flags)
        if write and self.volume.read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        await self.opener.acquire(node, write=write)
        fh = FileHandleT(self.handles.add_file(FileHandle(node, write)))
        if flags & os.O_TRUNC:
            try:
                await self._truncate(node, 0, fh)
                if ctx.uid != 0:
                    self._clear_privileges(node)
            except BaseException:
                await self.release(fh)
                raise
        self._start_filler(node)
        return FileInfo(fh=fh, direct_io=False, keep_cache=False)

    async def _truncate(self, node: Node, length: int, fh: FileHandleT | None) -> None:
        if not node.is_regular:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        held = fh is not None and self.handles.files[fh].writes
        if not held:
            await self.opener.acquire(node, write=True)
        try:
            if self.gate.closed:
                await self.gate.write(node.shown, keyless=node.keyless)
            async with node.ranges.hold(0, END, exclusive=True):
                await self._in_thread(_file_of(node).truncate, length)
            if not held:
                await self._settle(node, self.opener.flush)
        finally:
            if not held:
                await self.opener.release(node, write=True)
        self._start_filler(node)

    async def _settle(self, node: Node, action: Callable[[Node], Awaitable[None]]) -> None:
        """Flush or sync; a VMX may have another backing inode afterwards."""
        if self.gate.closed:
            await self.gate.write(node.shown, keyless=node.keyless)
        async with self._steady(node):
            before = os.stat(node.path_fd)
            await action(node)
            self._rebind(node, before)

    def _steady(self, node: Node) -> AbstractAsyncContextManager[object]:
        """A commit of a VMX replaces the file of its name: meanwhile no name may change."""
        return self._names if isinstance(node.file, VmxFile) else nullcontext()

    def _rebind(self, node: Node, before: os.stat_result) -> None:
        if isinstance(node.file, VmxFile) and os.fstat(node.file.fd).st_ino != before.st_ino:
            node.rebind()
            self.nodes.identity_changed(node, before)

    def _clear_privileges(self, node: Node) -> None:
        """What the kernel asks for at writes and truncate(2), but not where opening cuts a file."""
        mode = stat.S_IMODE(os.stat(node.path_fd).st_mode)
        cleared = mode & ~stat.S_ISUID
        if mode & stat.S_IXGRP:
            cleared &= ~stat.S_ISGID
        if cleared != mode:
            os.chmod(f"/proc/self/fd/{node.path_fd}", cleared)

    def _start_filler(self, node: Node) -> None:
        if isinstance(node.file, Container) and node.file.unfilled and node.writers:
            self.filler.start(node)

    def _list(self, directory: Node) -> list[str]:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory.path_fd)
        try:
            names = os.listdir(fd)
        finally:
            os.close(fd)
        return [name for name in names if not (directory.is_top and is_private(name))]


def _entry(node: Node) -> EntryAttributes:
    """What answers a request by which the kernel takes one more reference to the node."""
    attributes = node.attributes()
    node.lookups += 1
    return attributes


def _file_of(node: Node) -> OpenFile:
    if node.file is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return node.file


def _written_range(file: OpenFile, start: int, end: int) -> tuple[int, int, bool]:
    """What a write locks, and whether it may have to wait for the medium: for a length to become durable, or
    for a sector that it covers in part.

    One that extends the file also touches its last sector and its length: it excludes all behind that.
    """
    length = file.length
    if end > length:
        return min(round_down(length), round_down(start)), END, file.extension_waits(end)
    span = cover(start, end - start)
    return span.start, span.end, not span.aligned
