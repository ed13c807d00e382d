"""Conversion of whole homes, or of single disks: encrypt, decrypt, go on after an interruption, or go back.

The home's record holds an operation from the first file to the last. An interrupted encryption may be resumed
by anyone; a decryption only by the host that started it, because only it remembers the one-time id: a record
that was put back from an old copy would otherwise bring plaintext onto the datastore. For the same reason the
host remembers the generations of records (`memory`).

An encrypted home may keep single disks clear; in a clear one there is no encrypted disk.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from ioflt.crypto.rng import new_uuid
from ioflt.datastore import atomic, clearlist, convert, diskfiles, files, guards, policies, records, regular
from ioflt.datastore.container import Progress
from ioflt.datastore.convert import Conversion
from ioflt.datastore.home import Home
from ioflt.datastore.registration import register
from ioflt.datastore.regular import Entry
from ioflt.datastore.standing import Refusal, Treatment, stored_as
from ioflt.datastore.volume import Volume
from ioflt.errors import (
    AuthenticationError,
    BusyError,
    IofltError,
    ReadOnlyError,
    UsageError,
)
from ioflt.format.record import record as form
from ioflt.format.record.record import Deep, HomeRecord, Operation, Rename
from ioflt.policy.bundled import DATASTORE_DEFAULT, VM_ENCRYPTION
from ioflt.policy.model import StoragePolicy
from ioflt.types import HomeState

__all__ = ["decrypt", "encrypt", "exclusive", "register", "resume_encryptions"]

_log = logging.getLogger(__name__)


def encrypt(
    volume: Volume,
    name: str,
    *,
    disk: str | None = None,
    thick: bool = False,
    policy: StoragePolicy | None = None,
    force: bool = False,
    integrity: bool = False,
    progress: Progress | None = None,
) -> tuple[str, ...]:
    """Encrypt a clear home in place, go on with an interrupted encryption, or take back a decryption.

    `policy`: the one that a home gets, which encrypts; else the datastore's own, if that does. `force`: also
    the VM that is marked as the one from which the keys come.
    `disk`: in an encrypted home, what is clear of the disk to which the file at that path belongs.
    `thick`: holes become encrypted zeros; `integrity`: files get tags, whatever the policy says; what is gone
    on with stays as it was begun. Returns the paths of a
    disk's files. After an error the home takes no writes and the call can be repeated. Raises UsageError when
    it is encrypted already, BusyError, ReadOnlyError, KeyUnavailableError, CorruptDataError, StorageError.
    """
    with exclusive(volume, name) as (home, record):
        operation = record.operation
        if not isinstance(operation, Operation):
            _refuse_others(record)
            if disk is not None:
                record = _begin_encrypt_disk(home, record, disk, thick)
            elif record.state is HomeState.ENCRYPTED:
                raise UsageError("is encrypted already")
            else:
                guards.check_home(home, record, force=force)
                record = _begin_encrypt(
                    home, record, thick, integrity, _own(volume, policy, HomeState.ENCRYPTED)
                )
        elif disk is not None and not _is_about(operation, disk):
            raise _interrupted(operation)
        elif operation.kind == "decrypt":
            _check_authorised(volume, operation)
            record = _turn(home, record, _own(volume, policy, HomeState.ENCRYPTED), progress)
            volume.end_authorisation(operation.id)
        return _finish_encrypt(home, record, progress)


def decrypt(
    volume: Volume,
    name: str,
    *,
    disk: str | None = None,
    policy: StoragePolicy | None = None,
    progress: Progress | None = None,
) -> tuple[str, ...]:
    """Decrypt an encrypted home in place, go on with that, or take back an interrupted encryption.

    `policy`: the one that a home gets, which does not encrypt; else the datastore's own, if that does not.
    `disk`: just the disk to which the file at that path belongs, snapshots included. Returns the paths of a
    disk's files.

    Nothing is changed unless every file opens. Raises UsageError when it is clear already,
    AuthenticationError for a decryption that this host did not start, and what `encrypt` raises.
    """
    with exclusive(volume, name) as (home, record):
        operation = record.operation
        if disk is None:  # the record of what is clear will be under the datastore's keys
            volume.root.check_writable()
        if not isinstance(operation, Operation):
            _refuse_others(record)
            if record.state is HomeState.CLEAR:
                raise UsageError("is clear already")
            record = _begin_decrypt(home, record, disk, _own(volume, policy, HomeState.CLEAR))
        elif not _is_about(operation, disk):  # nobody decrypts more than he was asked to
            raise _interrupted(operation)
        elif operation.kind == "encrypt":
            record = _turn(home, record, _own(volume, policy, HomeState.CLEAR), progress)
        else:
            _check_authorised(volume, operation)
        conversion = Conversion(home, record, progress)
        conversion.run()
        home.store(_cleared(home, conversion))
        volume.end_authorisation(conversion.operation.id)
        return conversion.operation.files or ()


def _cleared(home: Home, conversion: Conversion) -> HomeRecord:
    """The record after a decryption."""
    record, files_of_disk = conversion.record, conversion.operation.files
    if files_of_disk is not None:
        there = (path for path in files_of_disk if clearlist.exists(home.fd, path))
        return replace(record, clear_files=tuple(sorted((*record.clear_files, *there))), operation=None)
    begun_before = record.policy == VM_ENCRYPTION.name  # by a version that named the new policy at the end
    return replace(
        record,
        home_id=new_uuid(),  # no clear record of before is valid ever again
        state=HomeState.CLEAR,
        keys=(),
        names=(home.name,),
        clear_files=(),
        policy=DATASTORE_DEFAULT.name if begun_before else record.policy,
        thick=False,
        operation=None,
        integrity=False,
    )


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
            record = standing.record
            if isinstance(record.operation, Rename):
                with home.changing() as (record, _):
                    """Entering it ended the rename."""
            atomic.remove_drafts(home.fd)
            yield home, record


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


def _is_about(operation: Operation, disk: str | None) -> bool:
    """Whether that conversion is the one of the disk, or of the whole home."""
    return operation.files is None if disk is None else disk in (operation.files or ())


def _interrupted(operation: Operation) -> UsageError:
    """Of another conversion than the one that is wanted."""
    what = f"{operation.kind}ion"
    which = f"its {what}" if operation.files is None else f"the {what} of its disk {operation.files[0]}"
    return UsageError(f"{which} was interrupted, and comes first")


def _check_authorised(volume: Volume, operation: Operation) -> None:
    if not volume.is_authorised(operation.id):
        raise AuthenticationError(
            "unknown operation",
            "its record tells of a decryption that this host never started (an old copy put back?)",
        )


def _own(volume: Volume, policy: StoragePolicy | None, state: HomeState) -> StoragePolicy:
    """The policy that a conversion to that state assigns."""
    return policy or policies.default(volume.keys, volume.record, state)


def _begin_encrypt(
    home: Home, record: HomeRecord, thick: bool, integrity: bool, policy: StoragePolicy
) -> HomeRecord:
    entries = _check_clear(home, regular.regular_files(home))
    thick = thick or policy.provisioning == "thick"
    begun = replace(
        record,
        state=HomeState.ENCRYPTED,
        keys=(policies.new_key(home.volume.keys, home.volume.record, policy.provider),),
        names=(),
        policy=policy.name,
        thick=thick,
        operation=_operation("encrypt", thick, entries),
        integrity=integrity or policy.integrity,
    )
    return _store_first(home, record, begun, entries)


def _begin_encrypt_disk(home: Home, record: HomeRecord, disk: str, thick: bool) -> HomeRecord:
    if record.state is HomeState.CLEAR:
        raise UsageError("is not encrypted: an encrypted disk is not allowed in it")
    # Who may encrypt may not read what is encrypted: other descriptors are not asked.
    found = diskfiles.of_disk(home, disk, lambda path: path in record.clear_files)
    if not found:  # a part of a disk that lost its descriptor
        found = [entry for entry in regular.regular_files(home) if entry.path == disk]
    entries = _check_clear(home, [entry for entry in found if entry.path in record.clear_files])
    if not entries:
        raise UsageError(f"its file {disk} is encrypted already")
    operation = _operation("encrypt", thick or record.thick, entries, disk)
    clear_files = tuple(path for path in record.clear_files if path not in operation.pending)
    return home.store(replace(record, clear_files=clear_files, operation=operation))


def _files_of_disk(home: Home, record: HomeRecord, disk: str) -> list[Entry]:
    """Those that are encrypted, by what encrypted descriptors say."""
    if disk in record.clear_files:
        raise UsageError(f"its disk {disk} is clear already")
    found = diskfiles.of_disk(home, disk, lambda path: path not in record.clear_files)
    if not found:
        raise UsageError(f"its file {disk} is no disk")
    return [entry for entry in found if entry.path not in record.clear_files]


def _begin_decrypt(home: Home, record: HomeRecord, disk: str | None, policy: StoragePolicy) -> HomeRecord:
    wanted = _files(home, record) if disk is None else _files_of_disk(home, record, disk)
    entries = _check_encrypted(home, wanted)
    operation = _operation("decrypt", False, entries, disk)
    begun = replace(record, operation=operation)
    home.volume.authorise(operation.id)
    if disk is not None:  # other files may come and go as they like
        return home.store(begun)
    begun = replace(begun, policy=policy.name)
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


def _turn(home: Home, record: HomeRecord, policy: StoragePolicy, progress: Progress | None) -> HomeRecord:
    """Go the other way from here: what is pending stays as it is, what was converted is converted back.

    Of a whole home that is to have that policy, then.
    """
    conversion = Conversion(home, record, progress)
    conversion.settle()
    operation = conversion.operation
    unconverted = frozenset(operation.pending)
    entries = [
        entry
        for entry in _files(home, record)
        if entry.path not in unconverted and (operation.files is None or entry.path in operation.files)
    ]
    if operation.kind == "decrypt":
        back = _operation("encrypt", record.thick, _check_clear(home, entries))
    else:
        back = _operation("decrypt", False, _check_encrypted(home, entries))
        home.volume.authorise(back.id)
    turned = replace(conversion.record, operation=replace(back, files=operation.files))
    return home.store(turned if operation.files is not None else replace(turned, policy=policy.name))


def _finish_encrypt(home: Home, record: HomeRecord, progress: Progress | None) -> tuple[str, ...]:
    conversion = Conversion(home, record, progress)
    conversion.run()
    home.store(replace(conversion.record, operation=None))
    return conversion.operation.files or ()


def _operation(kind: form.Direction, thick: bool, entries: list[Entry], disk: str | None = None) -> Operation:
    # The longest first: so the record, which has a limit, never grows by naming the current file.
    paths = sorted((entry.path for entry in entries), key=lambda path: (-len(path), path))
    files_of_disk = None if disk is None else tuple(sorted(paths, key=lambda path: (path != disk, path)))
    return Operation(kind, new_uuid(), thick, tuple(paths), None, files_of_disk)


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
