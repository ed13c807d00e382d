"""Deep recrypt of a whole home: every file a new DEK, every VMX new configuration keys, one after the other.

The home's record has the operation from the first file to the last; `current` says which file is being
rewritten, and the UUID that it gets. As no plaintext is ever written, anyone who has the keys may resume it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

from ioflt import syscalls
from ioflt.crypto.rng import new_uuid
from ioflt.crypto.secret import Secret
from ioflt.datastore import atomic, cbtfiles, files, records, recovery, regular, sidecars, tagfiles
from ioflt.datastore.container import Progress
from ioflt.datastore.deep import disk, rekey
from ioflt.datastore.deep.disk import DiskFile, HomeStorage
from ioflt.datastore.deep.journal import Journal
from ioflt.datastore.deep.replacement import Replacement
from ioflt.datastore.fileid import file_id_of
from ioflt.datastore.header import is_recrypting
from ioflt.datastore.home import Home
from ioflt.datastore.lifecycle import exclusive
from ioflt.datastore.newcontainer import new_file_id
from ioflt.datastore.regular import Entry
from ioflt.datastore.standing import Refusal, Treatment, stored_as
from ioflt.datastore.vmx import open_sealed, read_sealed, seal_new
from ioflt.datastore.volume import Volume
from ioflt.errors import BugError, BusyError, IofltError, UsageError
from ioflt.format.luks2 import recrypt as change
from ioflt.format.record import record as form
from ioflt.format.record.record import Current, Deep, HomeRecord, Mode
from ioflt.format.vmx import sealed
from ioflt.types import HomeState, KeyRef

_log = logging.getLogger(__name__)

#: What mode copy leaves free on the file system, bytes.
_RESERVE = 64 << 20


@dataclass(frozen=True, slots=True)
class OldWays:
    """What becomes of recovery slots, which open only the old keys: one for `passphrase` in each file that
    has any, or `drop` them, or else such a home is refused."""

    passphrase: Secret | None = None
    drop: bool = False


def recrypt(
    volume: Volume,
    name: str,
    *,
    mode: Mode | None = None,
    to: Sequence[KeyRef] = (),
    ways: OldWays | None = None,
    integrity: bool = False,
    progress: Progress | None = None,
) -> Mode:
    """Give all files of an encrypted home new DEKs, or go on with that; the mode it was done in.

    `mode`: None copies where there is room for the longest file, and else works in place. `to`: the KEKs from
    now on; none: those of before. `integrity`: files get tags, if they have none; what is gone on with stays
    as it was begun. After an error the home takes no writes and the call can be repeated.
    Raises UsageError for a clear home, and for recovery slots of which nothing is said; BusyError,
    ReadOnlyError, KeyUnavailableError, CorruptDataError, StorageError.
    """
    ways = ways or OldWays()
    with exclusive(volume, name, copies=True) as (home, record):
        operation = record.operation
        if operation is None:
            if record.state is HomeState.CLEAR:
                raise UsageError("is clear: it has no keys")
            record = _begin(home, record, mode, tuple(to), ways, integrity)
        elif not isinstance(operation, Deep):
            raise UsageError("another operation was interrupted, and must be finished first")
        elif to and set(to) != set(operation.to):
            raise UsageError("its interrupted recrypt goes to other keys")
        elif mode is not None and mode != operation.mode:
            record = home.store(replace(record, operation=replace(operation, mode=mode)), counts=False)
        return _finish(home, record, ways, progress)


def resume(volume: Volume, *, progress: Progress | None = None, but: str | None = None) -> list[str]:
    """Finish the interrupted deep recrypts of all homes except `but`; names of those that were finished.

    What fails is logged and stays resumable; homes that are in use now are left to whoever uses them.
    """
    finished = []
    for name in [] if volume.read_only else volume.homes():
        if name == but or not _seems_interrupted(volume, name):
            continue
        try:
            with exclusive(volume, name) as (home, record):
                if not isinstance(record.operation, Deep):
                    continue
                _finish(home, record, OldWays(), progress)
            finished.append(name)
        except BusyError:
            continue
        except IofltError as error:
            _log.warning("an interrupted deep recrypt cannot be resumed now: %s", error)
    return finished


def _seems_interrupted(volume: Volume, name: str) -> bool:
    with suppress(IofltError, OSError):
        return isinstance(form.parse_home(records.read(volume.home(name).fd)).record.operation, Deep)
    return False


def _begin(
    home: Home,
    record: HomeRecord,
    mode: Mode | None,
    to: tuple[KeyRef, ...],
    ways: OldWays,
    integrity: bool,
) -> HomeRecord:
    entries = _files(home, record)
    for entry in entries:
        with regular.named(home, entry.path):
            _check(home, entry.path, ways)
    if ways.drop:
        _drop_slots(home, entries)
    paths = tuple(sorted((entry.path for entry in entries), key=lambda path: (-len(path), path)))
    mode = mode or _mode_for(home, entries)
    same = not to or set(to) == set(record.keys)
    copied = home.standing().refusal is Refusal.COPIED
    home_id = new_uuid() if copied else record.home_id
    operation = Deep(
        home_id if copied else new_uuid(),
        mode,
        () if same else record.keys,
        record.keys if same else to,
        paths,
        None,
    )
    begun = home.store(
        replace(
            record,
            home_id=home_id,
            keys=operation.to + operation.old,
            operation=operation,
            integrity=record.integrity or integrity,
        )
    )
    if [entry.path for entry in _files(home, record)] != [entry.path for entry in entries]:
        home.store(replace(record, generation=begun.generation))
        raise BusyError("a file was made, removed or renamed just now")
    return begun


def _files(home: Home, record: HomeRecord) -> list[Entry]:
    """Those that are encrypted."""
    return [entry for entry in regular.regular_files(home) if entry.path not in record.clear_files]


def _check(home: Home, path: str, ways: OldWays) -> None:
    """Raises the error of a file that does not open, and UsageError for a way in of which nothing is said.

    A VMX opens by keys alone: one that a passphrase opens, too, opens here not at all.
    """
    where = regular.full_path(home, path)
    fd = regular.open_file(home, path)
    if is_recrypting(fd):  # of a home that lost its record: it goes on
        os.close(fd)
        return
    file = files.open_file(home, fd, stored_as(path), writable=False, place=lambda: None, name=where)
    try:
        told = ways.drop or ways.passphrase is not None
        if not told and stored_as(path) is not Treatment.VMX and recovery.slots(fd):
            raise UsageError("has recovery slots, which open only the old key")
    finally:
        file.close()


def _drop_slots(home: Home, entries: list[Entry]) -> None:
    """Before the operation: so that whoever resumes it needs not be told again."""
    for entry in entries:
        if stored_as(entry.path) is not Treatment.VMX:
            with regular.named(home, entry.path):
                fd = _take(home, entry.path)
                try:
                    _drop_slots_of(fd)
                finally:
                    os.close(fd)


def _drop_slots_of(fd: int) -> None:
    if not is_recrypting(fd):  # one that is has those of its new key only
        for slot in recovery.slots(fd):
            recovery.remove_slot(fd, slot, None)


def _mode_for(home: Home, entries: list[Entry]) -> Mode:
    """To copy needs room for the longest file: all of it if it is thick, else what it has now."""
    longest = max(
        (max(entry.info.st_blocks * 512, _filled_size(home, entry)) for entry in entries), default=0
    )
    free = os.fstatvfs(home.fd)
    return "copy" if free.f_bavail * free.f_frsize > longest + _RESERVE else "journal"


def _filled_size(home: Home, entry: Entry) -> int:
    if stored_as(entry.path) is Treatment.VMX:
        return 0
    with regular.opened(home, entry.path) as fd:
        return 0 if rekey.read_header(DiskFile(fd)).thin else entry.info.st_size


def _take(home: Home, path: str) -> int:
    """A descriptor, read and write, that has the writer's lock. Raises BusyError, OSError."""
    with regular.parent(home, path) as (parent_fd, name):
        fd = files.open_regular(parent_fd, name, os.O_RDWR)
    if not syscalls.try_write_lock(fd):
        os.close(fd)
        raise BusyError("its header is being changed")
    return fd


def _finish(home: Home, record: HomeRecord, ways: OldWays, progress: Progress | None) -> Mode:
    work = _Work(home, record, ways, progress)
    work.run()
    _remove_strays(home)
    home.store(replace(work.record, keys=work.operation.to, operation=None))
    return work.operation.mode


def _remove_strays(home: Home) -> None:
    """The tags of the containers of before."""
    strays = set(tagfiles.uuids(home.fd))
    for entry in regular.regular_files(home) if strays else []:
        with regular.opened(home, entry.path) as fd:
            strays.discard(tagfiles.uuid_of(fd) or "")
    for uuid in strays:
        tagfiles.remove(home.fd, uuid)
    sidecars.remove_stray_changes(home)


class _Work:
    """An operation under way in `home`, of which the caller has exclusive use."""

    def __init__(self, home: Home, record: HomeRecord, ways: OldWays, progress: Progress | None) -> None:
        """`record` is the home's, has an operation, and is durable."""
        if not isinstance(record.operation, Deep):
            raise BugError("no deep recrypt to go on with")
        self._home = home
        self._keys = home.volume.keys
        self._ways = ways
        self._progress = progress
        self.record = record
        self.operation: Deep = record.operation
        #: The home is a raw copy that becomes a home of its own: its files get ids of their own.
        self._copied = record.operation.id == record.home_id

    def run(self) -> None:
        """Rewrite all pending files. Raises the first error, with the file's name; then it can be resumed."""
        while self.operation.current is not None or self.operation.pending:
            current = self.operation.current
            path = current.path if current is not None else self.operation.pending[0]
            with regular.named(self._home, path):
                try:
                    self._rewrite(path)
                except FileNotFoundError:  # somebody removed it
                    if current is not None:
                        disk.remove_sidecar(self._home.fd, disk.SIDECAR + current.uuid)
                    self._drop((path,))

    def _rewrite(self, path: str) -> None:
        if stored_as(path) is Treatment.VMX:
            self._reseal(path)
            self._drop((path,))
            return
        fd = _take(self._home, path)
        try:
            if self._ways.drop:  # said when it was begun otherwise
                _drop_slots_of(fd)
            current = self.operation.current or self._choose(path, fd)
            names = self._names(path, fd)
            made = [one for one in self.operation.pending if one != path and self._is(one, current.uuid)]
            if made and rekey.read_header(DiskFile(fd)).uuid != current.uuid:  # it has some of the names only
                self._link(made[0], names)
            else:
                self._container(fd, names, current.uuid)
        finally:
            os.close(fd)
        self._drop((*names, *made))

    def _container(self, fd: int, names: list[str], uuid: str) -> None:
        """The engine that the file needs: one that was begun in place goes on in place."""
        # the name in `current` is replaced last: until then it leads to the old file, hence to its others
        with HomeStorage(self._home, fd, names[::-1], uuid) as storage:
            header = rekey.read_header(storage.container)
            old, new = cbtfiles.of_container(header.uuid), cbtfiles.of_container(uuid)
            cbtfiles.follow(self._home.fd, old, new)  # all of it changes: tracked, by another UUID
            in_place = header.uuid == uuid or change.of(header) is not None
            engine = Journal if in_place or self.operation.mode == "journal" else Replacement
            engine(
                storage,
                self._keys,
                self.operation.to,
                uuid,
                file_id=file_id_of(uuid) if self._copied else None,
                passphrase=self._ways.passphrase,
                tagged=self.record.integrity,
                progress=self._progress,
            ).run()
            storage.sync_names()

    def _reseal(self, path: str) -> None:
        """A VMX is small: always a new one, with new configuration keys and the same file id."""
        with regular.parent(self._home, path) as (parent_fd, name), ExitStack() as opened:
            fd = files.open_regular(parent_fd, name, os.O_RDONLY)
            opened.callback(os.close, fd)
            text = read_sealed(fd)
            plaintext = open_sealed(self._keys, text)
            file_id = new_file_id() if self._copied else sealed.peek(text).file_id
            made = seal_new(self._keys, self.operation.to, plaintext, file_id)
            atomic.replace(self._home.fd, parent_fd, name, made, like=os.fstat(fd))
        if self._progress is not None:
            self._progress(len(plaintext))

    def _choose(self, path: str, fd: int) -> Current:
        """Make the record say that this file is next, and which UUID it gets."""
        under_way = change.of(rekey.read_header(DiskFile(fd)))
        current = Current(path, new_uuid() if under_way is None else under_way.uuid)
        self.operation = replace(self.operation, current=current)
        self.record = self._home.store(replace(self.record, operation=self.operation), counts=False)
        return current

    def _drop(self, paths: Iterable[str]) -> None:
        """These files are rewritten. On the medium with the next change of the record."""
        gone = frozenset(paths)
        pending = tuple(path for path in self.operation.pending if path not in gone)
        self.operation = replace(self.operation, pending=pending, current=None)
        self.record = replace(self.record, operation=self.operation)

    # Names

    def _names(self, path: str, fd: int) -> list[str]:
        """All pending names of that file, `path` first."""
        info = os.fstat(fd)
        if info.st_nlink == 1:
            return [path]
        others = [one for one in self.operation.pending if one != path and self._is_same(one, info)]
        return [path, *others]

    def _is_same(self, path: str, info: os.stat_result) -> bool:
        if stored_as(path) is Treatment.VMX:
            return False
        try:
            return os.path.samestat(os.stat(path, dir_fd=self._home.fd, follow_symlinks=False), info)
        except FileNotFoundError:
            return False

    def _is(self, path: str, uuid: str) -> bool:
        """Whether the container at that path has that UUID."""
        if stored_as(path) is Treatment.VMX:
            return False
        try:
            with regular.opened(self._home, path) as fd:
                return rekey.read_header(DiskFile(fd)).uuid == uuid
        except (FileNotFoundError, IofltError):
            return False

    def _link(self, made: str, names: list[str]) -> None:
        with regular.opened(self._home, made) as fd:
            for path in names[::-1]:
                with regular.parent(self._home, path) as (parent_fd, name):
                    atomic.link_over(self._home.fd, fd, parent_fd, name)
