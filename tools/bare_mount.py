"""A pass-through by pyfuse3 alone, by which ours is measured: `python tools/bare_mount.py DIR MOUNTPOINT`.

Each handler makes the system calls that its request stands for, at once, as the pass-through of pyfuse3's
documentation does: no worker threads, no locks, no caches, no checks. Mount options, time-outs and flags of
open files are those of an ioflt mount. It has the handlers that a measurement needs, and no others: no links,
no renames. It serves until it is unmounted.
"""

from __future__ import annotations

import errno
import functools
import os
import resource
import stat
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, TypeVar

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
)

#: Seconds for which the kernel keeps names and attributes: an ioflt mount's, and gocryptfs's.
CACHE_S = 1.0

#: The backing file is opened without these: offsets and sizes are the kernel's, which has done the rest.
_NOT_BELOW = os.O_APPEND | os.O_CREAT | os.O_DIRECT | os.O_EXCL

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def _translated(
    handler: Callable[_Arguments, Coroutine[Any, Any, _Result]],
) -> Callable[_Arguments, Coroutine[Any, Any, _Result]]:
    """An OSError of the backing file system is the answer."""

    @functools.wraps(handler)
    async def wrapper(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
        try:
            return await handler(*arguments, **named)
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from None

    return wrapper


class Bare(pyfuse3.Operations):
    """An inode is known by its path, its number is the backing one's; an open file by its descriptor."""

    supports_dot_lookup = False
    #: As in an ioflt mount: with it what is measured would be the kernel.
    enable_writeback_cache = False

    def __init__(self, root: str) -> None:
        super().__init__()
        self._paths = {int(pyfuse3.ROOT_INODE): os.fsencode(root)}
        self._lookups: dict[int, int] = {}
        self._listings: dict[int, list[bytes]] = {}

    def _attributes(self, path: bytes | int) -> EntryAttributes:
        found = os.stat(path, follow_symlinks=False) if isinstance(path, bytes) else os.stat(path)
        entry = EntryAttributes()
        entry.st_ino = InodeT(found.st_ino)
        entry.st_mode = ModeT(found.st_mode)
        entry.st_nlink = found.st_nlink
        entry.st_uid = found.st_uid
        entry.st_gid = found.st_gid
        entry.st_rdev = found.st_rdev
        entry.st_size = found.st_size
        entry.st_blksize = 4096
        entry.st_blocks = found.st_blocks
        entry.st_atime_ns = found.st_atime_ns
        entry.st_mtime_ns = found.st_mtime_ns
        entry.st_ctime_ns = found.st_ctime_ns
        entry.entry_timeout = entry.attr_timeout = CACHE_S
        return entry

    def _child(self, parent: int, name: bytes) -> bytes:
        return os.path.join(self._paths[parent], name)

    def _entered(self, path: bytes) -> EntryAttributes:
        entry = self._attributes(path)
        self._paths[entry.st_ino] = path
        self._lookups[entry.st_ino] = self._lookups.get(entry.st_ino, 0) + 1
        return entry

    @_translated
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        return self._entered(self._child(parent_inode, name))

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for inode, count in inode_list:
            self._lookups[inode] -= count
            if not self._lookups[inode]:
                del self._lookups[inode], self._paths[inode]

    @_translated
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._attributes(self._paths[inode])

    @_translated
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        path = self._paths[inode]
        if fields.update_size:
            os.truncate(path if fh is None else fh, attr.st_size)
        if fields.update_mode:
            os.chmod(path, stat.S_IMODE(attr.st_mode))
        if fields.update_uid or fields.update_gid:
            os.chown(path, attr.st_uid if fields.update_uid else -1, attr.st_gid if fields.update_gid else -1)
        if fields.update_atime or fields.update_mtime:
            now = os.stat(path)
            os.utime(
                path,
                ns=(
                    attr.st_atime_ns if fields.update_atime else now.st_atime_ns,
                    attr.st_mtime_ns if fields.update_mtime else now.st_mtime_ns,
                ),
            )
        return self._attributes(path)

    @_translated
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        path = self._child(parent_inode, name)
        os.mkdir(path, mode & ~ctx.umask)
        return self._entered(path)

    @_translated
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        os.unlink(self._child(parent_inode, name))

    @_translated
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        os.rmdir(self._child(parent_inode, name))

    @_translated
    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        path = self._child(parent_inode, name)
        fd = os.open(path, flags & ~_NOT_BELOW | os.O_CREAT | os.O_EXCL, mode & ~ctx.umask)
        return self._handle(fd), self._entered(path)

    @_translated
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        return self._handle(os.open(self._paths[inode], flags & ~_NOT_BELOW))

    @staticmethod
    def _handle(fd: int) -> FileInfo:
        return FileInfo(fh=FileHandleT(fd), direct_io=False, keep_cache=False)

    @_translated
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        return os.pread(fh, size, off)

    @_translated
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        return os.pwrite(fh, buf, off)

    async def flush(self, fh: FileHandleT) -> None:
        """Nothing is held back."""

    @_translated
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        (os.fdatasync if datasync else os.fsync)(fh)

    @_translated
    async def release(self, fh: FileHandleT) -> None:
        os.close(fh)

    @_translated
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        names = [os.fsencode(name) for name in sorted(os.listdir(self._paths[inode]))]
        self._listings[inode] = names
        return FileHandleT(inode)

    @_translated
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        for number, name in enumerate(self._listings[fh][start_id:], start_id + 1):
            path = self._child(fh, name)
            entry = self._attributes(path)
            if not pyfuse3.readdir_reply(token, FileNameT(name), entry, number):
                return
            self._paths[entry.st_ino] = path
            self._lookups[entry.st_ino] = self._lookups.get(entry.st_ino, 0) + 1

    async def releasedir(self, fh: FileHandleT) -> None:
        """The listing stays until the next one of that directory."""

    @_translated
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        found = os.statvfs(self._paths[pyfuse3.ROOT_INODE])
        result = StatvfsData()
        for field in (
            *("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail"),
        ):
            setattr(result, field, getattr(found, field))
        result.f_namemax = found.f_namemax
        return result


def main(directory: str, mountpoint: str) -> None:
    """Mount and serve until unmounted."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    options = {*pyfuse3.default_options, f"fsname={directory}", "subtype=bare"}
    pyfuse3.init(Bare(directory), mountpoint, options)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
