"""Whose turn it is to have the writes of one VM wait: one at a time, and then the VM's for as long.

So whoever may have them wait, and asks again and again, or over several connections, slows a guest down to
half, and never stops it.
"""

from __future__ import annotations

import math
from weakref import WeakKeyDictionary

import trio

from ioflt.datastore.home import Home
from ioflt.errors import BusyError


class Turns:
    """In one task's thread; times are trio's."""

    def __init__(self) -> None:
        #: Since when a home's writes wait, or its own turn lasts, and until when.
        self._all: WeakKeyDictionary[Home, tuple[float, float]] = WeakKeyDictionary()

    async def await_own(self, home: Home) -> None:
        """Return once the VM has had its own turn. Raises BusyError while its writes wait for somebody."""
        self._check(home)
        await trio.sleep_until(self._until(home))

    def begin(self, home: Home) -> None:
        """Its writes wait. Raises BusyError where it is not the caller's turn."""
        self._check(home)
        if self._until(home) > trio.current_time():
            raise BusyError("its writes waited for another backup a moment ago")
        self._all[home] = trio.current_time(), math.inf

    def end(self, home: Home) -> None:
        """They go on, for as long as they waited."""
        now = trio.current_time()
        self._all[home] = now, now + (now - self._all[home][0])

    def _check(self, home: Home) -> None:
        if math.isinf(self._until(home)):
            raise BusyError("its writes wait for another backup")

    def _until(self, home: Home) -> float:
        return self._all.get(home, (0.0, 0.0))[1]
