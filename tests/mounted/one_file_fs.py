"""A file system of one file, `disk`, for test_hook.py: one_file_fs.py MOUNTPOINT before|after|never|unbuilt

The last word says when the hook is installed: before pyfuse3 is imported, after it, never,
or before it but without the extension.
Prints one JSON line when it serves, and one per lseek or fallocate that reaches it. SIGTERM ends it.
"""

import errno
import json
import os
import signal
import stat
import sys

import trio

from ioflt.fuse import hook

WHEN = sys.argv[2]
if WHEN == "unbuilt":
    sys.modules["ioflt.fuse._hook"] = None  # an import of it fails, as where it was not built
if WHEN in ("before", "unbuilt"):
    hook.install()

import pyfuse3  # noqa: E402

if WHEN == "after":
    hook.install()

INODE = 2
SIZE = 1 << 20
DATA = range(65536, 131072)
#: Offsets at which the handlers fail, each in a way of its own.
FUSE_ERROR, OS_ERROR, OTHER_ERROR, NEVER = 1 << 12, 2 << 12, 3 << 12, 4 << 12


def tell(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


class OneFile(pyfuse3.Operations):
    async def getattr(self, inode: int, ctx: object = None) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = stat.S_IFDIR | 0o755 if inode == pyfuse3.ROOT_INODE else stat.S_IFREG | 0o644
        entry.st_size = 0 if inode == pyfuse3.ROOT_INODE else SIZE
        return entry

    async def lookup(self, parent: int, name: bytes, ctx: object = None) -> pyfuse3.EntryAttributes:
        if name != b"disk":
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(INODE)

    async def open(self, inode: int, flags: int, ctx: object) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=77)

    async def read(self, fh: int, offset: int, length: int) -> bytes:
        return bytes(min(length, max(0, SIZE - offset)))


async def lseek(fh: int, offset: int, whence: int) -> int:
    tell(call="lseek", fh=fh, offset=offset, whence=whence)
    await fail(offset)
    if whence == os.SEEK_DATA:
        if offset >= DATA.stop:
            raise OSError(errno.ENXIO, "no data")
        return max(offset, DATA.start)
    return DATA.stop if offset in DATA else offset


async def fallocate(fh: int, mode: int, offset: int, length: int) -> None:
    tell(call="fallocate", fh=fh, mode=mode, offset=offset, length=length)
    await fail(offset)


async def fail(offset: int) -> None:
    if offset == FUSE_ERROR:
        raise pyfuse3.FUSEError(errno.ENOKEY)
    if offset == OS_ERROR:
        raise OSError(errno.ENOSPC, "full")
    if offset == OTHER_ERROR:
        raise ValueError("a bug of the handler")
    if offset == NEVER:
        await trio.sleep_forever()


async def main(mountpoint: str) -> None:
    pyfuse3.init(OneFile(), mountpoint)
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery, trio.open_nursery() as serving:
            await serving.start(hook.serve, lseek, fallocate)
            nursery.start_soon(pyfuse3.main)
            tell(active=hook.active(), reason=hook.reason)
            async for _ in signals:
                serving.cancel_scope.cancel()
                pyfuse3.terminate()
                break
    pyfuse3.close()


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
