"""A VM home: its record, whether it may be believed, and what follows for each of its files."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Protocol
from uuid import UUID

from ioflt import syscalls
from ioflt.crypto.rng import random_bytes
from ioflt.datastore import atomic, clearlist, records
from ioflt.datastore.atomic import PRIVATE_DIR, RECORD
from ioflt.datastore.header import read_header
from ioflt.datastore.memory import Memory, Seen, Stamp
from ioflt.datastore.standing import Refusal, Standing, Treatment, is_private, stored_as
from ioflt.errors import (
    AuthenticationError,
    BusyError,
    CorruptDataError,
    DeniedError,
    IofltError,
    KeyUnavailableError,
    PeerError,
    ReadOnlyError,
)
from ioflt.format.record import record as form
from ioflt.format.record.record import (
    Current,
    DatastoreRecord,
    Deep,
    HomeRecord,
    Move,
    Operation,
    Recrypt,
    Rename,
)
from ioflt.format.vmx import sealed
from ioflt.keys.client import KeyService
from ioflt.types import HomeState, KeyRef

_log = logging.getLogger(__name__)

#: What fsck keeps at the top of a file system, often the datastore's own: no VM, and given no record.
LOST_FOUND = "lost+found"

#: Seconds for which a key that could not be had is not asked for again by `unverified`.
_UNAVAILABLE_S = 1.0

#: Seconds for which a change of files waits for a change of the record, and the other way round.
_RECORD_WAIT_S = 30.0
_RECORD_PAUSE_S = 0.002

#: What a judgement holds for: the record as it was, the home's name, what the host remembered of it.
_Sight = tuple[records.Stamp | None, str, Stamp | None]


class Datastore(Protocol):
    """What a home needs of its datastore: `volume.Volume`."""

    path: str
    fd: int
    keys: KeyService
    read_only: bool
    memory: Memory

    @property
    def record(self) -> DatastoreRecord:
        """The datastore's record, as it was seen last."""

    @property
    def root(self) -> Home:
        """The datastore's root, whose `standing` looks whether that record changed."""

    def homes(self) -> list[str]:
        """Names of all homes."""

    def home(self, name: str) -> Home:
        """The home of that name."""

    def write_new_record(self, home: Home) -> None:
        """A first record for a home without content."""

    def remove_home(self, name: str) -> None:
        """rmdir of a home that has nothing but our own files."""

    def authorise(self, operation_id: str) -> None:
        """Remember a decryption of this host."""

    def is_authorised(self, operation_id: str) -> bool:
        """Whether this host started that decryption and did not end it."""

    def end_authorisation(self, operation_id: str) -> None:
        """The decryption is over."""

    def is_outdated(self, home_id: str) -> bool:
        """Whether no clear record of that home is valid any more."""


class Home:
    """A directory at the top of the datastore. Owns the directory descriptor `fd`.

    `standing()` looks whether the record changed, at the price of one stat, so that a mount notices what
    `ioflt vm encrypt` did meanwhile. It, `unverified` and `known` may be called by several threads at once.
    """

    def __init__(self, volume: Datastore, name: str, fd: int) -> None:
        self.volume = volume
        self.name = name
        self.fd = fd
        self._judged: tuple[_Sight, Standing] | None = None
        self._claimed: tuple[_Sight, float, Standing] | None = None  # without a key, and until when
        self._home_id: str | None = None  # of the record judged last
        self._lock_fd: int | None = None
        self._users = 0

    @property
    def is_root(self) -> bool:
        return False

    def standing(self) -> Standing:
        """What the record says, verified. Raises KeyUnavailableError while that cannot be known."""
        seen = self._see()
        judged = self._judged
        if judged is not None and judged[0] == seen:
            return judged[1]
        standing, known = self._judge(seen[2])
        while standing.refusal is Refusal.ROLLED_BACK and records.stamp(self.fd) != seen[0]:
            seen = self._see()  # it was just replaced by the newer one that was seen
            standing, known = self._judge(seen[2])
        if standing.refusal is not Refusal.COPIED:  # that ends when the other one goes, unseen from here
            self._judged = ((*seen[:2], known), standing)
        return standing

    def unverified(self) -> Standing:
        """The same for `stat`: when keys are out of reach, what the record claims."""
        known = self.known()
        if known is not None:
            return known
        seen = self._see()
        try:
            return self.standing()
        except (KeyUnavailableError, PeerError, DeniedError) as error:  # whatever keeps keyd from it
            standing = self._claim(error.message)
            self._claimed = (seen, time.monotonic() + _UNAVAILABLE_S, standing)
            return standing

    def known(self) -> Standing | None:
        """What `unverified` answers when it needs to ask nobody: for who must not wait."""
        seen = self._see()
        judged, claimed = self._judged, self._claimed
        if judged is not None and judged[0] == seen:
            return judged[1]
        if claimed is not None and claimed[0] == seen and time.monotonic() < claimed[1]:
            return claimed[2]
        return None

    def is_current(self) -> bool:
        """Whether the record is the one that was judged last."""
        judged = self._judged
        return judged is not None and judged[0] == self._see()

    def check_writable(self) -> Standing:
        """The standing, for someone who is about to write. Raises ReadOnlyError with the reason.

        A rename of clear files that was interrupted is ended first.
        """
        standing = self._writable()
        if _is_renaming(standing):
            with self.changing():
                standing = self._writable()
        return standing

    def _writable(self) -> Standing:
        if self.volume.read_only:
            raise ReadOnlyError("the datastore is mounted read-only", file=self.name)
        standing = self.standing()
        if standing.problem is not None:
            raise ReadOnlyError(standing.problem, file=self.name)
        return standing

    def treatment(self, path: str, fd: int | None = None, standing: Standing | None = None) -> Treatment:
        """How the file at `path` (relative to the home) is stored.

        In a half-converted home the record's list decides; for the one file that was being converted it is
        the UUID in the record, looked for in the file itself (`fd`, readable).
        """
        known = standing or self.standing()
        if known.state is HomeState.CLEAR:
            return Treatment.CLEAR
        encrypted = stored_as(path)
        if known.record is None:
            return encrypted
        if path in clearlist.now(self.fd, known.record):
            return Treatment.CLEAR
        operation = known.record.operation
        if not isinstance(operation, Operation):  # a recrypt leaves everything encrypted
            return encrypted
        if operation.files is not None and path not in operation.files:
            return encrypted
        if operation.current is not None and self._is_current(operation, operation.current, path, fd):
            is_that = fd is not None and carries(fd, path, operation.current.uuid)
            return encrypted if is_that else Treatment.CLEAR
        # encrypting: pending files are clear yet; decrypting: they are encrypted still
        is_clear = (path in operation.pending) == (operation.kind == "encrypt")
        return Treatment.CLEAR if is_clear else encrypted

    # In use

    def enter(self) -> None:
        """Count one open file. Raises BusyError while the home is being converted."""
        if self._users == 0:
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(fd)
                raise BusyError("is being converted, or a command works on it", file=self.name) from error
            self._lock_fd = fd
        self._users += 1

    @property
    def in_use(self) -> bool:
        """Whether a file of it is open here."""
        return self._users > 0

    def leave(self) -> None:
        """One open file less."""
        self._users -= 1
        if self._users == 0 and self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Nobody has a file of the home open, here or in any mount. Raises BusyError."""
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BusyError("in use: a file of it is open in a mount", file=self.name) from error
            yield
        finally:
            os.close(fd)

    @contextmanager
    def acting(self) -> Iterator[Standing]:
        """The standing, for who makes or moves files by it: the record stays as it is until he is done.

        Raises what `check_writable` raises, and BusyError.
        """
        while True:
            self.check_writable()  # makes a missing first record
            with self.unchanging():
                standing = self._writable()
                if not _is_renaming(standing):  # else who did it was interrupted just now
                    yield standing
                    return

    @contextmanager
    def steady(self) -> Iterator[Standing]:
        """The standing, for who looks how a file of some name is stored: clear ones keep their names.

        Raises what `standing` raises, and BusyError.
        """
        standing = self.standing()
        if standing.record is None or not (standing.record.clear_files or _is_renaming(standing)):
            yield standing
            return
        with self.unchanging():
            yield self.standing()

    @contextmanager
    def unchanging(self) -> Iterator[None]:
        """The keys and names in the record stay as they are, whatever it says. Raises BusyError."""
        with self._record_held(os.O_RDONLY, _hold_shared):
            yield

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Nobody makes or moves a file of the home: who acted by the record is done. Raises BusyError."""
        with self._record_held(os.O_RDWR, _hold_alone):
            yield

    @contextmanager
    def changing(self) -> Iterator[tuple[HomeRecord, Callable[..., HomeRecord]]]:
        """The record, for who alone may change it, and a `store` for other ones, as often as need be.

        Nobody else acts by any of them meanwhile. A rename that was interrupted is ended first. Raises
        BusyError, ReadOnlyError when there is no valid record.
        """
        with ExitStack() as held, self.frozen():
            standing = self.standing()
            if standing.record is None:
                raise ReadOnlyError(standing.problem or "it has no record", file=self.name)
            record = clearlist.settled(self.fd, standing.record)
            if record is not standing.record:
                record = self.store(record, held=held)
            yield record, partial(self.store, held=held)

    @contextmanager
    def _record_held(self, flags: int, hold: Callable[[int], bool]) -> Iterator[None]:
        """Lock the file of the record. It is replaced with each change: who waited looks again."""
        while True:
            fd = os.open(RECORD, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd)
            try:
                if not hold(fd):
                    raise BusyError("its keys are being changed, or files made and moved", file=self.name)
                if records.is_current(self.fd, fd):
                    yield
                    return
            finally:
                os.close(fd)

    @contextmanager
    def recrypting(self) -> Iterator[None]:
        """The one command that changes the home's keys, while mounts may use it. Raises BusyError."""
        atomic.make_private_dir(self.fd)
        fd = os.open(PRIVATE_DIR, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            if not syscalls.try_flock(fd, fcntl.LOCK_EX):
                raise BusyError("another command changes its keys", file=self.name)
            with self.shared():
                yield
        finally:
            os.close(fd)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Nobody has exclusive use of the home; mounts may use it. Raises BusyError."""
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            if not syscalls.try_flock(fd, fcntl.LOCK_SH):
                raise BusyError("is being converted, or a command works on it", file=self.name)
            yield
        finally:
            os.close(fd)

    def store(
        self, record: HomeRecord, *, new: bool = False, counts: bool = True, held: ExitStack | None = None
    ) -> HomeRecord:
        """Write the record, MACed by the home's KEKs or, if clear, by the datastore's; what was written.

        `counts`: the generation goes up; only a change of names and an operation's progress leave it. Nobody
        acts by it before `held` is closed. The record of a clear home is not read, changed and stored while
        the datastore's keys change.
        """
        with nullcontext() if record.keys else self.volume.root.acting():
            return self._store(record, new=new, counts=counts, held=held)

    def _store(
        self, record: HomeRecord, *, new: bool, counts: bool, held: ExitStack | None = None
    ) -> HomeRecord:
        generation = record.generation + 1 if counts and not new else max(1, record.generation)
        stored = replace(record, generation=generation)
        records.store(self.fd, stored, self._macing(stored), self.volume.keys, new=new, held=held)
        self._judged = None
        if not new:  # else it is noted when it is judged
            memory, place, before = self.volume.memory, self._place(), self._home_id
            memory.note(stored.home_id, stored.generation, place)
            if counts and stored.keys:
                self._tell(stored)
            if before not in (None, stored.home_id):  # another home from now on
                memory.note(before, 0, None, (place,))
        return stored

    def close(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None
        os.close(self.fd)

    # Names

    def path_of(self, parent_fd: int, name: str) -> str:
        """The path in the home of a name in that directory, wherever that was moved to meanwhile.

        Raises OSError ENOENT when it is in the home no more.
        """
        top, parent = (os.readlink(f"/proc/self/fd/{fd}") for fd in (self.fd, parent_fd))
        if not clearlist.is_below(parent, top):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return os.path.join(parent[len(top) + 1 :], name)

    # Renames of the directory

    def before_rename(self, new_name: str) -> None:
        """A clear home's record is bound to its name: make it good for both until the rename is done."""
        if self.check_writable().state is HomeState.CLEAR:
            with self.volume.root.acting():
                self._store_names((self.name, new_name))

    def after_rename(self, new_name: str) -> None:
        """The rename is durable; the old name goes."""
        self.name = new_name
        if self.standing().state is HomeState.CLEAR:
            with self.volume.root.acting():
                self._store_names((new_name,))

    def _store_names(self, names: tuple[str, ...]) -> None:
        """The datastore's keys stay as they are meanwhile."""
        record = self.standing().record
        if record is not None and record.state is HomeState.CLEAR:
            self._store(replace(record, names=names), new=False, counts=False)

    # Under changed keys of the datastore

    def renew_macs(self) -> None:
        """A clear home's record gets MACs by the keys that the datastore has now; another stays as it is.

        The caller keeps the datastore's keys as they are, and others from changing the record.
        """
        record = self.standing().record
        if record is not None and record.state is HomeState.CLEAR:
            self._store(record, new=False, counts=False)

    @contextmanager
    def appearing(self, record: HomeRecord) -> Iterator[None]:
        """A home that was made aside, with that record, gets its name in the block.

        The datastore may have got other keys since it was begun: no look at all clear homes found this one.
        """
        if record.keys:
            yield
            return
        with self.volume.root.acting() as root:
            if not records.is_maced(form.parse_home(records.read(self.fd)), root.keys, self.volume.keys):
                self._store(record, new=False, counts=False)
            yield

    # Inside

    def _see(self) -> _Sight:
        known = None if self._home_id is None else self.volume.memory.stamp(self._home_id)
        return records.stamp(self.fd), self.name, known

    def _macing(self, record: HomeRecord) -> tuple[KeyRef, ...]:
        """The keys of the record's MACs."""
        return record.keys or self.volume.record.keys

    def _claim(self, why: str) -> Standing:
        try:
            record = form.parse_home(records.read(self.fd)).record
        except (FileNotFoundError, CorruptDataError):
            return self._fallback("its record cannot be verified")
        problem = f"its key cannot be had: {why}"
        return Standing(record.state, self._macing(record), record.thick, problem, record, locked=True)

    def _judge(self, known: Stamp | None) -> tuple[Standing, Stamp | None]:
        """The standing, and the state of the host's memory that it belongs to: `known`, if it read none."""
        try:
            unverified = form.parse_home(records.read(self.fd))
        except FileNotFoundError:
            return self._without_record(known)
        except CorruptDataError as error:
            unusable = f"its record is unusable: {error}; `ioflt vm register` makes a new one"
            return self._fallback(unusable), known
        record = unverified.record
        try:
            if record.state is HomeState.CLEAR:
                self.volume.root.standing()  # the datastore's keys of now
                if record.datastore_id != self.volume.record.datastore_id:
                    raise AuthenticationError("record of another datastore")
                if self.name not in record.names:
                    raise AuthenticationError("record of another home", " ".join(record.names))
                if self.volume.is_outdated(record.home_id):
                    raise AuthenticationError("outdated record", "the home was encrypted since")
            changing = self.volume.record.operation is not None
            records.verify(unverified, self._macing(record), self.volume.keys, changing=changing)
        except CorruptDataError as error:
            if record.state is HomeState.CLEAR and not self.volume.root.is_current():
                return self._judge(known)  # the datastore's keys changed since
            return self._fallback(f"its record is not valid here: {error}; see `ioflt vm register`"), known
        refusal, problem, known = self._remember(record)
        self._home_id = record.home_id
        problem = problem or self._operation_problem(record)
        return Standing(record.state, self._macing(record), record.thick, problem, record, refusal), known

    def _remember(self, record: HomeRecord) -> tuple[Refusal | None, str | None, Stamp | None]:
        """Compare the record with what this host has seen, and others where it has seen nothing; note it.

        Why it is refused, if it is; and to what state of the memory that belongs.
        """
        memory, place = self.volume.memory, self._place()
        heard: Seen | None = None
        for _ in range(2):  # what was noted is looked at
            known = memory.stamp(record.home_id)
            seen = memory.look(record.home_id)
            if heard is None and record.keys and (known is None or not seen.asked):
                heard = self._hear(record)
            others = tuple(one for one in seen.places if one != place and self._is_copy(one, record.home_id))
            gone = tuple(one for one in seen.places if one not in (*others, place))
            generation = max(record.generation, 0 if heard is None else heard.generation)
            news = generation > seen.generation or place not in seen.places
            learnt = heard is not None and (known is None or heard.asked != seen.asked)
            if not gone and not learnt and (self.volume.read_only or not news):
                break
            here = None if self.volume.read_only else place  # who writes nothing is no copy that matters
            asked = None if heard is None else heard.asked
            memory.note(record.home_id, generation, here, gone, durable=known is not None, asked=asked)
        if others:
            return Refusal.COPIED, f"the same VM is in {others[-1]}, too (a raw copy)", known
        if heard is not None and record.generation < heard.generation:
            generations = f"generation {record.generation}, its key provider tells of {heard.generation}"
            return Refusal.ROLLED_BACK, f"it was rolled back: its record has {generations}", known
        if record.generation < seen.generation:
            generations = f"generation {record.generation}, this host has seen {seen.generation}"
            return Refusal.ROLLED_BACK, f"it was rolled back: its record has {generations}", known
        return None, None, known

    def _tell(self, record: HomeRecord) -> None:
        """For other hosts, and this one should it lose its memory. Best effort."""
        try:
            self.volume.keys.note_generation(record.keys, record.home_id, record.generation)
        except IofltError as error:
            _log.info("%s: its generation is not noted with its keys: %s", self.name, error)

    def _hear(self, record: HomeRecord) -> Seen:
        """What others have seen of a home that this host does not remember, as far as providers tell."""
        try:
            generation, sure = self.volume.keys.seen_generation(record.keys, record.home_id)
            return Seen(generation, asked=sure)
        except IofltError as error:
            _log.info("%s: what was seen of it is not known: %s", self.name, error)
            return Seen(asked=False)

    def _is_copy(self, place: str, home_id: str) -> bool:
        """Whether another directory is the same home. Its record is not verified: saying so is enough."""
        try:
            fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except PermissionError:  # a confined mount reads its own datastore only
            return os.path.lexists(os.path.join(place, RECORD)) and not self._is_at(place)
        except OSError:
            return False
        try:
            if os.path.samestat(os.fstat(fd), os.fstat(self.fd)):
                return False
            return form.parse_home(records.read(fd)).record.home_id == home_id
        except (OSError, CorruptDataError):
            return False
        finally:
            os.close(fd)

    def _is_at(self, place: str) -> bool:
        try:
            return os.path.samestat(os.stat(place), os.fstat(self.fd))
        except OSError:
            return False

    def _place(self) -> str:
        return os.readlink(f"/proc/self/fd/{self.fd}")

    def _is_current(self, operation: Operation, current: Current, path: str, fd: int | None) -> bool:
        """Whether that is the file being converted, under this or another of its names (hard links)."""
        if path == current.path:
            return True
        if fd is None or path not in operation.pending:
            return False
        if operation.kind == "encrypt":
            return carries(fd, path, current.uuid)
        try:
            other = os.stat(current.path, dir_fd=self.fd, follow_symlinks=False)
        except OSError:
            return False
        return os.path.samestat(os.fstat(fd), other)

    def _operation_problem(self, record: HomeRecord) -> str | None:
        operation = record.operation
        if operation is None or isinstance(operation, Recrypt | Rename):  # the VM may run meanwhile
            return None
        if isinstance(operation, Move):
            return "its move was interrupted; the next command on the datastore finishes it, or takes it back"
        if isinstance(operation, Deep):
            return "its deep recrypt was interrupted; `ioflt vm recrypt --deep` or the next mount resumes it"
        if operation.kind == "encrypt":
            return "its encryption was interrupted; `ioflt vm encrypt` or the next mount resumes it"
        if not self.volume.is_authorised(operation.id):
            return "its record tells of a decryption that this host never started (an old copy put back?)"
        if operation.files is None:
            which, resuming = "its decryption", "ioflt vm decrypt"
        else:
            which = f"the decryption of its disk {operation.files[0]}"
            resuming = f"ioflt vm decrypt --disk {operation.files[0]}"
        return f"{which} was interrupted; `{resuming}` resumes it, `ioflt vm encrypt` goes back"

    def _without_record(self, known: Stamp | None) -> tuple[Standing, Stamp | None]:
        if any(not is_private(name) for name in os.listdir(self.fd)):
            return self._fallback("it has no record; `ioflt vm register` makes one"), known
        if self.volume.read_only or self.name == LOST_FOUND:
            return self._fallback("it has no record"), known
        self.volume.write_new_record(self)
        return self._judge(known)

    def _fallback(self, problem: str) -> Standing:
        """Without a valid record: read-only, stored as the datastore's default says."""
        datastore = self.volume.record
        return Standing(datastore.default, datastore.keys, False, problem, None)


def _is_renaming(standing: Standing) -> bool:
    return standing.record is not None and isinstance(standing.record.operation, Rename)


def _hold_shared(fd: int) -> bool:
    """The flock of a record, for reading. Who wants it alone has the OFD lock, too: he is let pass first."""
    free = _await(lambda: not syscalls.is_write_locked(fd))
    return free and syscalls.try_flock(fd, fcntl.LOCK_SH, wait=_RECORD_WAIT_S)


def _hold_alone(fd: int) -> bool:
    mine = _await(lambda: syscalls.try_write_lock(fd))
    return mine and syscalls.try_flock(fd, fcntl.LOCK_EX, wait=_RECORD_WAIT_S)


def _await(condition: Callable[[], bool]) -> bool:
    """Whether it came true in `_RECORD_WAIT_S` seconds."""
    deadline = time.monotonic() + _RECORD_WAIT_S
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_RECORD_PAUSE_S)
    return True


def carries(fd: int, path: str, uuid: str) -> bool:
    """Whether `fd`, the file at `path`, is the encrypted file of that UUID (a sealed VMX has it as id)."""
    try:
        if stored_as(path) is Treatment.VMX:
            return sealed.peek(os.pread(fd, sealed.PEEK_SIZE, 0)).file_id == file_id_of(uuid)
        return read_header(fd).uuid == uuid
    except CorruptDataError:
        return False


def file_id_of(uuid: str) -> int:
    """The file id that goes with the UUID of a conversion: a sealed VMX has no room for more."""
    return (1 << 62) | (UUID(uuid).int & ((1 << 62) - 1))


def uuid_of(file_id: int) -> str:
    """A new UUID for which `file_id_of` gives this id (bit 62 set, bit 63 clear)."""
    low = (1 << 63) | (file_id & ((1 << 62) - 1))
    return str(UUID(int=int.from_bytes(random_bytes(8)) << 64 | low, version=4))
