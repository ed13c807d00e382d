"""Cryptographic erase of a home: what opens its files is overwritten, then the home is removed.

First what can fail is tried. Then, if that is wanted, its keys are destroyed: an interruption there leaves a
home that is locked, and can be erased still. Then the home loses its name, so that nobody opens it, and what
has keys in it is overwritten and synced, file by file, its record last. From there on the next start goes on.

Neither needs a key, so a VM whose keys are lost can be erased, too.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from ioflt import syscalls
from ioflt.crypto.rng import random_bytes
from ioflt.datastore import atomic, clearlist, newhome, records, regular, seen, summary
from ioflt.datastore.atomic import PRIVATE_DIR, RECORD
from ioflt.datastore.container import Progress
from ioflt.datastore.header import read_header
from ioflt.datastore.home import Home
from ioflt.datastore.standing import Treatment, stored_as
from ioflt.datastore.volume import Volume
from ioflt.datastore.walk import raise_it
from ioflt.errors import BusyError, CorruptDataError, IofltError, ReadOnlyError, UsageError
from ioflt.format.luks2 import binary
from ioflt.format.luks2.layout import BINARY_SIZE, DATA_OFFSET, HEADER_OFFSETS
from ioflt.format.record import record as form
from ioflt.format.record.record import Deep, HomeRecord, Operation, Recrypt, Rename
from ioflt.format.vmx import sealed
from ioflt.types import HomeState, KeyRef

#: Bytes from the start of a file that are overwritten: all of a container that is not data, all of a VMX, of
#: a record, and the slots of a sidecar.
REACH: Final = 4 * DATA_OFFSET

_CHUNK = 1 << 20

#: Destroys a key of the home of that id; whether it is gone for good.
Destroy = Callable[[KeyRef, str], bool]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ErasedKey:
    """`fate`: `kept` by its provider; `destroyed` there; `removed from this host`, as it is a derived one.

    `also_protects`: paths of what else opens by it, as far as this host knows.
    """

    key: str
    fate: str
    also_protects: list[str]


@dataclass(frozen=True, slots=True)
class ErasedFile:
    """What the file was, its container's UUID, and how many bytes of it, from its start, are overwritten."""

    path: str
    stored: str
    uuid: str | None
    overwritten: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was erased. `verified`: by one of its keys; else ids, keys and clear files are what it claimed.

    `unknown`: datastores and VMs of which nobody knows whether they have its keys.
    """

    vm: str
    verified: bool
    home_id: str
    datastore_id: str
    erased_at: str
    keys: list[ErasedKey]
    files: list[ErasedFile]
    unknown: list[str]


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    stored: str
    uuid: str | None = None


def erase(
    volume: Volume, name: str, *, destroy: Destroy | None = None, progress: Progress | None = None
) -> Receipt:
    """Erase a powered-off encrypted VM. `destroy`: its keys as well, which nothing else may have.

    `progress` hears of bytes overwritten.

    Raises UsageError for a clear home or a file that is not encrypted, BusyError when it or one of its keys
    is in use, ReadOnlyError, KeyUnavailableError from `destroy`, StorageError. Until the home has lost its
    name, an error leaves it as it was but for destroyed keys; later ones are finished by `resume`.
    """
    home = volume.home(name)
    place = regular.full_path(home)
    with regular.named(home):
        if volume.read_only:
            raise ReadOnlyError("the datastore is opened read-only")
        with home.exclusive():
            record, verified = _record(home, certain=destroy is not None)
            clear_files = clearlist.now(home.fd, record)
            found = _inventory(home, clear_files)
            atomic.make_private_dir(volume.fd)
            keys = _keys(record)
            shared, unknown = _shared(home, keys)
            if destroy is not None:
                _refuse_shared(shared, unknown)
            fates = {key: _fate(key, record.home_id, destroy) for key in keys}
            hidden = newhome.hide(volume, home, newhome.ERASED)
            for key in keys if verified else ():  # else the record may name somebody else's
                if not shared[key]:
                    with suppress(IofltError):  # the home is as good as gone; keyd is not what stops that
                        volume.keys.forget_key(key)
            overwritten = _overwrite(home.fd, [file.path for file in found], clear_files, progress)
            shutil.rmtree(hidden, dir_fd=volume.fd)
    _log.info("%s: erased, home id %s", place, record.home_id)
    return Receipt(
        place,
        verified,
        record.home_id,
        record.datastore_id,
        datetime.now(UTC).isoformat(timespec="seconds"),
        [ErasedKey(str(key), fates[key], shared[key]) for key in keys],
        [ErasedFile(file.path, file.stored, file.uuid, overwritten[file.path]) for file in found],
        unknown,
    )


def extent(volume: Volume, name: str) -> int:
    """Bytes that an erase of the home overwrites, about. Raises NotFoundError."""
    return sum(
        file.allocated if file.stored_as == Treatment.CLEAR.value else min(file.allocated, REACH)
        for file in summary.home(volume, name).files
    )


def resume(volume: Volume, progress: Progress | None = None) -> list[str]:
    """Finish the interrupted erases; paths under which the homes were hidden. What fails is logged."""

    def end(path: str, fd: int) -> None:
        clear: tuple[str, ...] = ()
        with suppress(FileNotFoundError, CorruptDataError):  # overwritten last, when nothing clear is left
            clear = clearlist.now(fd, form.parse_home(records.read(fd)).record)
        _overwrite(fd, _paths(fd), clear, progress)
        shutil.rmtree(path, dir_fd=volume.fd)

    return [] if volume.read_only else newhome.finish(volume.fd, newhome.ERASED, end)


# Whether it may be


def _record(home: Home, *, certain: bool) -> tuple[HomeRecord, bool]:
    """The home's record, and whether it was verified. `certain`: keys are destroyed that it names."""
    standing = home.standing() if certain else home.unverified()
    record = standing.record
    if record is None:
        raise ReadOnlyError(standing.problem or "it has no record")
    if record.state is HomeState.CLEAR:
        raise UsageError("is clear: there is nothing to erase but its data")
    if isinstance(record.operation, Operation):  # a part of it is clear
        raise ReadOnlyError(standing.problem or "its conversion was interrupted")
    if certain and standing.refusal is not None:
        raise ReadOnlyError(standing.problem or "its record is not believed")
    if certain and not isinstance(record.operation, Rename | None):
        which = "deep recrypt" if isinstance(record.operation, Deep) else record.operation.kind
        raise UsageError(f"its {which} was interrupted, and comes first")
    return record, not standing.locked


def _keys(record: HomeRecord) -> list[KeyRef]:
    keys = [*record.keys]
    if isinstance(record.operation, Recrypt | Deep):
        keys += [*record.operation.old, *record.operation.to]
    return list(dict.fromkeys(keys))


def _shared(home: Home, keys: Sequence[KeyRef]) -> tuple[dict[KeyRef, list[str]], list[str]]:
    """What else has each of the keys, and of what nobody knows."""
    survey = seen.survey()
    if not any(_is_that(home.volume.fd, one.path) for one in survey.protected):
        try:  # it was never verified on this host, or claims to be another one
            seen.look(home.volume.path, survey)
        except IofltError as error:
            survey.unknown.append((home.volume.path, error.message))
    shared: dict[KeyRef, list[str]] = {key: [] for key in keys}
    for one in survey.protected:
        if not _is_that(home.fd, one.path):
            for key in {*one.keys, *one.also} & shared.keys():
                shared[key].append(one.path)
    return shared, [path for path, _ in survey.unknown]


def _is_that(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except OSError:
        return False


def _refuse_shared(shared: dict[KeyRef, list[str]], unknown: Sequence[str]) -> None:
    for key, others in shared.items():
        if others:
            raise BusyError(f"its key {key} also opens {', '.join(others)}")
    if unknown:
        raise BusyError(f"nobody knows whether its keys also open {', '.join(unknown)}")


def _fate(key: KeyRef, home_id: str, destroy: Destroy | None) -> str:
    if destroy is None:
        return "kept"
    return "destroyed" if destroy(key, home_id) else "removed from this host"


# What there is


def _inventory(home: Home, clear_files: Sequence[str]) -> list[_File]:
    """All files of the home, each of which can be written. Raises for what an erase would not destroy."""
    found = []
    for path in _paths(home.fd):
        with regular.named(home, path):
            fd = syscalls.open_beneath(home.fd, path, os.O_RDWR | os.O_NONBLOCK)
            try:
                found.append(_judge(fd, path, clear_files))
            finally:
                os.close(fd)
    return found


def _judge(fd: int, path: str, clear_files: Sequence[str]) -> _File:
    if path == RECORD:
        return _File(path, "record")
    if path.startswith(f"{PRIVATE_DIR}/"):
        return _File(path, "left over or under way")
    if path in clear_files:
        return _File(path, "clear")
    if stored_as(path) is Treatment.VMX:
        with suppress(CorruptDataError):
            sealed.peek(os.pread(fd, sealed.PEEK_SIZE, 0))
            return _File(path, "sealed VMX")
    elif any(binary.has_magic(os.pread(fd, BINARY_SIZE, offset)) for offset in HEADER_OFFSETS):
        uuid = None
        with suppress(CorruptDataError):  # damaged, or being recrypted
            uuid = read_header(fd).uuid
        return _File(path, "container", uuid)
    if os.fstat(fd).st_size > 0:
        raise UsageError("is not encrypted: without its VM's keys it stays as readable as it is")
    return _File(path, "empty")


def _paths(top_fd: int) -> list[str]:
    """All regular files below the directory, ours too, the record last.

    Raises OSError; UsageError for a file that has names elsewhere: who made those wants to keep it.
    """
    paths, names = [], Counter[tuple[int, int]]()
    links: dict[tuple[int, int], tuple[int, str]] = {}
    for root, _directories, files, dir_fd in os.fwalk(".", dir_fd=top_fd, onerror=raise_it):
        for name in files:
            info = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            if stat.S_ISREG(info.st_mode):
                path = os.path.normpath(os.path.join(root, name))
                paths.append(path)
                names[info.st_dev, info.st_ino] += 1
                links[info.st_dev, info.st_ino] = (info.st_nlink, path)
    for identity, (count, path) in links.items():
        if count > names[identity]:
            raise UsageError(f"{path!r} has names outside of the VM (hard links), which would be erased, too")
    return sorted(paths, key=lambda path: (path == RECORD, path))


# Overwriting


def _overwrite(
    top_fd: int, paths: Sequence[str], clear: Sequence[str], progress: Progress | None
) -> dict[str, int]:
    """Overwrite each of the files as far as it has keys, those in `clear` whole; how many bytes in each."""
    done = {}
    for path in paths:
        fd = syscalls.open_beneath(top_fd, path, os.O_RDWR | os.O_NONBLOCK)
        try:
            size = os.fstat(fd).st_size
            done[path] = _randomise(fd, size if path in clear else min(size, REACH), progress)
        finally:
            os.close(fd)
    return done


def _randomise(fd: int, end: int, progress: Progress | None) -> int:
    """Put random bytes in the place of all data before `end`, durably; how many. In holes there is none."""
    offset = done = 0
    while offset < end:
        try:
            offset = os.lseek(fd, offset, os.SEEK_DATA)
            stop = min(os.lseek(fd, offset, os.SEEK_HOLE), end)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # a hole up to the end
        while offset < stop:
            data = random_bytes(min(_CHUNK, stop - offset))
            atomic.write_all(fd, data, offset)
            offset += len(data)
            done += len(data)
            if progress is not None:
                progress(len(data))
    os.fsync(fd)
    return done
