"""Raw copies beside their originals: homes of one id in one datastore.

That a home lies in two places is noticed when both were looked at (`sightings`). A mount looks for those that
were copied before it, so that none is written before somebody looked at the other.
"""

from __future__ import annotations

import os
from contextlib import suppress

from ioflt.datastore import records
from ioflt.datastore.volume import Volume
from ioflt.errors import CorruptDataError
from ioflt.format.record import record as form


def look(volume: Volume) -> None:
    """Look at all homes whose id another one has. Of others the record is read: 10,000 take 0.6 s of CPU.

    Raises IofltError, OSError.
    """
    first: dict[str, str] = {}
    alike: set[str] = set()
    for name in volume.homes():
        with suppress(OSError, CorruptDataError):  # whoever opens it hears of it
            other = first.setdefault(_id_of(volume, name), name)
            if other != name:
                alike |= {other, name}
    for name in sorted(alike):
        volume.home(name).unverified()


def _id_of(volume: Volume, name: str) -> str:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=volume.fd)
    try:
        return form.parse_home(records.read(fd)).record.home_id
    finally:
        os.close(fd)
