"""Since when keys are missing: the first time that a provider did not give one, after it last did."""

from __future__ import annotations

import threading
import time

from ioflt.errors import KeyUnavailableError
from ioflt.keys.cache import CAPACITY
from ioflt.types import KeyRef


class MissingKeys:
    """Keys that their providers do not give, in memory. Safe for calls from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[KeyRef, tuple[int, KeyUnavailableError]] = {}

    def note(self, key: KeyRef, error: KeyUnavailableError | None) -> None:
        """Take note of a provider's answer: why it does not give the key, None when it does."""
        with self._lock:
            if error is None:
                self._known.pop(key, None)
                return
            since, _ = self._known.get(key, (int(time.time()), error))
            self._known[key] = since, error
            if len(self._known) > CAPACITY:
                del self._known[next(iter(self._known))]

    def get(self, key: KeyRef) -> tuple[int, KeyUnavailableError] | None:
        """Since when, in seconds since 1970, and why by the last answer; None: it is not missing."""
        return self._known.get(key)

    def forget(self) -> None:
        """Forget all."""
        with self._lock:
            self._known.clear()
