"""Raw copies beside their originals: homes of one id in one datastore.

That a home lies in two places is noticed as soon as this host remembers both (`sightings`), which it does of
a home whose record it verified. A mount looks at directories without a key, for which it might have to wait:
so it compares ids, of all homes as it starts and of each that it meets later. Two of one id are remembered at
once, whatever their records are worth, by this mount alone: others do once records were verified.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from weakref import WeakSet

from ioflt.datastore import records
from ioflt.datastore.home import Home
from ioflt.datastore.sightings import is_copy, place_of
from ioflt.datastore.volume import Volume
from ioflt.errors import CorruptDataError
from ioflt.format.record import record as form

_log = logging.getLogger(__name__)


class Copies:
    """The ids of the homes of a volume that were met, and where. Safe for several threads."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._first: dict[str, str] = {}
        self._met: WeakSet[Home] = WeakSet()

    def look(self) -> None:
        """At all homes: the reading of 10,000 records takes 0.6 s of CPU."""
        for name in self._volume.homes():
            with suppress(OSError):
                fd = os.open(
                    name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._volume.fd
                )
                try:
                    self._is_compared(fd)
                finally:
                    os.close(fd)

    def is_new(self, home: Home) -> bool:
        """Whether it was not met yet, with a record."""
        return home not in self._met

    def meet(self, home: Home) -> None:
        """At that home, the first time, and again as long as it has no record: it may be being copied."""
        with suppress(OSError):
            if self._is_compared(home.fd):
                self._met.add(home)

    def _is_compared(self, fd: int) -> bool:
        """Whether there was a record whose id could be compared. Raises OSError."""
        try:
            home_id = form.parse_home(records.read(fd)).record.home_id
        except CorruptDataError:  # whoever opens it hears of it
            return False
        place = place_of(fd)
        other = self._first.setdefault(home_id, place)
        if other == place:
            return True
        if not is_copy(fd, other, home_id):  # it was renamed
            self._first[home_id] = place
            return True
        _log.info("%s and %s are one VM: one is a raw copy of the other", other, place)
        self._volume.memory.meet(home_id, other, place)
        return True
