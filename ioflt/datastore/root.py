"""The datastore's root: a home whose files follow the datastore's own record, which is kept up to date here.

That record changes when the datastore gets other keys, also under a mount. Then its keys MAC the records of
clear homes anew: who writes one of those holds the datastore's record for reading (`acting`), like somebody
who makes a file.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from ioflt.datastore import records
from ioflt.datastore.home import Datastore, Home
from ioflt.datastore.memory import Memory, Stamp
from ioflt.datastore.standing import Standing
from ioflt.errors import AuthenticationError, CorruptDataError, MalformedError
from ioflt.format.record import record as form
from ioflt.format.record.record import DatastoreRecord
from ioflt.keys.client import KeyService

_log = logging.getLogger(__name__)


def load(fd: int, keys: KeyService, memory: Memory, *, accept_rollback: bool = False) -> DatastoreRecord:
    """The verified record of the datastore with that directory.

    Raises FileNotFoundError, CorruptDataError, also for one older than this host has seen unless that is
    accepted; KeyUnavailableError, OSError.
    """
    unverified = form.parse_datastore(records.read(fd))
    record = unverified.record
    records.verify(unverified, record.keys, keys)
    seen = memory.look(record.datastore_id).generation
    if record.generation > seen:
        memory.note(record.datastore_id, record.generation, None)
    elif record.generation < seen and not accept_rollback:
        generations = f"its record has generation {record.generation}, this host has seen {seen}"
        raise AuthenticationError("rolled back", generations)
    return record


def claimed(fd: int) -> DatastoreRecord:
    """What the record there says, unverified. Raises FileNotFoundError, CorruptDataError, OSError."""
    return form.parse_datastore(records.read(fd)).record


class Root(Home):
    """The root of an open datastore."""

    def __init__(self, volume: Datastore, fd: int, record: DatastoreRecord) -> None:
        super().__init__(volume, "", fd)
        self.record = record

    @property
    def is_root(self) -> bool:
        return True

    def replace(self, record: DatastoreRecord) -> DatastoreRecord:
        """Write the record, MACed by each of its keys, and read it back; what was written.

        Raises KeyUnavailableError when one of them cannot be had, CorruptDataError, OSError.
        """
        keys, memory = self.volume.keys, self.volume.memory
        seen = memory.look(record.datastore_id).generation
        stored = replace(record, generation=max(record.generation, seen) + 1)
        records.store(self.fd, stored, stored.keys, keys)
        self._judged = None
        if load(self.fd, keys, memory) != stored:
            raise MalformedError("another record", "it was not read back as it was written")
        self.standing()
        return stored

    def _judge(self, known: Stamp | None) -> tuple[Standing, Stamp | None]:
        """What is not valid leaves the record of before, which then is nothing to write by."""
        problem = None
        try:
            record = load(self.fd, self.volume.keys, self.volume.memory)
            if record.datastore_id != self.record.datastore_id:
                raise AuthenticationError("record of another datastore")
            self.record = record
        except FileNotFoundError:
            problem = "the datastore's record is gone"
        except CorruptDataError as error:
            problem = f"the datastore's record is not valid any more: {error}"
        if problem is not None:
            _log.warning("%s: %s", self.volume.path, problem)
        return self._by(problem), known

    def _claim(self, why: str) -> Standing:
        return self._by(f"its key cannot be had: {why}")

    def _by(self, problem: str | None) -> Standing:
        return Standing(self.record.default, self.record.keys, False, problem, None)
