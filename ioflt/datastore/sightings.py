"""How far a home has come and where it lies: its record against what this host, or others, have seen of it.

This host keeps that in its `memory`; others are asked through the providers of the home's keys, where these
keep generations, of a home that is not remembered here.
"""

from __future__ import annotations

import logging
import os

from ioflt.datastore import records
from ioflt.datastore.atomic import RECORD
from ioflt.datastore.memory import Memory, Seen, Stamp
from ioflt.datastore.standing import Refusal
from ioflt.errors import CorruptDataError, IofltError
from ioflt.format.record import record as form
from ioflt.format.record.record import HomeRecord
from ioflt.keys.service import KeyService

_log = logging.getLogger(__name__)


class Sightings:
    """Of one datastore's homes, which are given by a descriptor of their directory.

    `read_only`: nothing is written here, so that this is no copy that matters.
    """

    def __init__(self, memory: Memory, keys: KeyService, *, read_only: bool) -> None:
        self._memory = memory
        self._keys = keys
        self._read_only = read_only

    def compare(self, fd: int, record: HomeRecord) -> tuple[Refusal | None, str | None, Stamp | None]:
        """Compare a home's verified record with what was seen of it, and note the record.

        Why it is refused, if it is; and to what state of the memory that belongs.
        """
        memory, place = self._memory, place_of(fd)
        heard: Seen | None = None
        for _ in range(2):  # what was noted is looked at
            known = memory.stamp(record.home_id)
            seen = memory.look(record.home_id)
            if heard is None and record.keys and (known is None or not seen.asked):
                heard = self._hear(record)
            places = (*seen.places, *memory.met(record.home_id))
            others = tuple(one for one in places if one != place and is_copy(fd, one, record.home_id))
            gone = tuple(one for one in seen.places if one not in (*others, place))
            generation = max(record.generation, 0 if heard is None else heard.generation)
            news = generation > seen.generation or place not in seen.places
            learnt = heard is not None and (known is None or heard.asked != seen.asked)
            if not gone and not learnt and (self._read_only or not news):
                break
            here = None if self._read_only else place
            asked = None if heard is None else heard.asked
            memory.note(record.home_id, generation, here, gone, durable=known is not None, asked=asked)
        if others:
            return Refusal.COPIED, f"the same VM is in {others[-1]}, too (a raw copy)", known
        if heard is not None and record.generation < heard.generation:
            generations = f"generation {record.generation}, its key provider tells of {heard.generation}"
            return Refusal.ROLLED_BACK, f"it was rolled back: its record has {generations}", known
        if record.generation < seen.generation:
            generations = f"generation {record.generation}, this host has seen {seen.generation}"
            return Refusal.ROLLED_BACK, f"it was rolled back: its record has {generations}", known
        return None, None, known

    def written(self, fd: int, record: HomeRecord, before: str | None, *, counts: bool) -> None:
        """A record was written to a home that had the id `before`. `counts`: with a generation of its own."""
        place = place_of(fd)
        self._memory.note(record.home_id, record.generation, place)
        if counts and record.keys:
            self._tell(record)
        if before not in (None, record.home_id):  # another home from now on
            self._memory.note(before, 0, None, (place,))

    def _tell(self, record: HomeRecord) -> None:
        """For other hosts, and this one should it lose its memory. Best effort."""
        try:
            self._keys.note_generation(record.keys, record.home_id, record.generation)
        except IofltError as error:
            _log.info("%s: its generation is not noted with its keys: %s", record.home_id, error)

    def _hear(self, record: HomeRecord) -> Seen:
        """What others have seen of a home that this host does not remember, as far as providers tell."""
        try:
            generation, sure = self._keys.seen_generation(record.keys, record.home_id)
            return Seen(generation, asked=sure)
        except IofltError as error:
            _log.info("%s: what was seen of it is not known: %s", record.home_id, error)
            return Seen(asked=False)


def is_copy(here: int, place: str, home_id: str) -> bool:
    """Whether another directory is the same home. Its record is not verified: saying so is enough."""
    try:
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except PermissionError:  # a confined mount reads its own datastore only
        return os.path.lexists(os.path.join(place, RECORD)) and not _is_at(here, place)
    except OSError:
        return False
    try:
        if os.path.samestat(os.fstat(fd), os.fstat(here)):
            return False
        return form.parse_home(records.read(fd)).record.home_id == home_id
    except (OSError, CorruptDataError):
        return False
    finally:
        os.close(fd)


def _is_at(here: int, place: str) -> bool:
    try:
        return os.path.samestat(os.stat(place), os.fstat(here))
    except OSError:
        return False


def place_of(fd: int) -> str:
    """Where the directory lies, an absolute path."""
    return os.readlink(f"/proc/self/fd/{fd}")
