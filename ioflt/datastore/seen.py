"""The datastores that this host has opened, and which keys open what is in them.

A note named by the datastore's id holds the path where that datastore was last. A datastore that moved or is
not there now cannot be asked: then nobody knows what it needs.

Of a path the notes say whose it is: who controls the storage could put another datastore's record there,
valid, and of a key that this host has. The note of a datastore that gave way there, or that was never
verified, says so.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

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

#: What follows a path that is the datastore's, and one that is not, or not for sure. No path has a NUL.
_OWN, _LOOSE = b"\n", b"\0\n"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Protected:
    """A VM, or a datastore itself, and the keys of which any one opens it; `also`: others it has for now.
    `policy` is the name of its storage policy.

    A clear VM is locked without the keys of its datastore. A datastore is when no VM can be made in it.
    """

    path: str
    keys: tuple[KeyRef, ...]
    also: tuple[KeyRef, ...] = ()
    is_datastore: bool = False
    policy: str = ""


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

    If it is `certain` that it has that id the path is its own, and nobody else's any more. Else nothing is
    remembered in the place of what was.
    """
    content = os.fsencode(path) + (_OWN if certain else _LOOSE)
    try:
        place = paths.find().ensure().datastores / datastore_id
        known = files.read(place, _MAX_NOTE) if place.exists() else b""
        if known == content or (known and not certain):
            return
        if certain:
            give_up(path, to=datastore_id)
        files.replace(place, content)
    except (IofltError, OSError) as error:
        _log.warning("cannot remember where the datastore is: %s", error)


def give_up(path: str, *, to: str) -> None:
    """The path is no other datastore's any more: that one is made there, or found. Raises StorageError."""
    before = at(path)
    if before not in (None, to):
        files.replace(paths.find().datastores / before, os.fsencode(path) + _LOOSE)


def place(datastore_id: str) -> str | None:
    """Where the datastore was last, if it was ever opened here."""
    noted = paths.find().datastores / datastore_id
    try:
        return _path(files.read(noted, _MAX_NOTE))
    except NotFoundError:
        return None


def at(path: str) -> str | None:
    """The id of the datastore to which the path belongs, as far as this host knows: by notes it can read."""
    own = os.fsencode(path) + _OWN
    for note in _notes():
        with suppress(IofltError):
            if files.read(note, _MAX_NOTE) == own:
                return note.name
    return None


def places() -> list[str]:
    """Where the datastores are that were opened here, as far as is known. Raises StorageError."""
    return sorted({_path(files.read(note, _MAX_NOTE)) for note in _notes()})


def _notes() -> list[Path]:
    """Without those that are being written."""
    found = paths.find().ensure().datastores.iterdir()
    return sorted(note for note in found if not note.name.startswith("."))


def _path(note: bytes) -> str:
    return os.fsdecode(note.removesuffix(_OWN).removesuffix(b"\0"))


def survey(also: Iterable[str] = ()) -> Survey:
    """All that the records of datastores say that were opened here; those at the paths `also`, too."""
    found = Survey()
    noted = [(_path(files.read(note, _MAX_NOTE)), note.name) for note in _notes()]
    own = {path for path, _ in noted}
    for path, ident in (*noted, *((path, None) for path in also if path not in own)):
        try:
            look(path, found, datastore_id=ident)
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
        own = Protected(path, record.keys, tuple(_also(record)), is_datastore=True, policy=record.policy)
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
                found.protected.append(Protected(where, home.keys, tuple(_also(home)), policy=home.policy))
            else:
                found.protected.append(Protected(where, own.keys, own.also, policy=home.policy))
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
