"""The datastores that this host has opened, and which of their VMs a key provider would take along.

A note named by the datastore's id holds the path where that datastore was last. A datastore that moved or is
not there now cannot be asked: then nobody knows what it needs.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from ioflt import paths
from ioflt.datastore import records
from ioflt.datastore.atomic import RECORD
from ioflt.datastore.home import is_private
from ioflt.errors import CorruptDataError, IofltError, NotFoundError
from ioflt.format.record import record as form
from ioflt.format.record.record import Deep, HomeRecord, Recrypt
from ioflt.keys import files
from ioflt.types import HomeState, KeyRef

#: Longest path in a note.
_MAX_NOTE = 8192

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Use:
    """A VM or datastore with keys of the provider. `locks`: no other provider has a key for it."""

    path: str
    locks: bool


@dataclass(slots=True)
class Survey:
    """What is known of the uses of a provider, and what could not be read: path, and why."""

    uses: list[Use] = field(default_factory=list)
    unknown: list[tuple[str, str]] = field(default_factory=list)


def note(datastore_id: str, path: str) -> None:
    """Remember where a datastore is, if that changed. Whatever goes wrong is no obstacle to using it."""
    content = os.fsencode(path) + b"\n"
    try:
        place = paths.find().ensure().datastores / datastore_id
        known = files.read(place, _MAX_NOTE) if place.exists() else b""
        if known != content:
            files.replace(place, content)
    except IofltError as error:
        _log.warning("cannot remember where the datastore is: %s", error)


def survey(provider: str) -> Survey:
    """Who needs the keys of that provider, as the records of all datastores say that were opened here."""
    found = Survey()
    for place in sorted(paths.find().ensure().datastores.iterdir()):
        if place.name.startswith("."):
            continue  # a note that was being written
        path = os.fsdecode(files.read(place, _MAX_NOTE).removesuffix(b"\n"))
        try:
            _look(path, place.name, provider, found)
        except (IofltError, OSError) as error:
            found.unknown.append((path, _reason(error)))
    return found


def _look(path: str, datastore_id: str, provider: str, found: Survey) -> None:
    top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        record = form.parse_datastore(records.read(top)).record
        if record.datastore_id != datastore_id:
            raise NotFoundError("another datastore is there now")
        if record.key.provider == provider:
            found.uses.append(Use(path, locks=True))
        for name in _directories(top):
            where = os.path.join(path, name)
            try:
                keys = _keys(top, name)
            except (IofltError, OSError) as error:
                found.unknown.append((where, _reason(error)))
                continue
            if any(key.provider == provider for key in keys):
                found.uses.append(Use(where, locks=all(key.provider == provider for key in keys)))
    finally:
        os.close(top)


def _directories(top: int) -> Iterator[str]:
    with os.scandir(top) as entries:
        yield from sorted(
            entry.name
            for entry in entries
            if entry.is_dir(follow_symlinks=False) and not is_private(entry.name)
        )


def _keys(top: int, name: str) -> set[KeyRef]:
    """The keys that a home's record names. Raises NotFoundError for content without a record."""
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
    try:
        try:
            record = form.parse_home(records.read(fd)).record
        except FileNotFoundError:
            if not os.listdir(fd):
                return set()
            raise NotFoundError(f"it has no record ({RECORD})") from None
        return set(_named(record))
    finally:
        os.close(fd)


def _named(record: HomeRecord) -> Iterator[KeyRef]:
    if record.state is HomeState.CLEAR:
        return
    yield from record.keys
    if isinstance(record.operation, Recrypt | Deep):
        yield from record.operation.old
        yield from record.operation.to


def _reason(error: IofltError | OSError) -> str:
    if isinstance(error, CorruptDataError):
        return f"its record: {error.message}"
    if isinstance(error, IofltError):
        return error.message
    return os.strerror(error.errno or 0)
