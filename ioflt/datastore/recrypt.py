"""Shallow recrypt: other KEKs around the same DEKs, also while the VM runs from a mount.

What is recrypted is a home, or the datastore itself: its root, whose keys MAC the records of clear homes as
well. In three steps, each begun by a change of the home's record (the datastore's):

1. The record names the new keys and then the old ones, and every file gets a token for the new ones.
2. When each file was read back, and opened by each new key, the record names the new keys alone.
3. The tokens for the old keys go; when none is left the operation ends.

The records of clear homes take part as files do: MACs by all keys, then by the new ones alone.

Files say themselves by which keys they open, so an interruption leaves nothing to be guessed: each opens by
the old keys, the new ones, or both. A file is made or moved while its maker holds the record's lock for
reading. The record is changed, and the last look at all files is taken, by who holds it for writing: nobody
can make a file for the old keys, or move one past that look.

Who has a file open for writing changes it: this process, or a mount that is asked over its control socket.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from ioflt.crypto.rng import new_uuid
from ioflt.datastore import atomic, clearlist, reach, records, regular, wrapping
from ioflt.datastore.home import Home
from ioflt.datastore.root import Root
from ioflt.datastore.standing import Treatment
from ioflt.datastore.volume import Volume
from ioflt.datastore.walk import Node, walk
from ioflt.datastore.wrapping import Change
from ioflt.errors import (
    BugError,
    BusyError,
    IofltError,
    NotFoundError,
    ProviderUnavailable,
    ReadOnlyError,
    UsageError,
)
from ioflt.format.record import record as form
from ioflt.format.record.record import MAX_KEYS, DatastoreRecord, HomeRecord, Recrypt
from ioflt.keys.mounts import MountControl
from ioflt.keys.service import KeyService
from ioflt.types import HomeState, KeyRef

#: Told of files done, for a progress bar.
Progress = Callable[[int], None]

#: Changes the keys of a file that this mount has open; the path is relative to the datastore.
Here = Callable[[str, Change], None]

#: Seconds for which a file's writer may be on its way: in no mount any more, or in none yet.
_WRITER_WAIT_S = 10.0
_WRITER_PAUSE_S = 0.02

#: Rounds over all files, each of which ends with all of them done unless files change hands meanwhile.
_MAX_ROUNDS = 100

_Record = HomeRecord | DatastoreRecord

_log = logging.getLogger(__name__)


def recrypt(
    volume: Volume,
    name: str,
    *,
    key_id: str | None = None,
    provider: str | None = None,
    add: str | None = None,
    progress: Progress | None = None,
) -> tuple[KeyRef, ...]:
    """Give the encrypted home other keys; those that it has then.

    `key_id`: that key, of `provider` or else of the provider of its first key. `provider` alone: a new key of
    that. `add`: a new key of that provider, and the others stay. None of them: a new key in the place of
    each, or to go on with what was interrupted. Then other keys may be named as well, also the old ones.

    After an error all opens by the keys that it opened by before, and the call can be repeated. Raises
    UsageError, BusyError, ReadOnlyError, KeyUnavailableError, CorruptDataError, StorageError.
    """
    return _recrypt(volume.home(name), key_id, provider, add, progress)


def recrypt_datastore(
    volume: Volume,
    *,
    key_id: str | None = None,
    provider: str | None = None,
    add: str | None = None,
    progress: Progress | None = None,
) -> tuple[KeyRef, ...]:
    """The same for the datastore's own keys; its encrypted homes keep theirs. Raises as `recrypt`."""
    return _recrypt(volume.root, key_id, provider, add, progress)


def _recrypt(
    home: Home, key_id: str | None, provider: str | None, add: str | None, progress: Progress | None
) -> tuple[KeyRef, ...]:
    with regular.named(home), home.recrypting():
        atomic.remove_drafts(home.fd)
        record = _record(home)
        operation = record.operation
        if not (isinstance(operation, Recrypt) and key_id is None and provider is None and add is None):
            record = _begin(home, record, _target(home.volume.keys, record, key_id, provider, add))
        _finish(home, record, progress)
        return _record(home).keys


def resume(
    volume: Volume, *, progress: Progress | None = None, but: str | None = None, here: Here | None = None
) -> list[str]:
    """Finish the interrupted recrypts of all homes except `but`, and the datastore's; names of the finished.

    The datastore's is "". `here`: what a mount does for files that it has open itself. What fails is logged
    and stays resumable; a home on which another command works is left to it.
    """
    finished = []
    for name in [] if volume.read_only else ["", *volume.homes()]:
        if name == but or not _seems_interrupted(volume, name):
            continue
        try:
            home = volume.home(name) if name else volume.root
            with regular.named(home), home.recrypting():
                atomic.remove_drafts(home.fd)
                record = _record(home)
                if isinstance(record.operation, Recrypt):
                    _finish(home, record, progress, here)
                    finished.append(name)
        except BusyError:
            continue
        except IofltError as error:
            _log.warning("an interrupted recrypt cannot be resumed now: %s", error)
    return finished


def files(volume: Volume, name: str) -> int:
    """How many steps `recrypt` reports to its `progress`, about."""
    home = volume.home(name)
    with regular.named(home):
        return 2 * len(regular.regular_files(home))


def _record(home: Home) -> _Record:
    record: _Record | None = home.check_writable().record
    if home.is_root:
        record = home.volume.record
    if record is None:
        raise ReadOnlyError("it has no record")
    if not record.keys:
        raise UsageError("is clear: it has no keys")
    return record


def _as_it_is(home: Home, record: _Record) -> _Record:
    """The home's record while it is frozen: clear files may have got other names since it was read."""
    now = home.standing().record
    return record if now is None else clearlist.settled(home.fd, now)


def _store(home: Home, record: _Record) -> _Record:
    if isinstance(record, HomeRecord):
        return home.store(record)
    if isinstance(home, Root):
        return home.replace(record)
    raise BugError("a datastore's record for a home")


def _seems_interrupted(volume: Volume, name: str) -> bool:
    """Whether a record, not yet verified, tells of a recrypt under way."""
    if not name:
        return volume.claimed.operation is not None
    with suppress(IofltError, OSError):
        return isinstance(form.parse_home(records.read(volume.home(name).fd)).record.operation, Recrypt)
    return False


# Beginning


def _target(
    keys: KeyService, record: _Record, key_id: str | None, provider: str | None, add: str | None
) -> tuple[KeyRef, ...]:
    """The keys that the home is to have."""
    now = record.operation.to if isinstance(record.operation, Recrypt) else record.keys
    if add is not None:
        if any(key.provider == add for key in now):
            raise UsageError(f"has a key of the provider {add} already")
        if len(now) >= MAX_KEYS:
            raise UsageError(f"has {len(now)} keys, which is the most")
        return (*now, keys.new_key(add))
    if key_id is not None:
        return (existing(keys, KeyRef(provider or now[0].provider, key_id), now),)
    if provider is not None:
        return (keys.new_key(provider),)
    return tuple(keys.new_key(key.provider) for key in now)


def existing(keys: KeyService, key: KeyRef, own: Sequence[KeyRef] = ()) -> KeyRef:
    """The key, active. Raises KeyUnavailableError when there is none that can be had, and used for new data.

    One of a home's `own` keys may come from keyd's memory while its provider does not answer.
    """
    try:
        keys.use_key(key)
    except ProviderUnavailable:
        if key not in own:
            raise
        if not keys.key_states([key], ask=False)[0].cached:
            raise
    return key


def _begin(home: Home, record: _Record, to: tuple[KeyRef, ...]) -> _Record:
    """Every file opens and has room for the tokens; then the record says what is under way."""
    before = record.operation
    present = (*record.keys, *(before.old if isinstance(before, Recrypt) else ()))
    old = tuple(key for key in dict.fromkeys(present) if key not in to)
    if before is None and not old and len(to) == len(record.keys):
        raise UsageError("has that key already")
    if len(old) > MAX_KEYS:
        raise UsageError("too many keys: finish the interrupted recrypt first")
    for entry in _encrypted(home):
        with regular.named(home, entry.path):
            _check(home, entry, Change(to + old, ()))
    with home.frozen():
        begun = replace(_as_it_is(home, record), keys=to + old, operation=Recrypt(new_uuid(), old, to))
        if set(to) <= set(present) and _are_done(home, Change(to, ()), set()):
            # Back to keys that all files have: asks for no other, which perhaps cannot be had any more.
            begun = replace(begun, keys=to)
        begun = _store(home, begun)
    _log.info("%s: recrypt to %s", _called(home), ", ".join(map(str, to)))
    return begun


def _check(home: Home, entry: Node, change: Change) -> None:
    """Raises the error of a file that does not open, or has no room."""
    with suppress(FileNotFoundError), regular.opened(home, entry.path) as fd:
        treatment = home.treatment(entry.path, fd)
        wrapping.named_keys(fd, treatment)
        if treatment is Treatment.CONTAINER:
            wrapping.check_room(fd, change)


# Going on


def _finish(home: Home, record: _Record, progress: Progress | None, here: Here | None = None) -> None:
    operation = record.operation
    if not isinstance(operation, Recrypt):
        return
    told = progress or (lambda _files: None)
    if record.keys != operation.to:
        with _all_done(home, Change(operation.to, ()), told, here):
            record = _store(home, replace(_as_it_is(home, record), keys=operation.to))
    elif not operation.old:
        with _all_done(home, Change(operation.to, ()), told, here):
            _store(home, replace(_as_it_is(home, record), operation=None))
        return
    with _all_done(home, Change(operation.to, operation.old), told, here):
        _store(home, replace(_as_it_is(home, record), operation=None))
    _log.info("%s: recrypted, opens by %s", _called(home), ", ".join(map(str, operation.to)))


@contextmanager
def _all_done(home: Home, change: Change, progress: Progress, inside: Here | None) -> Iterator[None]:
    """Make the change to all files; the block runs once each was read back, and no file can come or move."""
    proven: set[tuple[int, int]] = set()
    for _ in range(_MAX_ROUNDS):
        for entry in _encrypted(home):
            with regular.named(home, entry.path):
                if _identity(entry.info) not in proven:
                    _change(home, entry.path, change, inside)
                    _is_done(home, entry.path, change, proven)  # by a descriptor of its own
                    progress(1)
        for clear in _clear_homes(home):
            if not _has_macs(clear, change):
                _renew_macs(home, clear)
        with home.frozen():
            if _are_done(home, change, proven):
                yield
                return
    raise BusyError("its files are made and replaced faster than they get their keys", file=home.name)


def _are_done(home: Home, change: Change, proven: set[tuple[int, int]]) -> bool:
    if not all(_has_macs(clear, change) for clear in _clear_homes(home)):
        return False
    for entry in _encrypted(home):
        with regular.named(home, entry.path):
            if not _is_done(home, entry.path, change, proven):
                return False
    return True


def _is_done(home: Home, path: str, change: Change, proven: set[tuple[int, int]]) -> bool:
    """Also when it was removed meanwhile. Raises when a file names a key that does not open it."""
    try:
        fd = regular.open_file(home, path)
    except FileNotFoundError:
        return True
    try:
        treatment = home.treatment(path, fd)
        if wrapping.needs(fd, treatment, change):
            return False
        identity = _identity(os.fstat(fd))
        if identity not in proven:
            wrapping.prove(fd, treatment, home.volume.keys, change.ensure)
            proven.add(identity)
        return True
    finally:
        os.close(fd)


def _change(home: Home, path: str, change: Change, inside: Here | None) -> None:
    """By whoever has the file open for writing, or may have it now."""

    def once() -> None:
        with suppress(FileNotFoundError):  # removed or renamed meanwhile
            _change_once(home, path, change, inside)

    _until_free(once)


def _until_free(action: Callable[[], None]) -> None:
    """Do what raises BusyError as long as somebody else is about it. Raises that in the end."""
    deadline = time.monotonic() + _WRITER_WAIT_S
    while True:
        try:
            action()
            return
        except BusyError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_WRITER_PAUSE_S)


# Records of clear homes


def _clear_homes(root: Home) -> Iterator[Home]:
    """Those whose records the datastore's keys speak for; of a home, none."""
    if not root.is_root:
        return
    volume = root.volume
    for name in volume.homes():
        with suppress(NotFoundError):
            home = volume.home(name)
            if home.standing().record is not None and home.standing().state is HomeState.CLEAR:
                yield home


def _has_macs(home: Home, change: Change) -> bool:
    """Whether its record has the MACs; also when it is gone, or tells of an encrypted home by now."""
    try:
        found = form.parse_home(records.read(home.fd))
    except FileNotFoundError:
        return True
    if found.record.state is HomeState.ENCRYPTED:
        return True
    if change.drop and len(found.tags) > len(change.ensure):
        return False
    return records.is_maced(found, change.ensure, home.volume.keys)


def _renew_macs(root: Home, home: Home) -> None:
    """While nobody else changes the home's record: neither a command, nor a mount that renames it."""

    def once() -> None:
        with suppress(FileNotFoundError), home.shared(), root.frozen():
            home.renew_macs()

    _until_free(once)


def _change_once(home: Home, path: str, change: Change, inside: Here | None) -> None:
    keys = home.volume.keys
    with regular.opened(home, path) as fd:
        treatment = home.treatment(path, fd)
        if not wrapping.needs(fd, treatment, change):
            return

    def here(fd: int) -> None:
        if treatment is not Treatment.VMX:
            wrapping.change_container(fd, keys, change)
            return
        with regular.parent(home, path) as (parent_fd, name):
            wrapping.change_vmx(fd, keys, change, (home.fd, parent_fd, name))

    def by_mount(mount: MountControl, below: str) -> None:
        mount.rewrap(below, change.ensure, change.drop)

    try:
        reach.change(os.path.join(os.path.realpath(home.volume.path), home.name, path), here, by_mount)
    except BusyError:
        if inside is None:
            raise
        inside(os.path.join(home.name, path), change)


def _encrypted(home: Home) -> list[Node]:
    """The files that have keys; those that go meanwhile are no matter."""
    return [
        node
        for node in walk(home, _unless_gone)
        if node.is_regular and home.treatment(node.path) is not Treatment.CLEAR
    ]


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _called(home: Home) -> str:
    return home.name or home.volume.path


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino
