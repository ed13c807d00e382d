"""The trio face of virtual disks: the same disks, each call in a thread while other tasks go on.

A call that has begun is waited for, also when its task is cancelled: nobody closes a disk that a thread still
reads. So reads are to be as long as one is willing to wait; a megabyte takes milliseconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from types import TracebackType
from typing import Final

import trio

from ioflt.backup import transports
from ioflt.backup.disk import VirtualDisk
from ioflt.datastore.volume import Volume
from ioflt.types import Area

#: Areas fetched by one call of a thread.
_BATCH: Final = 256


async def open_disk(volume: Volume, vm: str, disk: str, mode: str = "file") -> AsyncDisk:
    """As `transports.open_disk`: `async with await open_disk(…) as disk`."""
    return AsyncDisk(await trio.to_thread.run_sync(transports.open_disk, volume, vm, disk, mode))


class AsyncDisk:
    """A virtual disk, which it owns, for any number of tasks: they take turns."""

    def __init__(self, disk: VirtualDisk) -> None:
        self._disk = disk
        self._turn = trio.Lock()

    @property
    def capacity(self) -> int:
        """Bytes of the disk."""
        return self._disk.capacity

    async def read(self, offset: int, length: int) -> bytes | bytearray:
        """Exactly these bytes, which stay as they are."""
        async with self._turn:
            return await trio.to_thread.run_sync(self._read, offset, length)

    def areas(self, offset: int = 0, length: int | None = None) -> AsyncIterator[Area]:
        """As `VirtualDisk.areas`."""
        return _Areas(self._turn, self._disk.areas(offset, length))

    async def aclose(self) -> None:
        """Close the disk, also in a task that was cancelled. May be called again."""
        with trio.CancelScope(shield=True):
            async with self._turn:
                await trio.to_thread.run_sync(self._disk.close)

    async def __aenter__(self) -> AsyncDisk:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def _read(self, offset: int, length: int) -> bytes | bytearray:
        data = self._disk.read(offset, length)
        return bytes(data) if isinstance(data, memoryview) else data


class _Areas:
    """Fetches a batch at a time; between two the disk is free for others."""

    def __init__(self, turn: trio.Lock, areas: Iterator[Area]) -> None:
        self._turn = turn
        self._areas = areas
        self._batch: deque[Area] = deque()

    def __aiter__(self) -> AsyncIterator[Area]:
        return self

    async def __anext__(self) -> Area:
        if not self._batch:
            async with self._turn:
                self._batch.extend(await trio.to_thread.run_sync(self._fetch))
        else:
            await trio.lowlevel.checkpoint()
        if not self._batch:
            raise StopAsyncIteration
        return self._batch.popleft()

    def _fetch(self) -> list[Area]:
        return list(islice(self._areas, _BATCH))
