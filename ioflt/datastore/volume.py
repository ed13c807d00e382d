"""A directory as a datastore: its record, its homes, and the host's memory of authorised decryptions."""

from __future__ import annotations

import errno
import logging
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType

from ioflt import paths
from ioflt.crypto.rng import new_uuid
from ioflt.datastore import atomic, cbtfiles, policies, records, root, seen, tagfiles
from ioflt.datastore.home import Home
from ioflt.datastore.memory import Memory
from ioflt.datastore.root import Root
from ioflt.datastore.standing import is_private
from ioflt.errors import (
    AuthenticationError,
    CorruptDataError,
    ExistsError,
    IofltError,
    KeyUnavailableError,
    MalformedError,
    NotFoundError,
    StorageError,
    UsageError,
)
from ioflt.format.record.record import DatastoreRecord, HomeRecord
from ioflt.keys.service import KeyService
from ioflt.policy.bundled import OF_STATE
from ioflt.policy.model import StoragePolicy
from ioflt.types import HomeState, KeyRef

#: Homes that are open before it is looked which of them were removed behind our back.
_MANY = 64

_log = logging.getLogger(__name__)


class Volume:
    """An open datastore. A context manager; closing it closes its homes. Safe for several threads."""

    def __init__(
        self,
        path: str,
        fd: int,
        record: DatastoreRecord,
        keys: KeyService,
        *,
        read_only: bool,
        verified: bool = True,
    ) -> None:
        self.path = path
        self.fd = fd
        self.keys = keys
        self.read_only = read_only
        self.memory = Memory(paths.find().homes)
        self.root = Root(self, fd, record, verified=verified)
        self._homes: dict[tuple[int, int], Home] = {}
        self._too_many = _MANY
        self._lock = threading.Lock()

    @property
    def record(self) -> DatastoreRecord:
        """The datastore's verified record, as it was seen last.

        While none was, raises KeyUnavailableError, or CorruptDataError when it turned out to be not valid.
        """
        return self.root.record

    @property
    def claimed(self) -> DatastoreRecord:
        """What that record says, verified or not: to be shown, and nothing else."""
        return self.root.claimed

    # Making and opening

    @classmethod
    def init(
        cls,
        path: str | os.PathLike[str],
        default: HomeState,
        keys: KeyService,
        *,
        provider: str | None = None,
    ) -> None:
        """Make a datastore of an existing or new directory, with a KEK of its own.

        Homes that are in it already have no record that is valid here, and are read-only until registered.
        Raises ExistsError, StorageError, KeyUnavailableError.
        """
        directory = Path(path)
        try:
            directory.mkdir(exist_ok=True)
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError("cannot make the datastore", error.errno or 0, file=directory) from error
        try:
            if records.stamp(fd) is not None:
                raise ExistsError("is a datastore already", file=directory)
            key = keys.new_key(provider)
            record = DatastoreRecord(new_uuid(), default, (key,), OF_STATE[default].name)
            seen.give_up(os.path.abspath(directory), to=record.datastore_id)  # else, killed, it is a stranger
            records.store(fd, record, (key,), keys, os.path.abspath(directory), new=True)
            seen.note(record.datastore_id, os.path.abspath(directory))
        except FileExistsError as error:
            raise ExistsError("is a datastore already", file=directory) from error
        except OSError as error:
            raise StorageError("cannot write the record", error.errno or 0, file=directory) from error
        finally:
            os.close(fd)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        keys: KeyService,
        *,
        read_only: bool = False,
        accept_rollback: bool = False,
        locked: Callable[[DatastoreRecord, KeyUnavailableError], None] | None = None,
    ) -> Volume:
        """Open a datastore and verify its record. `accept_rollback`: also if this host has seen a newer one,
        or another datastore there.

        `locked`: for who can do without that; told what the record claims, and why the datastore's key cannot
        be had. The record is verified once it can: until then homes with keys of their own are all that there
        is to work with. Raises NotFoundError when there is none, CorruptDataError, KeyUnavailableError,
        StorageError.
        """
        name = os.path.abspath(path)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError("no datastore here", file=name) from error
        except OSError as error:
            raise StorageError("cannot open the datastore", error.errno or 0, file=name) from error
        try:
            try:
                memory = Memory(paths.find().homes)
                record, certain = root.load(fd, keys, memory, accept_rollback=accept_rollback), True
            except KeyUnavailableError as error:
                if locked is None:
                    raise
                record, certain = root.claim(fd, memory), False
                _check_id(record, name)
                locked(record, error)
            except FileNotFoundError as error:
                raise NotFoundError("no datastore here", file=name) from error
            except MalformedError as error:
                records.refuse_home(error, name)
                raise
            except OSError as error:
                raise StorageError("cannot read the record", error.errno or 0, file=name) from error
            if not accept_rollback:
                _check_id(record, name)
        except IofltError as error:
            os.close(fd)
            if error.file is None or error.file == atomic.RECORD:
                error.file = os.path.join(name, error.file) if error.file else name
            raise
        except BaseException:  # nobody else closes it
            os.close(fd)
            raise
        seen.note(record.datastore_id, name, certain=certain)
        return cls(name, fd, record, keys, read_only=read_only, verified=certain)

    @classmethod
    def accept_rollback(cls, path: str | os.PathLike[str], keys: KeyService) -> None:
        """Go on from an older record than this host has seen, or from another datastore's at that path.

        Raises UsageError if it is neither, and as `open`.
        """
        before = seen.at(os.path.abspath(path))
        with cls.open(path, keys, accept_rollback=True) as volume:
            record = volume.record
            newest = volume.memory.look(record.datastore_id).generation
            if before not in (None, record.datastore_id):
                told = f"{record.datastore_id}, {before} was seen"
                _log.warning("%s: another datastore, and accepted: %s", volume.path, told)
            elif record.generation >= newest:
                raise UsageError("was not rolled back, as far as this host knows", file=volume.path)
            if record.generation < newest:
                volume.root.replace(record)
                told = f"generation {record.generation}, {newest} was seen"
                _log.warning("%s: rolled back, and accepted: %s", volume.path, told)

    def close(self) -> None:
        with self._lock:
            for home in self._homes.values():
                home.close()
            self._homes.clear()
            os.close(self.fd)

    def __enter__(self) -> Volume:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Homes

    def homes(self) -> list[str]:
        """Names of all homes, sorted."""
        with os.scandir(self.fd) as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and not is_private(entry.name)
            )

    def home(self, name: str) -> Home:
        """The home of that name. Raises NotFoundError; UsageError for a name that is a path."""
        _check_home_name(name)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError("no such VM home", file=os.path.join(self.path, name)) from error
        except OSError as error:
            raise StorageError("cannot open the VM home", error.errno or 0, file=name) from error
        return self.adopt(name, fd)

    def adopt(self, name: str, fd: int) -> Home:
        """The one Home object for the directory `fd`, which is taken over."""
        info = os.fstat(fd)
        identity = (info.st_dev, info.st_ino)
        with self._lock:
            home = self._homes.get(identity)
            if home is None:
                if len(self._homes) >= self._too_many:
                    self._drop_removed()
                self._homes[identity] = home = Home(self, name, fd)
            else:
                os.close(fd)
                home.name = name
            return home

    def forget(self, home: Home) -> None:
        """The home's directory was removed."""
        info = os.fstat(home.fd)
        with self._lock:
            self._drop((info.st_dev, info.st_ino))

    def _drop_removed(self) -> None:
        """Forget the homes that somebody else removed: each holds a descriptor."""
        for identity in [identity for identity, home in self._homes.items() if _is_removed(home)]:
            self._drop(identity)
        self._too_many = max(_MANY, 2 * len(self._homes))

    def _drop(self, identity: tuple[int, int]) -> None:
        """Its descriptor is closed when nobody has the object any more: it may have open files."""
        home = self._homes.pop(identity, None)
        if home is not None:
            weakref.finalize(home, os.close, home.fd)

    def make_home(self, name: str, mode: int) -> Home:
        """Make a home as the datastore's default says, with a KEK of its own. OSError as mkdir.

        Without that KEK no home is made, nor while the datastore's record cannot be verified: as that says.
        """
        _check_home_name(name)
        self.root.check_writable()
        os.mkdir(name, mode, dir_fd=self.fd)
        home = self.home(name)
        try:
            self.write_new_record(home)
        except BaseException:  # without its record no home stays
            self.remove_home(name)
            raise
        return home

    def write_new_record(self, home: Home) -> None:
        """A first record for a home without content, as the datastore's default says, verified as it is now.

        Raises as `Home.check_writable` of the root.
        """
        self.root.check_writable()
        with suppress(FileExistsError):  # another mount was faster
            home.store(self.fresh_record(home.name), new=True)

    def fresh_record(
        self,
        name: str,
        policy: StoragePolicy | None = None,
        provider: str | None = None,
        key: KeyRef | None = None,
        *,
        integrity: bool = False,
    ) -> HomeRecord:
        """A record with a new home id, by that policy, else the datastore's own.

        If that encrypts, with that key, or a new KEK of that provider, else the policy's, else that of the
        datastore's folder, else the datastore's. `integrity`: with tags, whatever the policy says; UsageError
        where nothing encrypts.
        """
        record = self.record
        policy = policy or policies.default(self.keys, record, record.default)
        if integrity and not policy.encrypts:
            raise UsageError("would be clear: without a key there are no tags", file=name)
        found: tuple[KeyRef, ...] = ()
        if policy.encrypts:
            self.root.standing()  # the datastore's keys of now
            found = (key or policies.new_key(self.keys, self.record, provider or policy.provider),)
        return HomeRecord(
            new_uuid(),
            record.datastore_id,
            HomeState.ENCRYPTED if policy.encrypts else HomeState.CLEAR,
            found,
            () if policy.encrypts else (name,),
            policy.name,
            thick=policy.provisioning == "thick",
            operation=None,
            integrity=integrity or policy.integrity,
        )

    def remove_home(self, name: str) -> None:
        """rmdir of a home that has nothing but our own files, the record last. OSError as rmdir.

        Raises BusyError when another mount or a command works on it.
        """
        home = self.home(name)
        # A record that is put back is not one of before a change of the datastore's keys.
        with self.root.unchanging(), nullcontext() if home.in_use else home.exclusive():
            self._remove(home, name)  # files without a name are no obstacle
        self.forget(home)

    def _remove(self, home: Home, name: str) -> None:
        left = [entry for entry in os.listdir(home.fd) if not is_private(entry)]
        if left:
            os.rmdir(name, dir_fd=self.fd)  # raises ENOTEMPTY
        for uuid in tagfiles.uuids(home.fd):  # of containers that are gone
            tagfiles.remove(home.fd, uuid)
        cbtfiles.remove_others(home.fd, ())
        with suppress(FileNotFoundError):
            atomic.remove_drafts(home.fd)
            os.rmdir(atomic.PRIVATE_DIR, dir_fd=home.fd)
        record = None
        with suppress(FileNotFoundError, CorruptDataError):
            record = records.read(home.fd)
        with suppress(FileNotFoundError):
            os.unlink(atomic.RECORD, dir_fd=home.fd)
        try:
            os.rmdir(name, dir_fd=self.fd)
        except OSError:
            if record is not None:
                with suppress(FileExistsError):
                    records.write(home.fd, record, new=True)
            raise

    # Decryptions that this host was authorised to do

    def is_authorised(self, operation_id: str) -> bool:
        """Whether this host started the decryption of that one-time id and did not end it."""
        return (paths.find().operations / operation_id).is_file()

    def authorise(self, operation_id: str) -> None:
        """Remember a decryption, durably, off the datastore."""
        _note(paths.find().ensure().operations, operation_id)

    def end_authorisation(self, operation_id: str) -> None:
        """The decryption is over: its id is worth nothing any more."""
        directory = paths.find().operations
        with suppress(FileNotFoundError):
            (directory / operation_id).unlink()
            _sync_dir(directory)

    # Clear homes that were encrypted on this host by a version that knew no generations

    def is_outdated(self, home_id: str) -> bool:
        """Whether the home was encrypted since it had that id: a clear record with it is an old copy."""
        return (paths.find().outdated / home_id).is_file()


def _check_id(record: DatastoreRecord, path: str) -> None:
    """Another datastore's record may be valid here, too. Raises AuthenticationError."""
    known = seen.at(path)
    if known not in (None, record.datastore_id):
        ids = f"its record is of {record.datastore_id}, this host has seen {known} there"
        raise AuthenticationError("another datastore", ids, file=path)


def _check_home_name(name: str) -> None:
    if "/" in name or "\0" in name or name in ("", ".", "..") or is_private(name):
        raise UsageError("not the name of a VM home", file=name)


def _is_removed(home: Home) -> bool:
    try:
        return os.fstat(home.fd).st_nlink == 0
    except OSError as error:
        return error.errno == errno.ESTALE


def split_home_path(path: str | os.PathLike[str]) -> tuple[str, str]:
    """DIR/VM → (DIR, VM). Raises UsageError."""
    directory, name = os.path.split(os.path.abspath(path))
    if not name:
        raise UsageError("not the path of a VM home", file=path)
    return directory, name


def _note(directory: Path, name: str) -> None:
    """Make an empty file, durably."""
    fd = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.fsync(fd)
    os.close(fd)
    _sync_dir(directory)


def _sync_dir(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
