"""A VM home: its record, whether it may be believed, and what follows for each of its files."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Protocol

from ioflt import syscalls
from ioflt.datastore import clearlist, records
from ioflt.datastore.fileid import carries
from ioflt.datastore.header import read_header
from ioflt.datastore.locks import HomeLocks
from ioflt.datastore.memory import Memory, Stamp
from ioflt.datastore.sightings import Sightings
from ioflt.datastore.standing import Refusal, Standing, Treatment, is_private, stored_as
from ioflt.errors import (
    AuthenticationError,
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
from ioflt.keys.service import KeyService
from ioflt.types import HomeState, KeyRef

#: What fsck keeps at the top of a file system, often the datastore's own: no VM, and given no record.
LOST_FOUND = "lost+found"

#: Seconds for which a key that could not be had is not asked for again by `unverified`.
_UNAVAILABLE_S = 1.0

#: What a judgement holds for: the record as it was, its name, where copies were met, what the host knew.
_Sight = tuple[records.Stamp | None, str, frozenset[str], Stamp | None]


class Datastore(Protocol):
    """What a home needs of its datastore: `volume.Volume`."""

    path: str
    fd: int
    keys: KeyService
    read_only: bool
    memory: Memory

    @property
    def record(self) -> DatastoreRecord:
        """The datastore's verified record, as it was seen last. While none was, raises as `root.standing`."""

    @property
    def claimed(self) -> DatastoreRecord:
        """What that record says, verified or not: to be shown, and nothing else."""

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


class Home(HomeLocks):
    """A directory at the top of the datastore. Owns the directory descriptor `fd`.

    `standing()` looks whether the record changed, at the price of one stat, so that a mount notices what
    `ioflt vm encrypt` did meanwhile. It, `unverified` and `known` may be called by several threads at once.
    """

    def __init__(self, volume: Datastore, name: str, fd: int) -> None:
        super().__init__(name, fd)
        self.volume = volume
        self._sightings = Sightings(volume.memory, volume.keys, read_only=volume.read_only)
        self._judged: tuple[_Sight, Standing] | None = None
        self._claimed: tuple[_Sight, float, Standing] | None = None  # without a key, and until when
        self._home_id: str | None = None  # of the record judged last

    @property
    def is_root(self) -> bool:
        return False

    def standing(self) -> Standing:
        """What the record says, verified. Raises KeyUnavailableError while that cannot be known.

        That of a clear home, or of one without a valid record, hangs on its datastore's: CorruptDataError
        where that turned out to be not valid when its key came back.
        """
        seen = self._see()
        judged = self._judged
        if judged is not None and judged[0] == seen:
            return judged[1]
        standing, known = self._judge(seen[3])
        while standing.refusal is Refusal.ROLLED_BACK and records.stamp(self.fd) != seen[0]:
            seen = self._see()  # it was just replaced by the newer one that was seen
            standing, known = self._judge(seen[3])
        if standing.refusal is not Refusal.COPIED:  # that ends when the other one goes, unseen from here
            self._judged = ((*seen[:3], known), standing)
        return standing

    def unverified(self) -> Standing:
        """The same for `stat`: when keys are out of reach, what the record claims."""
        known = self.known()
        if known is not None:
            return known
        seen = self._see()
        try:
            return self.standing()
        except (KeyUnavailableError, PeerError, DeniedError, CorruptDataError, ReadOnlyError) as error:
            standing = self._claim(error)  # whatever keeps keyd from it, or its datastore from being believed
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

    def writable_now(self) -> Standing | None:
        """What `check_writable` answers where it has to ask and to wait for nobody; else None."""
        judged = self._judged
        if self.volume.read_only or judged is None or judged[0] != self._see():
            return None
        standing = judged[1]
        return None if standing.problem is not None or _is_renaming(standing) else standing

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
        file = self.name or self.volume.path
        if self.volume.read_only:
            raise ReadOnlyError("the datastore is mounted read-only", file=file)
        standing = self.standing()
        if standing.problem is not None:
            raise ReadOnlyError(standing.problem, file=file)
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
        records.store(self.fd, stored, self._macing(stored), self.volume.keys, self.name, new=new, held=held)
        self._judged = None
        if not new:  # else it is noted when it is judged
            self._sightings.written(self.fd, stored, self._home_id, counts=counts)
        return stored

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
        memory, met, known = self.volume.memory, frozenset[str](), None
        if self._home_id is not None:
            met, known = memory.met(self._home_id), memory.stamp(self._home_id)
        return records.stamp(self.fd), self.name, met, known

    def _macing(self, record: HomeRecord) -> tuple[KeyRef, ...]:
        """The keys of the record's MACs."""
        return record.keys or self.volume.record.keys

    def _claim(self, error: IofltError) -> Standing:
        """What the record says that nobody can verify now, because of that error. Only to be shown."""
        if isinstance(error, ReadOnlyError):  # it needs a first record, which nobody can make now
            return self._fallback(error.message)
        datastore = self.volume.claimed
        try:
            record = form.parse_home(records.read(self.fd)).record
        except (FileNotFoundError, CorruptDataError) as unusable:
            why, locked = "its record cannot be verified", isinstance(unusable, FileNotFoundError)
            return Standing(datastore.default, datastore.keys, False, why, None, locked=locked)
        owner = "its" if record.keys else "its datastore's"
        what = "record is not valid" if isinstance(error, CorruptDataError) else "key cannot be had"
        problem = f"{owner} {what}: {error.message}"
        keys = record.keys or datastore.keys
        return Standing(record.state, keys, record.thick, problem, record, locked=True)

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
        if record.state is HomeState.CLEAR:
            self.volume.root.standing()  # the datastore's keys of now
        try:
            if record.state is HomeState.CLEAR:
                if record.datastore_id != self.volume.record.datastore_id:
                    raise AuthenticationError("record of another datastore")
                if self.name not in record.names:
                    raise AuthenticationError("record of another home", " ".join(record.names))
                if self.volume.is_outdated(record.home_id):
                    raise AuthenticationError("outdated record", "the home was encrypted since")
            changing = not record.keys and self.volume.record.operation is not None
            records.verify(unverified, self._macing(record), self.volume.keys, self.name, changing=changing)
        except CorruptDataError as error:
            if record.state is HomeState.CLEAR and not self.volume.root.is_current():
                return self._judge(known)  # the datastore's keys changed since
            return self._fallback(f"its record is not valid here: {error}; see `ioflt vm register`"), known
        refusal, problem, known = self._sightings.compare(self.fd, record)
        self._home_id = record.home_id
        problem = problem or self._operation_problem(record)
        return Standing(record.state, self._macing(record), record.thick, problem, record, refusal), known

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
            begun = "its deep recrypt was interrupted; `ioflt vm recrypt --deep`"
            if slots := _with_slots(self.fd, operation):
                which = f"{slots[0]} and others" if len(slots) > 1 else slots[0]
                return f"{begun} resumes it, told again what becomes of the recovery slots of {which}"
            return f"{begun} or the next mount resumes it"
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
        """Without a valid record: read-only, stored as the datastore's default says.

        That has to be verified: one that says "clear" has what anybody put there pass for a VM's plaintext.
        """
        datastore = self.volume.record
        return Standing(datastore.default, datastore.keys, False, problem, None)


def _with_slots(top_fd: int, operation: Deep) -> list[str]:
    """The files of which it has to be said again what becomes of their recovery slots."""
    found = []
    for path in operation.pending:
        try:
            fd = syscalls.open_beneath(top_fd, path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            header = read_header(fd)
        except (CorruptDataError, OSError):  # no container, or one in the middle of it: that has the new slot
            continue
        finally:
            os.close(fd)
        done = operation.current is not None and operation.current.uuid == header.uuid
        if header.keyslots and not done:
            found.append(path)
    return found


def _is_renaming(standing: Standing) -> bool:
    return standing.record is not None and isinstance(standing.record.operation, Rename)
