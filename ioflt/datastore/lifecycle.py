"""Conversion of whole homes: encrypt, decrypt, go on after an interruption, or go back.

The home's record holds an operation from the first file to the last. An interrupted encryption may be resumed
by anyone; a decryption only by the host that started it, because only it remembers the one-time id: a record
that was put back from an old copy would otherwise bring plaintext onto the datastore. For the same reason the
host remembers the generations of records (`memory`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from ioflt.crypto.rng import new_uuid
from ioflt.datastore import atomic, convert, files, records, regular
from ioflt.datastore.container import Progress
from ioflt.datastore.convert import Conversion
from ioflt.datastore.home import Home
from ioflt.datastore.registration import register
from ioflt.datastore.regular import Entry
from ioflt.datastore.standing import Refusal, Treatment, stored_as
from ioflt.datastore.volume import POLICY, Volume
from ioflt.errors import (
    AuthenticationError,
    BusyError,
    IofltError,
    ReadOnlyError,
    UsageError,
)
from ioflt.format.record import record as form
from ioflt.format.record.record import Deep, HomeRecord, Operation
from ioflt.types import HomeState

__all__ = ["decrypt", "encrypt", "exclusive", "register", "resume_encryptions"]

_log = logging.getLogger(__name__)


def encrypt(volume: Volume, name: str, *, thick: bool = False, progress: Progress | None = None) -> None:
    """Encrypt a clear home in place, go on with an interrupted encryption, or take back a decryption.

    `thick`: holes become encrypted zeros; what is gone on with stays as it was begun. After an error the home
    takes no writes and the call can be repeated. Raises UsageError when it is encrypted already, BusyError,
    ReadOnlyError, KeyUnavailableError, CorruptDataError, StorageError.
    """
    with exclusive(volume, name) as (home, record):
        operation = record.operation
        if not isinstance(operation, Operation):
            _refuse_others(record)
            if record.state is HomeState.ENCRYPTED:
                raise UsageError("is encrypted already")
            record = _begin_encrypt(home, record, thick)
        elif operation.kind == "decrypt":
            _check_authorised(volume, operation)
            record = _turn(home, record, progress)
            volume.end_authorisation(operation.id)
        _finish_encrypt(home, record, progress)


def decrypt(volume: Volume, name: str, *, progress: Progress | None = None) -> None:
    """Decrypt an encrypted home in place, go on with that, or take back an interrupted encryption.

    Nothing is changed unless every file opens. Raises UsageError when it is clear already,
    AuthenticationError for a decryption that this host did not start, and what `encrypt` raises.
    """
    with exclusive(volume, name) as (home, record):
        operation = record.operation
        if not isinstance(operation, Operation):
            _refuse_others(record)
            if record.state is HomeState.CLEAR:
                raise UsageError("is clear already")
            record = _begin_decrypt(home, record)
        elif operation.kind == "encrypt":
            record = _turn(home, record, progress)
        else:
            _check_authorised(volume, operation)
        conversion = Conversion(home, record, progress)
        conversion.run()
        cleared = replace(
            conversion.record,
            home_id=new_uuid(),  # no clear record of before is valid ever again
            state=HomeState.CLEAR,
            keys=(),
            names=(name,),
            clear_files=(),
            policy=POLICY[HomeState.CLEAR],
            thick=False,
            operation=None,
        )
        home.store(cleared)
        volume.end_authorisation(conversion.operation.id)


def resume_encryptions(
    volume: Volume, *, progress: Progress | None = None, but: str | None = None
) -> list[str]:
    """Finish the interrupted encryptions of all homes except `but`; names of those that were finished.

    What fails is logged and stays resumable; homes that are in use now are left to whoever uses them.
    """
    finished = []
    for name in [] if volume.read_only else volume.homes():
        if name == but or not _seems_interrupted(volume, name):
            continue
        try:
            with exclusive(volume, name) as (home, record):
                if not isinstance(record.operation, Operation) or record.operation.kind != "encrypt":
                    continue
                _finish_encrypt(home, record, progress)
            finished.append(name)
        except BusyError:
            continue
        except IofltError as error:
            _log.warning("an interrupted encryption cannot be resumed now: %s", error)
    return finished


@contextmanager
def exclusive(volume: Volume, name: str, *, copies: bool = False) -> Iterator[tuple[Home, HomeRecord]]:
    """The home, used by nobody else, free of left-over drafts, and its valid record.

    `copies`: also one of which this host has seen another copy.
    """
    home = volume.home(name)
    with regular.named(home):
        if volume.read_only:
            raise ReadOnlyError("the datastore is opened read-only")
        with home.exclusive():
            standing = home.standing()
            refused = standing.refusal is not None and not (copies and standing.refusal is Refusal.COPIED)
            if standing.record is None or refused:
                raise ReadOnlyError(standing.problem or "it has no record")
            atomic.remove_drafts(home.fd)
            yield home, standing.record


def _seems_interrupted(volume: Volume, name: str) -> bool:
    """Whether a home's record, not yet verified, tells of an encryption under way."""
    with suppress(IofltError, OSError):
        record = form.parse_home(records.read(volume.home(name).fd)).record
        return isinstance(record.operation, Operation) and record.operation.kind == "encrypt"
    return False


def _refuse_others(record: HomeRecord) -> None:
    """Raises UsageError while a recrypt or a move is under way."""
    if isinstance(record.operation, Deep):
        raise UsageError("its deep recrypt was interrupted, and comes first")
    if record.operation is not None:
        raise UsageError(f"its {record.operation.kind} was interrupted, and comes first")


def _check_authorised(volume: Volume, operation: Operation) -> None:
    if not volume.is_authorised(operation.id):
        raise AuthenticationError(
            "unknown operation",
            "its record tells of a decryption that this host never started (an old copy put back?)",
        )


def _begin_encrypt(home: Home, record: HomeRecord, thick: bool) -> HomeRecord:
    entries = _check_clear(home, regular.regular_files(home))
    begun = replace(
        record,
        state=HomeState.ENCRYPTED,
        keys=(home.volume.keys.new_key(home.volume.record.key.provider),),
        names=(),
        policy=POLICY[HomeState.ENCRYPTED],
        thick=thick,
        operation=_operation("encrypt", thick, entries),
    )
    return _store_first(home, record, begun, entries)


def _begin_decrypt(home: Home, record: HomeRecord) -> HomeRecord:
    entries = _check_encrypted(home, _files(home, record))
    operation = _operation("decrypt", False, entries)
    begun = replace(record, operation=operation)
    home.volume.authorise(operation.id)
    try:
        return _store_first(home, record, begun, entries)
    except BusyError:
        home.volume.end_authorisation(operation.id)
        raise


def _store_first(home: Home, before: HomeRecord, begun: HomeRecord, entries: list[Entry]) -> HomeRecord:
    """Begin. From here on mounts write nothing; if one did since we looked, its file is not in the list."""
    stored = home.store(begun)
    if [entry.path for entry in _files(home, before)] != [entry.path for entry in entries]:
        home.store(replace(before, generation=stored.generation))
        raise BusyError("a file was made, removed or renamed just now")
    return stored


def _files(home: Home, record: HomeRecord) -> list[Entry]:
    """The files that a conversion is about: not those that are clear on purpose."""
    return [entry for entry in regular.regular_files(home) if entry.path not in record.clear_files]


def _turn(home: Home, record: HomeRecord, progress: Progress | None) -> HomeRecord:
    """Go the other way from here: what is pending stays as it is, what was converted is converted back."""
    conversion = Conversion(home, record, progress)
    conversion.settle()
    operation = conversion.operation
    unconverted = frozenset(operation.pending)
    entries = [entry for entry in _files(home, record) if entry.path not in unconverted]
    if operation.kind == "decrypt":
        back = _operation("encrypt", record.thick, _check_clear(home, entries))
    else:
        back = _operation("decrypt", False, _check_encrypted(home, entries))
        home.volume.authorise(back.id)
    return home.store(replace(conversion.record, operation=back))


def _finish_encrypt(home: Home, record: HomeRecord, progress: Progress | None) -> None:
    conversion = Conversion(home, record, progress)
    conversion.run()
    home.store(replace(conversion.record, operation=None))


def _operation(kind: form.Direction, thick: bool, entries: list[Entry]) -> Operation:
    # The longest first: so the record, which has a limit, never grows by naming the current file.
    paths = sorted((entry.path for entry in entries), key=lambda path: (-len(path), path))
    return Operation(kind, new_uuid(), thick, tuple(paths), None)


def _check_clear(home: Home, entries: list[Entry]) -> list[Entry]:
    """Raises the error of the first file that could not be encrypted, as far as that shows beforehand."""
    for entry in entries:
        with regular.named(home, entry.path), regular.opened(home, entry.path):
            if stored_as(entry.path) is Treatment.VMX:
                convert.check_vmx_size(entry.info.st_size)
    return entries


def _check_encrypted(home: Home, entries: list[Entry]) -> list[Entry]:
    """Raises the error of the first file that does not open."""
    for entry in entries:
        with regular.named(home, entry.path):
            fd = regular.open_file(home, entry.path)
            where = regular.full_path(home, entry.path)
            treatment = stored_as(entry.path)
            opened = files.open_file(home, fd, treatment, writable=False, place=lambda: None, name=where)
            try:
                convert.identity(opened.fd, treatment)
            finally:
                opened.close()
    return entries
