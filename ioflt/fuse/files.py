"""Requests for attributes and for open files: the hot path."""

from __future__ import annotations

import errno
import logging
import os
import stat
from typing import TypeGuard

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, InodeT, RequestContext

from ioflt import syscalls
from ioflt.datastore.container import Container
from ioflt.datastore.openfile import OpenFile
from ioflt.datastore.vmx import VmxFile
from ioflt.fuse.errnos import translated
from ioflt.fuse.handles import writes
from ioflt.fuse.nodes import Node
from ioflt.fuse.ranges import END
from ioflt.fuse.served import Served, file_of
from ioflt.sectors import cover, round_down

#: Bytes up to which a write is encrypted and handed to the page cache by the loop itself. A worker thread
#: costs some 60 µs, as much as encrypting and copying a quarter of a mebibyte.
INLINE_WRITE = 128 << 10

#: Bytes from which on a read that is to be verified lets other requests begin while a second thread makes its
#: tags. Measured on two cores, direct sequential reads without tags, with them alone, with them so, in MiB/s:
#: 1 MiB, 4 at once: 1,384, 788, 1,268; one at a time: 1,417, 788, 847; 128 KiB, 4 at once: 1,013, 606, 656.
AHEAD_READ = 128 << 10

#: Rounds of the loop after which the next request was received, if there is one: a task for it is started,
#: begins to wait, and is woken. With one round less the second core has nothing to do (1 MiB: 976 MiB/s).
_ROUNDS = 3

#: Of such reads at once: what they hold in memory is bounded by that, 16 MiB. Others are verified one by one.
MOST_AHEAD = 16

_PRIVILEGES = stat.S_ISUID | stat.S_ISGID

_log = logging.getLogger("ioflt.mount")


class Files(Served):
    """Handlers for attributes and open files."""

    _ahead = 0  # reads that let others begin while they are verified

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
        if fh is None and (fields.update_size or node.file is None):  # else by a descriptor, it may be
            self._check_name(node, ctx)
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

    def _chown(self, node: Node, uid: int, gid: int, *, symlink: bool, ctx: RequestContext) -> None:
        if symlink:
            syscalls.fchownat(node.path_fd, uid, gid)
            return
        path = f"/proc/self/fd/{node.path_fd}"
        mode = os.stat(node.path_fd).st_mode
        os.chown(path, uid, gid)
        if node.is_regular and ctx.uid == 0 and mode & _PRIVILEGES:
            os.chmod(path, stat.S_IMODE(mode))  # root keeps the bits, as on any file system

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

    @translated
    async def open(self, inode: InodeT, flags: int, ctx: RequestContext) -> FileInfo:
        return await self._open(self.nodes[inode], flags, ctx)

    async def _open(self, node: Node, flags: int, ctx: RequestContext) -> FileInfo:
        if not node.is_regular:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        write = writes(flags)
        if write and self.volume.read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        self._check_told(node, ctx)
        if self.events.is_first(node, ctx.uid):
            await self.events.room()
        await self.opener.acquire(node, write=write)
        if self.events.is_first(node, ctx.uid):
            self.events.opened(node, ctx.uid)
        fh = await self._handle(node, writes=write)
        if flags & os.O_TRUNC:
            try:
                await self._truncate(node, 0, fh)
                if ctx.uid != 0:
                    self._clear_privileges(node)
            except BaseException:  # cancelled, too: the kernel never hears of this handle
                await self.release(fh)
                raise
        self._start_filler(node)
        return FileInfo(fh=fh, direct_io=False, keep_cache=False)

    @translated
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """What `fastpath` does not answer."""
        node = self.handles.files[fh].node
        async with node.fast:
            return await self._read(node, off, size)

    async def _read(self, node: Node, off: int, size: int) -> bytes:
        if node.writers == 0 and off + size >= file_of(node).length:
            await self.opener.catch_up(node)
        if self.gate.closed:
            await self.gate.read(node.shown, keyless=node.keyless)
        file = file_of(node)
        if self._nowait and node.ranges.free(off, off + size, exclusive=False):
            try:
                if size >= AHEAD_READ and self._ahead < MOST_AHEAD and _verifies(file):
                    return await self._read_ahead(node, file, off, size)
                return file.read(off, size, nowait=True)  # type: ignore[return-value] # any buffer will do
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                self._nowait = False
        async with node.ranges.hold(off, off + size, exclusive=False):
            data = await self._in_thread(file_of(node).read, off, size)
            return data  # type: ignore[return-value]  # any buffer will do

    async def _read_ahead(self, node: Node, file: Container, off: int, size: int) -> bytes:
        """The range is free. Raises BlockingIOError."""
        self._ahead += 1
        try:
            async with node.ranges.hold(off, off + size, exclusive=False):
                with file.ahead(off, size):
                    for _ in range(_ROUNDS):
                        await trio.lowlevel.checkpoint()
                    return file.read(off, size, nowait=True)  # type: ignore[return-value] # any buffer will do
        finally:
            self._ahead -= 1

    @translated
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        """What `fastpath` does not answer."""
        node = self.handles.files[fh].node
        async with node.fast:
            return await self._write(node, off, buf)

    async def _write(self, node: Node, off: int, buf: bytes) -> int:
        if self.gate.closed:
            await self.gate.write(node.shown, keyless=node.keyless, homes=(node.home,))
        file = file_of(node)
        size = len(buf)
        start, end, waits = _written_range(file, off, off + size)
        if size <= INLINE_WRITE and not waits and node.ranges.free(start, end, exclusive=True):
            file.write(off, buf)
            return size
        while True:
            async with node.ranges.hold(start, end, exclusive=True):
                file, held = file_of(node), (start, end)
                start, end, _ = _written_range(file, off, off + size)
                if held[0] <= start and end <= held[1]:  # else the length changed while we waited
                    await self._in_thread(file.write, off, buf)
                    return size

    @translated
    async def flush(self, fh: FileHandleT) -> None:
        handle = self.handles.files[fh]
        if handle.writes and not file_of(handle.node).closable:  # else close(2) waits for no unlock
            await self._settle(handle.node, self.opener.flush)

    @translated
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        handle = self.handles.files[fh]
        node = handle.node
        if isinstance(node.file, VmxFile) and not handle.writes:
            return  # what others are writing is theirs to commit

        async def sync(node: Node) -> None:
            file = file_of(node)
            if file.settled:
                try:
                    await self._in_thread(lambda: file.sync_data(data_only=datasync))
                except Exception:  # it is shut, which whoever reads and writes it in C has to hear
                    async with node.fast:
                        raise
                return
            async with node.ranges.hold(0, END, exclusive=True):
                await self.opener.thread_for(file)(lambda: file.sync(data_only=datasync))

        await self._settle(node, sync)

    async def release(self, fh: FileHandleT) -> None:
        handle = self.handles.files.pop(fh)
        handle.node.fast.drop(fh)
        try:
            await self.opener.release(handle.node, write=handle.writes)
        except OSError as error:
            _log.error("closing %s: %s", handle.node.shown, error)
        except Exception:  # nobody waits for an answer: a bug is logged, the mount goes on
            _log.exception("closing %s", handle.node.shown)
        self.nodes.drop_unused(handle.node)

    @translated
    async def lseek(self, fh: int, offset: int, whence: int) -> int:
        """SEEK_DATA and SEEK_HOLE, by way of `hook`."""
        node = self.handles.files[fh].node
        if self.gate.closed:
            await self.gate.read(node.shown, keyless=node.keyless)
        if node.ranges.free(0, END, exclusive=False):  # nobody changes it: then it takes no time to look
            return file_of(node).seek(offset, whence)
        async with node.ranges.hold(0, END, exclusive=False):
            return await self._in_thread(file_of(node).seek, offset, whence)

    @translated
    async def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        """By way of `hook`."""
        node = self.handles.files[fh].node
        if self.gate.closed:
            await self.gate.write(node.shown, keyless=node.keyless, homes=(node.home,))
        async with node.ranges.hold(0, END, exclusive=True):
            await self._in_thread(file_of(node).allocate, mode, offset, length)
        self._start_filler(node)

    async def _truncate(self, node: Node, length: int, fh: FileHandleT | None) -> None:
        if not node.is_regular:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        held = fh is not None and self.handles.files[fh].writes
        if not held:
            await self.opener.acquire(node, write=True)
        try:
            if self.gate.closed:
                await self.gate.write(node.shown, keyless=node.keyless, homes=(node.home,))
            async with node.ranges.hold(0, END, exclusive=True):
                await self._in_thread(file_of(node).truncate, length)
            if not held:
                await self._settle(node, self.opener.flush)
        finally:
            if not held:
                await self.opener.release(node, write=True)
        self._start_filler(node)

    def _clear_privileges(self, node: Node) -> None:
        """What the kernel asks for at writes and truncate(2), but not where opening cuts a file."""
        mode = stat.S_IMODE(os.stat(node.path_fd).st_mode)
        cleared = mode & ~stat.S_ISUID
        if mode & stat.S_IXGRP:
            cleared &= ~stat.S_ISGID
        if cleared != mode:
            os.chmod(f"/proc/self/fd/{node.path_fd}", cleared)


def _verifies(file: OpenFile) -> TypeGuard[Container]:
    return isinstance(file, Container) and file.verifies


def _written_range(file: OpenFile, start: int, end: int) -> tuple[int, int, bool]:
    """What a write locks, and whether it may have to wait: for a length to become durable, for the filler, or
    for a sector that it covers in part.

    One that extends the file also touches its last sector and its length: it excludes all behind that.
    """
    length, waits = file.length, file.write_waits(start, end)
    if end > length:
        return min(round_down(length), round_down(start)), END, waits
    span = cover(start, end - start)
    return span.start, span.end, waits or not span.aligned
