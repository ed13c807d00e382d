"""What was denied, as events: of many that are alike the first, and of each user no more than disks can take.

Anybody whom keyd lets in can be denied as often as he asks, so this is all that he may have written. What is
beyond it is counted, and told in one event from time to time; it is answered like any other.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

import msgspec

from ioflt.audit.event import Actor, Event, added
from ioflt.keyd.allowance import Allowance
from ioflt.keyd.recorder import Recorder, event

#: Events of denials that a user causes at once, and in each second from then on: one a minute.
BURST: Final = 256
RATE: Final = 1 / 60

#: Seconds from one count of those that were not told to the next.
INTERVAL_S: Final = 60.0

#: Seconds for which what is like a denial before is not told of again, and most that are remembered.
_ALIKE_S: Final = 60.0
_MAX_ALIKE: Final = 4_096


class Denials:
    """Safe for several threads. None of its calls fails because an event cannot be written."""

    def __init__(self, recorder: Recorder, clock: Callable[[], float] = time.monotonic) -> None:
        self._recorder = recorder
        self._clock = clock
        self._allowance = Allowance(BURST, RATE, clock)
        self._lock = threading.Lock()
        self._told: OrderedDict[Hashable, float] = OrderedDict()
        self._untold: dict[int, tuple[Actor, int]] = {}  # by uid: who was denied last, and how often in all

    def tell(self, denied: Event, alike: Hashable = None) -> None:
        """Of that denial. `alike`: equal for those that are one; None is like no other."""
        if alike is not None and self._is_again(alike):
            return
        uid = denied.by.uid
        if self._allowance.take(uid, 1):
            self._recorder.record_if_possible(denied)
            return
        with self._lock:
            _, count = self._untold.get(uid, (denied.by, 0))
            self._untold[uid] = denied.by, count + 1

    def tell_rest(self) -> None:
        """How many were not told since the last time."""
        with self._lock:
            untold, self._untold = self._untold, {}
        for by, count in untold.values():
            told = event(
                "denials",
                changes=[added("denials.notTold", count)],
                outcome="denied",
                reason="more denials than are told one by one",
            )
            self._recorder.record_if_possible(msgspec.structs.replace(told, by=by))

    def _is_again(self, alike: Hashable) -> bool:
        now = self._clock()
        with self._lock:
            again = now < self._told.pop(alike, 0.0)
            self._told[alike] = now + _ALIKE_S
            if len(self._told) > _MAX_ALIKE:
                self._told.popitem(last=False)
        return again
