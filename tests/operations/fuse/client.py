"""Calls the handlers of a mount as the kernel would, without one."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest

from ioflt.datastore.volume import Volume
from ioflt.fuse.events import Events
from ioflt.fuse.operations import Operations
from ioflt.wire.keyd.replies import EventLogSettings
from ioflt.wire.keyd.requests import Report

ROOT = pyfuse3.ROOT_INODE


@dataclass
class Caller:
    """Stands for pyfuse3's RequestContext, which Python code cannot make."""

    uid: int = field(default_factory=os.geteuid)
    gid: int = field(default_factory=os.getegid)
    pid: int = field(default_factory=os.getpid)
    umask: int = 0o022


def _taken(_: Sequence[Report]) -> EventLogSettings:
    return EventLogSettings(True, "none")


def operations_of(
    volume: Volume, send: Callable[[Sequence[Report]], EventLogSettings] = _taken
) -> Operations:
    """The handlers; `send`: who is told of events, by `run` of theirs."""
    return Operations(volume, Events(volume.claimed.datastore_id, volume.path, send))


class Client:
    """The handlers, by names of one directory. What it looked up it forgets in `end`, as the kernel does."""

    def __init__(self, operations: Operations) -> None:
        self.operations = operations
        self.caller: Any = Caller()
        self.references: dict[int, int] = {}
        self.open_handles: list[int] = []

    def _count(self, entry: Any) -> Any:
        self.references[entry.st_ino] = self.references.get(entry.st_ino, 0) + 1
        return entry

    async def lookup(self, parent: int, name: str) -> Any:
        return self._count(await self.operations.lookup(parent, os.fsencode(name), self.caller))

    async def mkdir(self, parent: int, name: str, mode: int = 0o755) -> int:
        entry = await self.operations.mkdir(parent, os.fsencode(name), mode, self.caller)
        return int(self._count(entry).st_ino)

    async def create(
        self, parent: int, name: str, mode: int = 0o644, flags: int = os.O_RDWR
    ) -> tuple[int, Any]:
        info, entry = await self.operations.create(
            parent, os.fsencode(name), mode, flags | os.O_CREAT, self.caller
        )
        self.open_handles.append(info.fh)
        return info.fh, self._count(entry)

    async def open(self, inode: int, flags: int = os.O_RDWR) -> int:
        info = await self.operations.open(inode, flags, self.caller)
        self.open_handles.append(info.fh)
        return int(info.fh)

    async def close(self, handle: int) -> None:
        self.open_handles.remove(handle)
        try:
            await self.operations.flush(handle)
        finally:
            await self.operations.release(handle)

    async def read(self, handle: int, offset: int = 0, size: int = 1 << 20) -> bytes:
        return bytes(await self.operations.read(handle, offset, size))

    async def write(self, handle: int, data: bytes, offset: int = 0) -> int:
        return int(await self.operations.write(handle, offset, data))

    async def rename(self, old: tuple[int, str], new: tuple[int, str], flags: int = 0) -> None:
        names = (os.fsencode(old[1]), os.fsencode(new[1]))
        await self.operations.rename(old[0], names[0], new[0], names[1], flags, self.caller)

    async def unlink(self, parent: int, name: str) -> None:
        await self.operations.unlink(parent, os.fsencode(name), self.caller)

    async def setattr(self, inode: int, handle: int | None = None, **values: int) -> Any:
        """`st_size=5` and so on, any of size, mode, uid, gid, atime_ns, mtime_ns, ctime_ns."""
        words = ("size", "mode", "uid", "gid", "atime", "mtime", "ctime")
        given = {name.removeprefix("st_").removesuffix("_ns") for name in values}
        fields: Any = SimpleNamespace(**{f"update_{word}": word in given for word in words})
        attributes = pyfuse3.EntryAttributes()
        for name, value in values.items():
            setattr(attributes, name, value)
        return await self.operations.setattr(inode, attributes, fields, handle, self.caller)

    async def names(self, inode: int, room: int = 1 << 10) -> list[str]:
        """readdir; `room`: entries that fit into one answer."""
        handle = await self.operations.opendir(inode, self.caller)
        found: list[str] = []
        position = 0

        def reply(_token: object, name: bytes, entry: Any, next_position: int) -> bool:
            nonlocal position, left
            if left == 0:
                return False
            left -= 1
            position = next_position
            found.append(os.fsdecode(name))
            if name not in (b".", b".."):
                self._count(entry)
            return True

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pyfuse3, "readdir_reply", reply)
            while True:
                before, left = position, room
                await self.operations.readdir(handle, position, SimpleNamespace())  # type: ignore[arg-type]
                if position == before:
                    break
        await self.operations.releasedir(handle)
        return found

    async def end(self) -> None:
        """The kernel lets go of everything."""
        for handle in list(self.open_handles):
            with suppress(pyfuse3.FUSEError):
                await self.close(handle)
        self.references.pop(ROOT, None)
        await self.operations.forget(list(self.references.items()))  # type: ignore[arg-type]
        self.references.clear()


@contextmanager
def fails(number: int) -> Iterator[None]:
    """The block answers the kernel with this errno."""
    with pytest.raises(pyfuse3.FUSEError) as caught:
        yield
    assert errno.errorcode[caught.value.errno] == errno.errorcode[number]
