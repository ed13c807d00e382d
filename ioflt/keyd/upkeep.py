"""The thread that does what nobody asks for: it writes sealed keys, and from time to time renews them.

What a provider gave is on disk about a second later, with all else that came in that second: 10,000 keys are
a few writes, of 1.1 MB and 16 ms at most. A keyd that is killed meanwhile loses it, and asks the provider
again.
"""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType

from ioflt.keyd.service import Service

#: Seconds between a change and its way to disk.
DELAY_S = 1.0

#: Seconds between two times that expired keys are wiped and old ones asked for again.
INTERVAL_S = 600.0

_log = logging.getLogger(__name__)


class Upkeep:
    """Runs while its `with` block lasts."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def __enter__(self) -> Upkeep:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """It may be waiting for a key server, and is not waited for: what it does ends with the process."""
        self._end.set()
        self._service.changed.set()

    def _run(self) -> None:
        due = time.monotonic() + INTERVAL_S
        while not self._end.is_set():
            changed = self._service.changed.wait(max(0.0, due - time.monotonic()))
            if self._end.is_set() or (changed and self._end.wait(DELAY_S)):
                return
            try:
                if changed:
                    self._service.changed.clear()
                    self._service.save()
                if time.monotonic() >= due:
                    due = time.monotonic() + INTERVAL_S
                    self._service.upkeep()
            except Exception:  # nothing of it may end what keeps keys from expiring
                _log.exception("a bug, met by the upkeep")
