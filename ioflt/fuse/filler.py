"""The background task of a thick file that is not filled yet: encrypted zeros into what was never written."""

from __future__ import annotations

import logging

import trio

from ioflt.datastore.container import Container
from ioflt.errors import IofltError
from ioflt.fuse.gate import Gate, Shut
from ioflt.fuse.nodes import Node

#: Bytes after which the mark is made durable: what a crash makes the filler read again.
_SAVE_EVERY = 256 << 20

_log = logging.getLogger("ioflt.mount")


class Filler:
    """Fills while the file is open for writing; goes on at the next open. One task per file."""

    def __init__(self, gate: Gate, limiter: trio.CapacityLimiter) -> None:
        self._gate = gate
        self._limiter = limiter
        self._busy: set[int] = set()
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Has the tasks; runs until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def start(self, node: Node) -> None:
        """Begin to fill, unless it is being done."""
        if node.number not in self._busy and self._nursery is not None:
            self._busy.add(node.number)
            self._nursery.start_soon(self._fill, node)

    async def _fill(self, node: Node) -> None:
        saved = 0
        try:
            while node.writers and isinstance(node.file, Container):
                await self._gate.write(node.shown, keyless=False, homes=(node.home,))
                step = node.file.fill_step()
                if step is None:
                    return
                offset, length = step
                async with node.ranges.hold(offset, offset + max(length, 1), exclusive=True):
                    file = node.file
                    if not (node.writers and isinstance(file, Container) and file.fill_step() == step):
                        continue
                    await trio.to_thread.run_sync(file.fill, step, limiter=self._limiter)
                    saved += length
                    if saved >= _SAVE_EVERY:
                        saved = 0
                        await trio.to_thread.run_sync(file.save_fill_mark, limiter=self._limiter)
        except Shut:  # begun again by the unlock
            pass
        except (OSError, IofltError) as error:
            _log.error("%s: filling stopped: %s", node.shown, error)
        finally:
            self._busy.discard(node.number)
