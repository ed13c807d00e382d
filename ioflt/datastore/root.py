"""The datastore's root: a home whose files follow the datastore's own record, which is kept up to date here.

That record changes when the datastore gets other keys, also under a mount. Then its keys MAC the records of
clear homes anew: who writes one of those holds the datastore's record for reading (`acting`), like somebody
who makes a file.

A datastore may be open although its key cannot be had. Then nothing is made or believed by its record until
that was verified, which `record` sees to; what it claims is there to be shown (`claimed`).
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace

from ioflt.datastore import records, seen
from ioflt.datastore.home import Datastore, Home
from ioflt.datastore.memory import Memory, Stamp
from ioflt.datastore.sightings import place_of
from ioflt.datastore.standing import Standing
from ioflt.errors import (
    AuthenticationError,
    BugError,
    CorruptDataError,
    IofltError,
    KeyUnavailableError,
    MalformedError,
)
from ioflt.format.record import record as form
from ioflt.format.record.record import DatastoreRecord
from ioflt.keys.service import KeyService

_log = logging.getLogger(__name__)


def load(fd: int, keys: KeyService, memory: Memory, *, accept_rollback: bool = False) -> DatastoreRecord:
    """The verified record of the datastore with that directory.

    Raises FileNotFoundError, CorruptDataError, also for one older than this host has seen unless that is
    accepted; KeyUnavailableError, OSError.
    """
    unverified = form.parse_datastore(records.read(fd))
    record = unverified.record
    records.verify(unverified, record.keys, keys, place_of(fd))
    newest = memory.look(record.datastore_id).generation
    if record.generation > newest:
        memory.note(record.datastore_id, record.generation, None)
    elif not accept_rollback:
        _check_generation(record, newest)
    return record


def claim(fd: int, memory: Memory) -> DatastoreRecord:
    """What the record there says, unverified; nothing of it is remembered.

    Raises FileNotFoundError, CorruptDataError, also for one that says itself that it is too old; OSError.
    """
    record = form.parse_datastore(records.read(fd)).record
    _check_generation(record, memory.look(record.datastore_id).generation)
    return record


def _check_generation(record: DatastoreRecord, newest: int) -> None:
    if record.generation < newest:
        generations = f"its record has generation {record.generation}, this host has seen {newest}"
        raise AuthenticationError("rolled back", generations)


class Root(Home):
    """The root of an open datastore. `claimed`: what its record said when it was read last.

    It stays the datastore that it was when it was opened: another one's record may be as valid.
    """

    def __init__(self, volume: Datastore, fd: int, record: DatastoreRecord, *, verified: bool) -> None:
        super().__init__(volume, "", fd)
        self.claimed = record
        self._record = record if verified else None

    @property
    def is_root(self) -> bool:
        return True

    @property
    def is_verified(self) -> bool:
        """Whether its record was ever verified since it was opened."""
        return self._record is not None

    @property
    def record(self) -> DatastoreRecord:
        """The verified record, as it was seen last. While none was, raises as `standing`."""
        if self._record is None:
            self.standing()
        if self._record is None:
            raise BugError("a datastore's record passed for verified")
        return self._record

    def replace(self, record: DatastoreRecord) -> DatastoreRecord:
        """Write the record, MACed by each of its keys, and read it back; what was written.

        Raises KeyUnavailableError when one of them cannot be had, CorruptDataError, OSError.
        """
        keys, memory = self.volume.keys, self.volume.memory
        newest = memory.look(record.datastore_id).generation
        stored = replace(record, generation=max(record.generation, newest) + 1)
        records.store(self.fd, stored, stored.keys, keys, self.volume.path)
        self._judged = None
        if load(self.fd, keys, memory) != stored:
            raise MalformedError("another record", "it was not read back as it was written")
        self.standing()
        return stored

    def _judge(self, known: Stamp | None) -> tuple[Standing, Stamp | None]:
        """What is not valid leaves the record of before, which then is nothing to write by.

        Raises CorruptDataError where there is none of before.
        """
        problem = None
        try:
            record = load(self.fd, self.volume.keys, self.volume.memory)
            if record.datastore_id != self.claimed.datastore_id:
                raise AuthenticationError("record of another datastore")
            if self._record is None:
                seen.note(record.datastore_id, self.volume.path)
                _log.info("%s: its key is there, and its record valid", self.volume.path)
            self._record = self.claimed = record
        except KeyUnavailableError as error:
            error.file = error.file or self.volume.path
            raise
        except FileNotFoundError:
            if self._record is None:
                raise MalformedError("no record", "the datastore's record is gone") from None
            problem = "the datastore's record is gone"
        except CorruptDataError as error:
            if self._record is None:
                raise
            problem = f"the datastore's record is not valid any more: {error}"
        if problem is not None:
            _log.warning("%s: %s", self.volume.path, problem)
        return self._by(problem), known

    def _claim(self, error: IofltError) -> Standing:
        if not self.is_verified:
            with suppress(CorruptDataError, OSError):  # it may have got other keys meanwhile
                claimed = claim(self.fd, self.volume.memory)
                if claimed.datastore_id == self.claimed.datastore_id:
                    self.claimed = claimed
        invalid = isinstance(error, CorruptDataError)
        why = (
            f"its record is not valid: {error}" if invalid else f"its own key cannot be had: {error.message}"
        )
        return self._by(why, locked=not invalid)

    def _by(self, problem: str | None, *, locked: bool = False) -> Standing:
        shown = self._record or self.claimed
        return Standing(shown.default, shown.keys, False, problem, None, locked=locked)
