"""The datastores that this host has opened, and which keys open what is in them.

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
from ioflt.datastore.standing import is_private
from ioflt.errors import CorruptDataError, IofltError, MalformedError, NotFoundError
from ioflt.format.record import record as form
from ioflt.format.record.record import DatastoreRecord, Deep, HomeRecord, Recrypt
from ioflt.keys import files
from ioflt.types import HomeState, KeyRef

#: Longest path in a note.
_MAX_NOTE = 8192

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Protected:
    """A VM, or a datastore itself, and the keys of which any one opens it; `also`: others it has for now.

    A clear VM is locked without the keys of its datastore. A datastore is when no VM can be made in it.
    """

    path: str
    keys: tuple[KeyRef, ...]
    also: tuple[KeyRef, ...] = ()
    is_datastore: bool = False


@dataclass(slots=True)
class Survey:
    """What is protected by keys, and what could not be read: path, and why."""

    protected: list[Protected] = field(default_factory=list)
    unknown: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Use:
    """A VM or datastore with keys of a provider. `locks`: no other provider has a key for it."""

    path: str
    locks: bool
    is_datastore: bool = False


def note(datastore_id: str, path: str, *, certain: bool = True) -> None:
    """Remember where a datastore is, if that changed. Whatever goes wrong is no obstacle to using it.

    Unless it is `certain` that it has that id nothing is remembered in the place of what was.
    """
    content = os.fsencode(path) + b"\n"
    try:
        place = paths.find().ensure().datastores / datastore_id
        known = files.read(place, _MAX_NOTE) if place.exists() else b""
        if known != content and (certain or not known):
            files.replace(place, content)
    except IofltError as error:
        _log.warning("cannot remember where the datastore is: %s", error)


def place(datastore_id: str) -> str | None:
    """Where the datastore was last, if it was ever opened here."""
    noted = paths.find().datastores / datastore_id
    try:
        return os.fsdecode(files.read(noted, _MAX_NOTE).removesuffix(b"\n"))
    except NotFoundError:
        return None


def survey() -> Survey:
    """All that the records of datastores say that were opened here."""
    found = Survey()
    for place in sorted(paths.find().ensure().datastores.iterdir()):
        if place.name.startswith("."):
            continue  # a note that was being written
        path = os.fsdecode(files.read(place, _MAX_NOTE).removesuffix(b"\n"))
        try:
            look(path, found, datastore_id=place.name)
        except (IofltError, OSError) as error:
            found.unknown.append((path, _reason(error)))
    return found


def uses(found: Survey, provider: str) -> list[Use]:
    """Who needs the keys of that provider."""
    return [
        Use(one.path, all(key.provider == provider for key in named), one.is_datastore)
        for one in found.protected
        for named in [(*one.keys, *one.also)]
        if any(key.provider == provider for key in named)
    ]


def look(path: str, found: Survey, *, datastore_id: str | None = None) -> None:
    """Add what a datastore's records say, unverified. Raises NotFoundError, CorruptDataError, OSError."""
    top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            record = form.parse_datastore(records.read(top)).record
        except FileNotFoundError:
            raise NotFoundError("no datastore here", file=path) from None
        except MalformedError as error:
            records.refuse_home(error, path)
            error.file = error.file or path
            raise
        if datastore_id not in (None, record.datastore_id):
            raise NotFoundError("another datastore is there now")
        own = Protected(path, record.keys, tuple(_also(record)), is_datastore=True)
        found.protected.append(own)
        for name in _directories(top):
            where = os.path.join(path, name)
            try:
                home = _read(top, name)
            except (IofltError, OSError) as error:
                found.unknown.append((where, _reason(error)))
                continue
            if home is None:
                continue
            if home.state is HomeState.ENCRYPTED:
                found.protected.append(Protected(where, home.keys, tuple(_also(home))))
            else:
                found.protected.append(Protected(where, own.keys, own.also))
    finally:
        os.close(top)


def _directories(top: int) -> Iterator[str]:
    with os.scandir(top) as entries:
        yield from sorted(
            entry.name
            for entry in entries
            if entry.is_dir(follow_symlinks=False) and not is_private(entry.name)
        )


def _read(top: int, name: str) -> HomeRecord | None:
    """A home's record; None for an empty home without one. Raises NotFoundError for content without one."""
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
    try:
        try:
            return form.parse_home(records.read(fd)).record
        except FileNotFoundError:
            if not os.listdir(fd):
                return None
            raise NotFoundError(f"it has no record ({RECORD})") from None
    finally:
        os.close(fd)


def _also(record: HomeRecord | DatastoreRecord) -> Iterator[KeyRef]:
    if isinstance(record.operation, Recrypt | Deep):
        for key in (*record.operation.old, *record.operation.to):
            if key not in record.keys:
                yield key


def _reason(error: IofltError | OSError) -> str:
    if isinstance(error, CorruptDataError):
        return f"its record: {error.message}"
    if isinstance(error, IofltError):
        return error.message
    return os.strerror(error.errno or 0)
