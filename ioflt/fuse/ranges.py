"""Range locks of one file: who reads, writes, cuts or punches which bytes.

Requests are granted in the order of their arrival, past those that they do not touch; so nobody starves.
Single-threaded: all calls come from the mount's loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

import trio

#: Behind every offset.
END = 2**63


class _Request:
    __slots__ = ("end", "exclusive", "granted", "start")

    def __init__(self, start: int, end: int, exclusive: bool) -> None:
        self.start = start
        self.end = end
        self.exclusive = exclusive
        self.granted: trio.Event | None = None

    def conflicts(self, start: int, end: int, exclusive: bool) -> bool:
        return start < self.end and self.start < end and (exclusive or self.exclusive)


class RangeLocks:
    """Ranges are [start, end) in bytes; shared ones overlap, exclusive ones do not."""

    def __init__(self, fast: AbstractAsyncContextManager[object] | None = None) -> None:
        """`fast`: held, too, while a range is."""
        self._fast = fast or nullcontext()
        self._requests: list[_Request] = []

    def free(self, start: int, end: int, *, exclusive: bool) -> bool:
        """Whether nobody holds or waits for what would conflict. Valid until the next await."""
        if not self._requests:
            return True
        return not any(request.conflicts(start, end, exclusive) for request in self._requests)

    @asynccontextmanager
    async def hold(self, start: int, end: int, *, exclusive: bool) -> AsyncIterator[None]:
        """Wait for the range, hold it in the `async with` block."""
        async with self._fast:
            mine = _Request(start, end, exclusive)
            blocked = not self.free(start, end, exclusive=exclusive)
            self._requests.append(mine)
            try:
                if blocked:
                    mine.granted = trio.Event()
                    await mine.granted.wait()
                yield
            finally:
                self._requests.remove(mine)
                self._grant()

    def _grant(self) -> None:
        """Wake those whose way is free now: nothing before them in the queue conflicts."""
        for index, request in enumerate(self._requests):
            if request.granted is None or request.granted.is_set():
                continue
            before = self._requests[:index]
            if not any(other.conflicts(request.start, request.end, request.exclusive) for other in before):
                request.granted.set()
