"""Has the kernel let go of names, when descriptors run short: each inode that it remembers costs one."""

from __future__ import annotations

from contextlib import suppress

import trio

from ioflt.fuse import kernel
from ioflt.fuse.nodes import Node

#: Who lets go of a name waits until nobody reads or changes its directory. Of one that is read in a tight
#: loop, all who wait together get their turn at once, but one alone only now and then.
_TOGETHER = 8


class Forgetter:
    """`ask` for a name; `run` sees to it."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[tuple[int, str]](10**6)
        self._limiter = trio.CapacityLimiter(_TOGETHER)

    def ask(self, node: Node) -> None:
        """Let go of the name by which `node` was found last, soon."""
        if node.parent is not None:
            with suppress(trio.WouldBlock):  # it stays
                self._send.send_nowait((node.parent.number, node.name))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Has the tasks; runs until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(_TOGETHER):
                nursery.start_soon(self._work)
            task_status.started()

    async def _work(self) -> None:
        async for directory, name in self._receive:
            await trio.to_thread.run_sync(kernel.forget_name, directory, name, limiter=self._limiter)
