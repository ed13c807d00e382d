"""Whether requests pass: normally all do; a lock makes those that need a key wait or fail, a quiesce makes
writes wait.
"""

from __future__ import annotations

import trio

from ioflt.errors import ProviderLocked


class Gate:
    """Handlers call `await gate.read(…)` or `await gate.write(…)` when `closed` is true, and then, without
    another await, take the range lock: so whoever closes the gate and locks the range comes after them.
    """

    def __init__(self) -> None:
        self.closed = False
        self._denied = False
        self._all: trio.Event | None = None
        self._writes: trio.Event | None = None
        self._holds = 0

    async def read(self, *, keyless: bool) -> None:
        """Wait while suspended. Raises ProviderLocked while denied. `keyless` I/O is not concerned."""
        if keyless:
            return
        if self._denied:
            raise ProviderLocked("the key cache is locked")
        while self._all is not None:
            await self._all.wait()
            if self._denied:
                raise ProviderLocked("the key cache is locked")

    async def write(self, *, keyless: bool) -> None:
        """Like `read`; waits while writes are held back, too, whatever they need."""
        await self.read(keyless=keyless)
        while self._writes is not None:
            await self._writes.wait()
            await self.read(keyless=keyless)

    def suspend(self) -> None:
        """I/O waits until `open`."""
        if self._all is None:
            self._all = trio.Event()
        self._update()

    def deny(self) -> None:
        """I/O fails until `open`, also what waits already."""
        self._denied = True
        self._release_all()
        self._update()

    def open(self) -> None:
        """End `suspend` or `deny`."""
        self._denied = False
        self._release_all()
        self._update()

    def hold_writes(self) -> None:
        """Writes wait until each of these was followed by a `release_writes`."""
        self._holds += 1
        if self._writes is None:
            self._writes = trio.Event()
        self._update()

    def release_writes(self) -> None:
        """End `hold_writes`."""
        self._holds = max(0, self._holds - 1)
        if self._holds == 0 and self._writes is not None:
            self._writes.set()
            self._writes = None
        self._update()

    def end(self) -> None:
        """The mount ends: nothing waits any more. What a lock keeps back fails."""
        if self.locked:
            self.deny()
        self._holds = 1
        self.release_writes()

    @property
    def locked(self) -> bool:
        """Whether `suspend` or `deny` is in force."""
        return self._denied or self._all is not None

    def _release_all(self) -> None:
        if self._all is not None:
            self._all.set()
            self._all = None

    def _update(self) -> None:
        self.closed = self._denied or self._all is not None or self._writes is not None
