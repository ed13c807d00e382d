"""A clock that is never set back: by it sealed keys expire."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class LatestTime:
    """Seconds since 1970, as the host's clock says, but never earlier than a time that was seen before.

    From the latest one on it counts the seconds since then, those of a suspended machine included, until the
    clock has caught up. Safe for calls from several threads.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        running: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._wall = wall
        self._running = running
        self._lock = threading.Lock()
        self._latest, self._since = wall(), running()

    def now(self) -> int:
        """The time."""
        with self._lock:
            running = self._running()
            self._latest = max(self._wall(), self._latest + running - self._since)
            self._since = running
            return int(self._latest)

    def not_before(self, seen: int) -> None:
        """Take note of a time that was seen, by an earlier process perhaps."""
        self.now()
        with self._lock:
            self._latest = max(self._latest, seen)
