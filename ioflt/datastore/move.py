"""Moves of whole homes: under another name, into another datastore, to another key.

Where a rename does it, other keys come first, by a shallow recrypt, which goes on by itself: an interrupted
move leaves the home where it was, or all is done. Where files have to be copied the copy is made aside. Then
the old home's record says which home takes its place, and from here on it takes no writes; the copy gets its
name; the old home goes. Who finds that record later looks whether the copy has appeared: then the old one
goes, else it is as it was before. So never are two of them written to.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import replace

from ioflt import syscalls
from ioflt.crypto.rng import new_uuid
from ioflt.datastore import guards, records, recrypt, regular, seen
from ioflt.datastore.clone import copy_files, first_record, sound, spec_of
from ioflt.datastore.container import Progress
from ioflt.datastore.home import Home
from ioflt.datastore.newhome import check_name, dispose, new_home, no_changes
from ioflt.datastore.volume import Volume
from ioflt.errors import BusyError, DeniedError, IofltError, NotFoundError, ReadOnlyError, UsageError
from ioflt.format.record import record as form
from ioflt.format.record.record import HomeRecord, Move
from ioflt.policy.crypto import CryptoSpec
from ioflt.types import HomeState, KeyRef

_log = logging.getLogger(__name__)


def move(
    source: Volume,
    name: str,
    target: Volume,
    new_name: str,
    *,
    key_id: str | None = None,
    provider: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Bring a powered-off VM under another name, or into another datastore.

    `key_id`, `provider`: it gets that key, or a new one of the provider, as `recrypt` says. Without them keys
    stay as they are where a rename does it; else it gets new ones of the target's provider. `source` and
    `target` may be the same object. Raises BusyError, ReadOnlyError, ExistsError, UsageError,
    KeyUnavailableError, CorruptDataError, StorageError; then it is where it was.
    """
    home = source.home(name)
    with regular.named(home), home.exclusive():
        record = sound(home)
        renamed = source is target and record.state is HomeState.ENCRYPTED and not (key_id or provider)
        _check_leaves(source, home, renamed=renamed)
        check_name(target, new_name)
        encrypted = HomeState.ENCRYPTED in (record.state, target.record.default)
        clear = record.state is HomeState.CLEAR
        if (key_id or provider) and (not encrypted or (clear and source is target)):
            raise UsageError("is clear: it has no keys")
        if not _can_rename(source, record, target):
            _copy(source, home, record, target, new_name, key_id, provider, progress)
            return
    if key_id is not None or provider is not None:
        _change_keys(source, name, record, key_id, provider)
    with regular.named(home), home.exclusive():
        if source is target:
            _rename_here(home, sound(home), new_name)
        else:
            _rename_across(home, sound(home), source, target, new_name)


def resume(volume: Volume, *, but: str | None = None) -> list[str]:
    """Finish the interrupted moves out of the datastore, or take them back; names of homes that have gone.

    What fails is logged and stays resumable: also where the other datastore is not there, or cannot be
    reached by this process, as by a mount.
    """
    gone = []
    for name in [] if volume.read_only else volume.homes():
        if name == but or not _seems_interrupted(volume, name):
            continue
        home = volume.home(name)
        try:
            with regular.named(home), home.exclusive():
                standing = home.standing()
                record = standing.record
                if record is None or standing.refusal is not None or not isinstance(record.operation, Move):
                    continue
                if _settle(volume, home, record, record.operation):
                    gone.append(name)
        except BusyError:
            continue
        except IofltError as error:
            _log.warning("an interrupted move cannot be finished now: %s", error)
    return gone


def _seems_interrupted(volume: Volume, name: str) -> bool:
    """Whether a home's record, not yet verified, tells of a move under way."""
    with suppress(IofltError, OSError):
        return isinstance(form.parse_home(records.read(volume.home(name).fd)).record.operation, Move)
    return False


# By renaming


def _can_rename(source: Volume, record: HomeRecord, target: Volume) -> bool:
    """A clear home's record is MACed by its datastore's keys, and no record is good for both.

    No rename leads from one mount to another, be they of one file system.
    """
    if source is target:
        return True
    one_mount = syscalls.mount_id(source.fd) == syscalls.mount_id(target.fd)
    one_device = os.fstat(source.fd).st_dev == os.fstat(target.fd).st_dev  # a subvolume has one of its own
    return record.state is HomeState.ENCRYPTED and one_mount and one_device


def _check_leaves(source: Volume, home: Home, *, renamed: bool) -> None:
    """Before anything is done: raises ReadOnlyError when the home cannot be removed from where it is.

    `renamed`: nothing in it changes.
    """
    for fd in (source.fd,) if renamed else (source.fd, home.fd):
        if (why := no_changes(fd)) is not None:
            raise ReadOnlyError(f"cannot be moved away: {why}")


def _change_keys(
    volume: Volume, name: str, record: HomeRecord, key_id: str | None, provider: str | None
) -> None:
    if key_id is not None and record.operation is None:
        wanted = KeyRef(provider or record.keys[0].provider, key_id)
        if record.keys == (wanted,):  # from an attempt that was interrupted
            return
    recrypt.recrypt(volume, name, key_id=key_id, provider=provider)


def _rename_here(home: Home, record: HomeRecord, new_name: str) -> None:
    volume_fd = home.volume.fd
    if record.state is HomeState.CLEAR:
        home.before_rename(new_name)
    syscalls.renameat2(volume_fd, home.name, volume_fd, new_name, syscalls.RENAME_NOREPLACE)
    os.fsync(volume_fd)
    if record.state is HomeState.CLEAR:
        home.after_rename(new_name)


def _rename_across(home: Home, record: HomeRecord, source: Volume, target: Volume, new_name: str) -> None:
    syscalls.renameat2(source.fd, home.name, target.fd, new_name, syscalls.RENAME_NOREPLACE)
    os.fsync(target.fd)
    os.fsync(source.fd)
    source.forget(home)
    there = target.home(new_name)
    try:
        there.store(replace(record, datastore_id=target.record.datastore_id))
    except DeniedError:  # who may not bring it there does not leave it there
        syscalls.renameat2(target.fd, new_name, source.fd, home.name, syscalls.RENAME_NOREPLACE)
        os.fsync(source.fd)
        os.fsync(target.fd)
        target.forget(there)
        raise


# By copying


def _copy(
    source: Volume,
    home: Home,
    record: HomeRecord,
    target: Volume,
    new_name: str,
    key_id: str | None,
    provider: str | None,
    progress: Progress | None,
) -> None:
    """The caller has exclusive use of the home."""
    if record.operation is not None:
        raise UsageError("its recrypt was interrupted, and comes first")
    key = None
    if key_id is not None:
        has = record.keys or target.record.keys
        key = recrypt.existing(target.keys, KeyRef(provider or has[0].provider, key_id))
    if spec_of(record, target, None) is CryptoSpec.ENCRYPT:
        guards.check_home(home, record)
    first = first_record(record, target, new_name, provider, key=key)
    operation = Move(new_uuid(), first.home_id, first.datastore_id)
    leaving = record
    try:
        with new_home(target, new_name, first) as new:
            copy_files(home, new, progress)
            leaving = home.store(replace(record, operation=operation))
    except BaseException:  # also a key pressed: two of them that take writes must not stay
        if leaving.operation is not None:  # perhaps the copy has its name
            with suppress(IofltError, OSError):  # then the next start looks again
                _settle(source, home, leaving, operation)
        raise
    dispose(source, home)


def _settle(source: Volume, home: Home, record: HomeRecord, operation: Move) -> bool:
    """Nobody moves the home any more: it goes if its copy is there. Whether it went.

    The caller has exclusive use of it. Raises NotFoundError when the other datastore is not there now, and
    what opening it raises.
    """
    path = seen.place(operation.datastore_id)
    if path is None:
        raise NotFoundError(f"the datastore {operation.datastore_id} was never opened on this host")
    with Volume.open(path, source.keys, read_only=True) as target:
        if target.record.datastore_id != operation.datastore_id:
            raise NotFoundError("another datastore is there now", file=path)
        arrived = any(_is_that(target.home(name), operation.home_id) for name in target.homes())
    if arrived:
        dispose(source, home)
        _log.info("%s: moved into %s", home.name, path)
    else:
        home.store(replace(record, operation=None))
        _log.info("%s: stays, as its copy in %s was not completed", home.name, path)
    return arrived


def _is_that(home: Home, home_id: str) -> bool:
    try:
        found = form.parse_home(records.read(home.fd)).record.home_id == home_id
    except (OSError, IofltError):
        return False
    if not found:
        return False
    standing = home.standing()  # by a key: that it says so is not enough
    return standing.record is not None
