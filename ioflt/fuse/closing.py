"""Closes what removed files are held by: the last descriptor frees their blocks, for which a file system may
take milliseconds (ext4 that discards: 4 ms for an empty container), and more for a large disk.
"""

from __future__ import annotations

import os
from contextlib import suppress

import trio

#: More at once free no more: one file after the other takes 3.9 ms each, by two threads 1.0, by four 0.8.
_TOGETHER = 4

#: Descriptors that wait for their turn; when there are more, whoever comes waits for his own.
_MOST = 256


class Closer:
    """`close` a descriptor; `run` sees to those that take their time."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[int](_MOST)
        self._limiter = trio.CapacityLimiter(_TOGETHER)

    def close(self, fd: int) -> None:
        """Now, or soon if its file has no name any more. Takes it over. Raises OSError."""
        try:
            if os.fstat(fd).st_nlink == 0:
                self._send.send_nowait(fd)
                return
        except (OSError, trio.WouldBlock):  # closed it is in any case
            pass
        os.close(fd)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Has the tasks; runs until cancelled. What waits then the end of the process closes."""
        async with trio.open_nursery() as nursery:
            for _ in range(_TOGETHER):
                nursery.start_soon(self._work)
            task_status.started()

    async def _work(self) -> None:
        async for fd in self._receive:
            with suppress(OSError):  # of a descriptor that was never written through nobody loses anything
                await trio.to_thread.run_sync(os.close, fd, limiter=self._limiter)
