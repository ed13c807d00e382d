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
from ioflt.wire.keyd.replies import User


class _Process:
    """One that is connected, and the keys that it used."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.connections = 0
        self.keys: dict[KeyRef, None] = {}  # in the order of first use
        self.served: dict[KeyRef, None] = {}  # those under which it was given data keys


_asking: ContextVar[_Process | None] = ContextVar("asking", default=None)


def asking() -> User | None:
    """Whom keyd answers in this thread; None where it acts of its own accord."""
    process = _asking.get()
    return None if process is None else process.user


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
            self._note(process.keys, key)

    def is_served(self, key: KeyRef) -> bool:
        """Whether the process that asks now was `served` under that key before."""
        process = _asking.get()
        return process is not None and key in process.served

    def served(self, key: KeyRef) -> None:
        """Whoever asks now is given data keys under that key."""
        process = _asking.get()
        if process is not None:
            self._note(process.served, key)

    def of(self, key: KeyRef) -> list[User]:
        """Who is connected and used that key, sorted by pid."""
        with self._lock:
            found = [process.user for process in self._processes.values() if key in process.keys]
        return sorted(found, key=lambda user: (user.pid, user.uid))

    def _note(self, keys: dict[KeyRef, None], key: KeyRef) -> None:
        with self._lock:
            keys[key] = None
            if len(keys) > CAPACITY:
                del keys[next(iter(keys))]

    @property
    def connections(self) -> int:
        """How many connections there are."""
        with self._lock:
            return sum(process.connections for process in self._processes.values())
