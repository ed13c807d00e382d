"""Clear files of an encrypted home get other names, or go: the record that lists them goes along.

It is changed by who has it alone (`Home.changing`). A file that is made at the name of a clear one, or
renamed to it, is encrypted, and the name leaves the list.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from ioflt.datastore import atomic, clearlist, records
from ioflt.datastore.home import Home
from ioflt.datastore.volume import Volume
from ioflt.errors import BusyError, IofltError
from ioflt.format.record import record as form
from ioflt.format.record.record import Rename

_log = logging.getLogger(__name__)


def paths(home: Home) -> tuple[str, ...]:
    """Of the clear files of an encrypted home; none of any other. Raises as `Home.standing`, OSError."""
    record = home.standing().record
    return () if record is None else clearlist.now(home.fd, record)


def has_any(home: Home) -> bool:
    """Whether a file of it may be clear though it is encrypted. Quicker than to ask for one."""
    record = home.standing().record
    return record is not None and (bool(record.clear_files) or isinstance(record.operation, Rename))


def concern(home: Home, path: str) -> bool:
    """Whether there is a clear file at the path, or below it."""
    return any(clearlist.is_below(one, path) for one in paths(home))


def rename(home: Home, old: str, new: str, do: Callable[[], None]) -> None:
    """Do the rename from `old` to `new`, paths in the home, and have the record say so.

    Nobody else changes names meanwhile. Afterwards both are durable. Raises what `do` raises; BusyError while
    another operation is under way; OSError.
    """
    with home.changing() as (record, store):
        if record.operation is not None:
            raise BusyError("its keys are being changed; clear files keep their names", file=home.name)
        if not clearlist.exists(home.fd, old):  # or else it would pass for renamed
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), old)
        if clearlist.is_below(new, old):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), old)
        record = store(replace(record, operation=Rename(old, new)), counts=False)
        try:
            do()
        except OSError:
            store(clearlist.settled(home.fd, record))
            raise
        store(clearlist.settled(home.fd, record))


def remove(home: Home, path: str, parent_fd: int, do: Callable[[], None]) -> None:
    """Do the removal of the file at the path, in the directory `parent_fd`; then its name is in no list.

    Raises what `do` raises; BusyError, OSError.
    """
    with home.changing() as (record, store):
        do()
        atomic.sync_directory(parent_fd)
        store(replace(record, clear_files=tuple(one for one in record.clear_files if one != path)))


def release(home: Home, path: str) -> None:
    """Before a file is made there: a name that is listed, but was removed behind our back, is free again."""
    if path not in paths(home) or clearlist.exists(home.fd, path):
        return
    with home.changing() as (record, store):
        if path in record.clear_files and not clearlist.exists(home.fd, path):
            store(replace(record, clear_files=tuple(one for one in record.clear_files if one != path)))


def resume(volume: Volume, *, but: str | None = None) -> list[str]:
    """End the renames of clear files that were interrupted, in all homes except `but`; their names.

    What fails is logged and stays as it is; it reads well.
    """
    ended = []
    for name in [] if volume.read_only else volume.homes():
        if name == but or not _seems_interrupted(volume, name):
            continue
        try:
            volume.home(name).check_writable()
            ended.append(name)
        except BusyError:
            continue
        except (IofltError, OSError) as error:
            _log.warning("an interrupted rename cannot be ended now: %s", error)
    return ended


def _seems_interrupted(volume: Volume, name: str) -> bool:
    """Whether a home's record, not yet verified, tells of a rename under way."""
    with suppress(IofltError, OSError):
        return isinstance(form.parse_home(records.read(volume.home(name).fd)).record.operation, Rename)
    return False
