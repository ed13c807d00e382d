"""How much each user may have keyd do: so much at once, and so much in each second from then on."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

_MAX_USERS: Final = 4_096


class Allowance:
    """Of each user by himself. Safe for several threads."""

    def __init__(self, burst: int, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`burst` at once, `rate` a second."""
        self._burst, self._rate = float(burst), rate
        self._clock = clock
        self._lock = threading.Lock()
        self._left: OrderedDict[int, tuple[float, float]] = OrderedDict()  # by uid; as of when

    def take(self, uid: int, count: int) -> bool:
        """Whether there is that much now; then it is taken."""
        now = self._clock()
        with self._lock:
            left, since = self._left.pop(uid, (self._burst, now))
            left = min(self._burst, left + (now - since) * self._rate)
            enough = left >= count
            self._left[uid] = (left - count if enough else left, now)
            if len(self._left) > _MAX_USERS:
                self._left.popitem(last=False)
        return enough
