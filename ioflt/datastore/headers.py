"""The headers of a home's containers, backed up to one file and put back."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from ioflt.crypto.rng import new_uuid
from ioflt.datastore import clearfiles, reach, records, recovery
from ioflt.datastore.container import Progress
from ioflt.datastore.home import Home
from ioflt.datastore.volume import Volume
from ioflt.errors import AuthenticationError, CorruptDataError, MalformedError, ReadOnlyError, UsageError
from ioflt.format.headerbackup import archive
from ioflt.format.headerbackup.archive import HeaderBackup, SavedHeader
from ioflt.format.record import record as form
from ioflt.format.record.record import HomeRecord
from ioflt.keys import files


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did. `missing`: containers of the backup that the home no longer has."""

    record: bool
    restored: tuple[str, ...]
    missing: tuple[str, ...]


def backup(volume: Volume, name: str, progress: Progress | None = None) -> HeaderBackup:
    """All headers of the encrypted home, each checked against its keys first; `progress` hears of each.

    Raises UsageError for a clear home, ReadOnlyError for one without a valid record or under conversion,
    CorruptDataError, KeyUnavailableError, BusyError, OSError.
    """
    home = volume.home(name)
    problem = home.standing().problem
    if problem is not None:
        raise ReadOnlyError(problem, file=_path(home))
    saved = []
    for path in sorted(reach.containers(home)):
        with reach.reading(_path(home, path)) as fd:
            area = recovery.read_header_area(fd)
            recovery.check_restore(fd, volume.keys, area)
        saved.append(SavedHeader.of(path, area))
        if progress is not None:
            progress(1)
    return HeaderBackup(records.read(home.fd), tuple(saved))


def restore(volume: Volume, name: str, saved: HeaderBackup, progress: Progress | None = None) -> Restored:
    """Put the headers back, and the record if the one in place is missing or invalid.

    `progress` hears of each header that is checked, and of each that is back.

    Everything is checked before anything is changed. Raises AuthenticationError("another home"),
    ("another container") or ("another key epoch"), CorruptDataError, KeyUnavailableError, BusyError, OSError.
    """
    home = volume.home(name)
    record = _record_to_restore(volume, home, saved.record)
    decrypted = clearfiles.paths(home)  # since the backup
    present = [
        one for one in saved.headers if one.path not in decrypted and os.path.lexists(_path(home, one.path))
    ]
    for one in present:
        path = _path(home, one.path)
        if os.path.realpath(path) != path:
            raise MalformedError("not a regular file", "reached through a symbolic link", file=path)
        with reach.reading(path) as fd:
            recovery.check_restore(fd, volume.keys, one.area)
        if progress is not None:
            progress(1)
    if record is not None:  # an older state of the home: its id is not seen again
        home.store(replace(record, home_id=new_uuid()))
    for one in present:
        reach.restore_header(_path(home, one.path), volume.keys, one.area)
        if progress is not None:
            progress(1)
    restored = tuple(one.path for one in present)
    missing = tuple(one.path for one in saved.headers if one not in present)
    return Restored(record is not None, restored, missing)


def _record_to_restore(volume: Volume, home: Home, data: bytes) -> HomeRecord | None:
    """The backup's record, verified, if the home needs it; None if its own is valid and of the same key."""
    unverified = form.parse_home(data)
    record = unverified.record
    if not record.keys or record.operation is not None:
        raise UsageError("the backup's record is of no encrypted home", file=_path(home))
    if record.datastore_id != volume.record.datastore_id:
        raise AuthenticationError("another home", "the backup is of another datastore", file=_path(home))
    records.verify(unverified, record.keys, volume.keys, home.name)
    standing = home.standing()
    if standing.record is None:
        return record
    if standing.problem is not None:
        raise ReadOnlyError(standing.problem, file=_path(home))
    if standing.record.home_id != record.home_id:
        raise AuthenticationError("another home", f"the backup is of {record.home_id}", file=_path(home))
    if standing.record.keys != record.keys:
        raise AuthenticationError("another key epoch", "the home has a new key", file=_path(home))
    return None


def _path(home: Home, *parts: str) -> str:
    return os.path.join(os.path.realpath(home.volume.path), home.name, *parts)


def read_file(path: str | os.PathLike[str]) -> HeaderBackup:
    """The backup in the file at `path`. Raises CorruptDataError with the file's name, OSError."""
    try:
        with open(path, "rb") as file:
            return archive.parse(file.read(archive.MAX_SIZE + 1))
    except CorruptDataError as error:
        error.file = os.fspath(path)
        raise


def write_file(path: str | os.PathLike[str], saved: HeaderBackup) -> None:
    """Write the backup to a new file, mode 0600, durable, whole or not at all.

    Raises ExistsError, StorageError.
    """
    files.create(Path(path), archive.write(saved))
