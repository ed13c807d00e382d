"""Whether requests pass: normally all do; a lock makes those that need a key wait or fail, a quiesce makes
writes wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import NoReturn

import trio

from ioflt.datastore.home import Home
from ioflt.errors import ProviderLocked

_log = logging.getLogger("ioflt.mount")


class Shut(ProviderLocked):
    """A request came while the keys are locked. Logged already, once per file and lock."""


class _Hold:
    """Writes that wait: `count`, for how many; `over`, once it is for none."""

    def __init__(self) -> None:
        self.count = 0
        self.over = trio.Event()


class Gate:
    """Handlers call `await gate.read(…)` or `await gate.write(…)` when `closed` is true, and then, without
    another await, take the range lock: so whoever closes the gate and locks the range comes after them.
    `file` is what a refusal names.
    """

    def __init__(self, shut: Callable[[bool], None] = lambda _: None) -> None:
        """`shut` is told of each change of `closed`."""
        self.closed = False
        self._shut = shut
        self._closing = False
        self._reads_denied = False
        self._denied = False
        self._all: trio.Event | None = None
        self._holds: dict[Home | None, _Hold] = {}  # None: of all homes
        self._named: set[str] = set()

    def enter(self, file: str, *, keyless: bool) -> None:
        """For an open. Raises Shut while locked, or about to be."""
        if self.locked and not keyless:
            self._refuse(file)

    async def read(self, file: str, *, keyless: bool) -> None:
        """Wait while suspended. Raises Shut while denied. `keyless` I/O is not concerned."""
        if self._reads_denied and not keyless:
            self._refuse(file)
        await self._pass(file, keyless=keyless)

    async def write(self, file: str = "", *, keyless: bool, homes: Collection[Home] = ()) -> None:
        """Like `read`; waits while writes to one of these homes are held back, too, whatever they need."""
        await self._pass(file, keyless=keyless)
        while (hold := self._hold_on(homes)) is not None:
            await hold.over.wait()
            await self._pass(file, keyless=keyless)

    def begin(self, *, deny_reads: bool) -> None:
        """A lock begins: nothing is opened any more, and with `deny_reads` nothing read: pages that are
        dropped now do not come back. Writes pass, so that dirty pages can. `suspend` or `deny` follows.

        Reads must not be made to wait here: a page that is being read cannot be dropped.
        """
        self._named.clear()
        self._closing = True
        self._reads_denied = deny_reads
        self._update()

    def suspend(self) -> None:
        """I/O waits until `open`."""
        if self._all is None:
            self._all = trio.Event()
        self._update()

    def deny(self) -> None:
        """I/O fails until `open`, also what waits already."""
        self._denied = self._reads_denied = True
        self._release_all()
        self._update()

    def open(self) -> None:
        """End `begin`, `suspend` or `deny`."""
        self._closing = self._reads_denied = self._denied = False
        self._named.clear()
        self._release_all()
        self._update()

    def hold_writes(self, home: Home | None = None) -> None:
        """Writes to that home, or all, wait until each of these was followed by a `release_writes` of it."""
        self._holds.setdefault(home, _Hold()).count += 1
        self._update()

    def release_writes(self, home: Home | None = None) -> None:
        """End `hold_writes`, unless `end` did."""
        hold = self._holds.get(home)
        if hold is not None:
            hold.count -= 1
            if hold.count == 0:
                self._holds.pop(home).over.set()
        self._update()

    def end(self) -> None:
        """The mount ends: nothing waits any more. What a lock keeps back fails."""
        if self.locked:
            self.deny()
        while self._holds:
            self._holds.popitem()[1].over.set()
        self._update()

    @property
    def locked(self) -> bool:
        """Whether `begin`, `suspend` or `deny` is in force."""
        return self._closing or self._denied or self._all is not None

    def _hold_on(self, homes: Collection[Home]) -> _Hold | None:
        return next((self._holds[each] for each in (None, *homes) if each in self._holds), None)

    async def _pass(self, file: str, *, keyless: bool) -> None:
        if keyless:
            return
        if self._denied:
            self._refuse(file)
        while self._all is not None:
            await self._all.wait()
            if self._denied:
                self._refuse(file)

    def _refuse(self, file: str) -> NoReturn:
        shut = Shut("the key cache is locked", file=file)
        if file not in self._named:
            self._named.add(file)
            _log.warning("%s", shut)
        raise shut

    def _release_all(self) -> None:
        if self._all is not None:
            self._all.set()
            self._all = None

    def _update(self) -> None:
        self.closed = self.locked or bool(self._holds)
        self._shut(self.closed)
