"""Which processes use which keys: those that are connected now.

Whoever answers a process sets `asking` for the time of the answer; a thread that answers has a copy of its
own. Of a mount the process is its broker, which connects for it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ioflt.keys.cache import CAPACITY
from ioflt.transport.unix import Peer
from ioflt.types import KeyRef
from ioflt.wire.keyd.messages import User


class _Process:
    """One that is connected, and the keys that it used."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.connections = 0
        self.keys: dict[KeyRef, None] = {}  # in the order of first use


_asking: ContextVar[_Process | None] = ContextVar("asking", default=None)


class Users:
    """The connected processes. Safe for calls from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: dict[tuple[int, int], _Process] = {}

    @contextmanager
    def connected(self, peer: Peer) -> Iterator[None]:
        """While a connection of that process lasts; what is asked in the block is asked by it."""
        with self._lock:
            name = peer.pid, peer.uid
            process = self._processes.setdefault(name, _Process(User(peer.pid, peer.uid)))
            process.connections += 1
        before = _asking.set(process)
        try:
            yield
        finally:
            _asking.reset(before)
            with self._lock:
                process.connections -= 1
                if not process.connections:
                    del self._processes[name]

    def used(self, key: KeyRef) -> None:
        """Whoever asks now has used that key."""
        process = _asking.get()
        if process is not None and key not in process.keys:
            with self._lock:
                process.keys[key] = None
                if len(process.keys) > CAPACITY:
                    del process.keys[next(iter(process.keys))]

    def of(self, key: KeyRef) -> list[User]:
        """Who is connected and used that key, sorted by pid."""
        with self._lock:
            found = [process.user for process in self._processes.values() if key in process.keys]
        return sorted(found, key=lambda user: (user.pid, user.uid))

    @property
    def connections(self) -> int:
        """How many connections there are."""
        with self._lock:
            return sum(process.connections for process in self._processes.values())
