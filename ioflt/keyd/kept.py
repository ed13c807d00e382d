"""The KEKs in keyd's memory, each with where it is from and until when it is good."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from ioflt.crypto.secret import Secret
from ioflt.keys.cache import KeyCache
from ioflt.keys.sealed.clock import LatestTime
from ioflt.types import KeyRef
from ioflt.wire.keyd.values import Source


@dataclass(frozen=True, slots=True)
class Facts:
    """When its provider gave a key; what was sealed to the host is good until `expires` only."""

    source: Source
    fetched: int
    expires: int | None = None


class KeptKeys:
    """KEKs by reference; an expired one is wiped by whoever meets it. Safe for calls from several threads."""

    def __init__(self, clock: LatestTime) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._keks: KeyCache[KeyRef] = KeyCache()
        self._facts: dict[KeyRef, Facts] = {}
        #: What kind of memory holds them.
        self.kind = self._keks.kind

    def put(self, key: KeyRef, kek: Secret, facts: Facts) -> None:
        """Keep a copy. What was sealed does not take the place of what the provider gave to this process."""
        with self._lock:
            known = self._facts.get(key)
            if known is not None and (known.source, facts.source) == ("provider", "sealed"):
                return
            gone = self._keks.put(key, kek)
            self._facts[key] = facts
            if gone is not None:
                del self._facts[gone]

    def get(self, key: KeyRef) -> Secret | None:
        """A copy in ordinary memory, for the caller to use at once and wipe."""
        return self._keks.get(key) if self.facts(key) is not None else None

    def facts(self, key: KeyRef) -> Facts | None:
        """What is known of a key that is here, and good."""
        with self._lock:
            facts = self._facts.get(key)
            if facts is None or facts.expires is None or facts.expires > self._clock.now():
                return facts
            self._drop(key)
            return None

    def all(self) -> list[tuple[KeyRef, Facts]]:
        """All that are here and good, in the order of provider and key id."""
        self.drop_expired()
        with self._lock:
            return sorted(self._facts.items(), key=lambda item: (item[0].provider, item[0].key_id))

    def drop_expired(self) -> None:
        """Wipe what is good no more."""
        now = self._clock.now()
        with self._lock:
            for key, facts in list(self._facts.items()):
                if facts.expires is not None and facts.expires <= now:
                    self._drop(key)

    def drop_if(self, chosen: Callable[[KeyRef], bool]) -> None:
        """Wipe chosen keys."""
        with self._lock:
            for key in [key for key in self._facts if chosen(key)]:
                self._drop(key)

    def drop(self, key: KeyRef) -> None:
        """Wipe a key, if it is here."""
        with self._lock:
            if key in self._facts:
                self._drop(key)

    def wipe(self) -> None:
        """Wipe all keys."""
        with self._lock:
            self._keks.wipe()
            self._facts.clear()

    def __len__(self) -> int:
        return len(self._facts)

    def __contains__(self, key: KeyRef) -> bool:
        return self.facts(key) is not None

    def _drop(self, key: KeyRef) -> None:
        del self._facts[key]
        self._keks.drop(key)
