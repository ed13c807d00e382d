"""Changed blocks of a virtual disk: tracked, asked for, and ids of moments.

A disk is a raw file, or the flat extents that its descriptor names. What is tracked is kept for each of the
files; their sequences go together, and the UUID of a disk of several files is made of all of theirs and of
where each part lies: laid out otherwise it is another disk, whatever was written. The mount that has a file
open for writing is asked over its control socket; of a file that nobody writes to the map is read here.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Final, TypeVar

from ioflt import syscalls
from ioflt.datastore import cbtfiles, files, reach, regular
from ioflt.datastore.container import Container
from ioflt.datastore.home import Home
from ioflt.datastore.layers import is_raw
from ioflt.datastore.openfile import OpenFile
from ioflt.datastore.plain import PlainFile
from ioflt.errors import BusyError, ChangesUnknownError, NotFoundError, UnsupportedError, UsageError
from ioflt.filters.changemap import UNKNOWN
from ioflt.format.cbt.changeid import UUID_SIZE, ChangeId
from ioflt.format.cbt.sidecar import BLOCK
from ioflt.format.vmdk import descriptor, sparse
from ioflt.format.vmdk.descriptor import NO_PARENT
from ioflt.keys.mounts import MountControl

_Result = TypeVar("_Result")

#: Seconds for which somebody is waited for who has the file, and is no mount that has it open for writing: a
#: mount lets it go a moment after its last writer did. And the pause between tries.
_WAIT_S: Final = 5.0
_PAUSE_S: Final = 0.02

#: A range (offset, length) in bytes.
Area = tuple[int, int]

#: Formats whose files are no image of the disk, by how they begin. qcow2 has dirty bitmaps of its own.
_OTHER_FORMATS: Final = {b"QFI\xfb": "qcow2", sparse.MAGIC: "a sparse VMDK", b"COWD": "a sparse VMDK"}
_SE_SPARSE: Final = bytes.fromhex("bebafeca")


@dataclass(frozen=True, slots=True)
class Part:
    """What of a disk lies from `start` on: `length` bytes of the file at `path` from `offset` on; None: all,
    however long it is by then. Zeros if it has no `path`."""

    path: str | None
    offset: int
    start: int
    length: int | None


@dataclass(frozen=True, slots=True)
class FileChanges:
    """What one file knows of its changes, and its length."""

    uuid: bytes
    length: int
    areas: tuple[Area, ...]


def enable(home: Home, path: str) -> bool:
    """Track the changes of the disk at `path` in the home from now on; False when they were already.

    Raises UnsupportedError for formats whose files are no image of the disk; UsageError, BusyError,
    ReadOnlyError, KeyUnavailableError, CorruptDataError, StorageError.
    """
    home.check_writable()
    made = [_switch(home, one, on=True) for one in _files(parts(home, path))]
    return any(made)


def disable(home: Home, path: str) -> bool:
    """Track them no more; False when they were not. Raises as `enable`."""
    home.check_writable()
    removed = [_switch(home, one, on=False) for one in _files(parts(home, path, any_format=True))]
    return any(removed)


def is_tracked(home: Home, path: str) -> bool:
    """Whether the changes of all of the disk at `path` are. Raises as `enable`."""
    for one in _files(parts(home, path)):
        with regular.named(home, one), regular.opened(home, one) as fd:
            name = cbtfiles.name_of(fd, home.treatment(one, fd))
            if name is None or not cbtfiles.exists(home.fd, name):
                return False
    return True


def take(home: Home, path: str, *, held: bool = False) -> ChangeId:
    """The change id of this moment: a `query` since it gives what changed from now on.

    `held`: the caller keeps others from converting the home. Raises NotFoundError when the disk is not
    tracked, and otherwise as `enable`.
    """
    disk = parts(home, path)
    taken = {one: _take(home, one, 0, held=held) for one in _files(disk)}
    while True:
        sequence = max(one.sequence for one in taken.values())
        behind = [one for one, its in taken.items() if its.sequence < sequence]
        if not behind:
            return ChangeId(_uuid(disk, {one: its.uuid for one, its in taken.items()}), sequence)
        taken.update((one, _take(home, one, sequence, held=held)) for one in behind)


def query(home: Home, path: str, since: ChangeId | None, *, held: bool = False) -> list[Area]:
    """What of the disk changed since that id, rising and apart; None: all that is allocated.

    `held` as for `take`.
    Raises ChangesUnknownError, when a full backup is due; and otherwise as `take`.
    """
    disk = parts(home, path)
    sequence = None if since is None else since.sequence
    found = {one: _changes(home, one, sequence, held=held) for one in _files(disk)}
    if since is not None and since.uuid != _uuid(disk, {one: its.uuid for one, its in found.items()}):
        raise ChangesUnknownError(UNKNOWN, file=regular.full_path(home, path))
    areas: list[Area] = []
    for part in disk:
        if part.path is None:
            continue
        for start, length in found[part.path].areas:
            first, end = max(start, part.offset), start + length
            if part.length is not None:
                end = min(end, part.offset + part.length)
            if first < end:
                _append(areas, part.start + first - part.offset, end - first)
    return areas


def parts(home: Home, path: str, *, any_format: bool = False) -> list[Part]:
    """Where the content of the disk at `path` lies. `any_format`: its file may be no image of it, as that
    was made of a tracked one. Raises UnsupportedError, UsageError, CorruptDataError.
    """
    with regular.named(home, path), closing(_open(home, path, os.O_RDONLY)) as file:
        first = bytes(file.read(0, sparse.PROBE_SIZE))
        if path.lower().endswith(".vmdk") and descriptor.is_descriptor(first):
            if file.length <= descriptor.MAX_SIZE:
                return _extents(path, bytes(file.read(0, descriptor.MAX_SIZE)))
        elif not (any_format or is_raw(path)):
            refuse_format(first)
    return [Part(path, 0, 0, None)]


# One file


def areas_of(file: Container | PlainFile, sequence: int | None, start: int) -> Iterator[Area]:
    """What of a tracked file changed after that sequence, from about `start` on; None: what is allocated."""
    if sequence is None:
        yield from _allocated(file, start)
        return
    changes = file.changes
    if changes is None:
        raise _not_tracked()
    for first, count in changes.since(sequence, start // BLOCK):
        offset = first * BLOCK
        end = file.length if count is None else min(file.length, offset + count * BLOCK)
        if offset < end:
            yield offset, end - offset


def _switch(home: Home, path: str, *, on: bool) -> bool:
    def here(file: Container | PlainFile) -> bool:
        return switch(home, file, on=on)

    return _on_file(home, path, here, lambda mount, below: mount.track_changes(below, on=on))


def switch(home: Home, file: Container | PlainFile, *, on: bool) -> bool:
    """Begin or end the tracking of an open file, which nobody writes to; False when it was so already."""
    name = file.sidecar_name
    if not on:
        file.track(None)
        return cbtfiles.remove(home.fd, name)
    if file.changes is not None:
        return False
    made = not cbtfiles.exists(home.fd, name)
    if made:
        refuse_format(bytes(file.read(0, sparse.HEADER_SIZE)))
        cbtfiles.make(home.fd, name)
    if cbtfiles.attach(home.fd, file) and file.changes is not None:
        file.changes.ready()
    return made


def refuse_format(first: bytes) -> None:
    """Raises UnsupportedError for what begins a file that is no image of its disk."""
    for magic, name in (*_OTHER_FORMATS.items(), (_SE_SPARSE, "a sparse VMDK")):
        if first.startswith(magic):
            raise UnsupportedError("its changed blocks cannot be tracked", f"it is {name}")


def _take(home: Home, path: str, at_least: int, *, held: bool) -> ChangeId:
    def here(file: Container | PlainFile) -> ChangeId:
        if not cbtfiles.attach(home.fd, file) or file.changes is None:
            raise _not_tracked()
        return file.changes.take(at_least)

    return _on_file(home, path, here, lambda mount, below: mount.take_change_id(below, at_least), held=held)


def _changes(home: Home, path: str, sequence: int | None, *, held: bool) -> FileChanges:
    def here(file: Container | PlainFile) -> FileChanges:
        if not cbtfiles.attach(home.fd, file) or file.changes is None:
            raise _not_tracked()
        return FileChanges(file.changes.uuid, file.length, tuple(areas_of(file, sequence, 0)))

    def by_mount(mount: MountControl, below: str) -> FileChanges:
        uuid, length, areas = mount.changes(below, sequence)
        return FileChanges(uuid, length, tuple(areas))

    return _on_file(home, path, here, by_mount, held=held)


def _on_file(
    home: Home,
    path: str,
    here: Callable[[Container | PlainFile], _Result],
    by_mount: Callable[[MountControl, str], _Result],
    *,
    held: bool = False,
) -> _Result:
    """`here` gets the file, open and with its writer's lock; `by_mount` who has that in our place."""
    with (
        regular.named(home, path),
        nullcontext() if held else home.shared(),
        closing(_disk_file(home, path)) as file,  # needs its key, whoever is asked then
    ):
        deadline = time.monotonic() + _WAIT_S
        while not _hold(file):
            try:
                return reach.ask(os.path.realpath(regular.full_path(home, path)), by_mount)
            except BusyError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_PAUSE_S)
        return here(file)


def _disk_file(home: Home, path: str) -> Container | PlainFile:
    file = _open(home, path, os.O_RDWR)
    if not isinstance(file, (Container, PlainFile)):
        file.close()
        raise UsageError("a VMX is no disk")
    return file


def _hold(file: Container | PlainFile) -> bool:
    """Whether we have the writer's lock now, and so see what the last one left."""
    if not syscalls.try_write_lock(file.fd):
        return False
    if isinstance(file, Container):
        file.refresh()
    return True


def _open(home: Home, path: str, flags: int) -> OpenFile:
    try:
        with regular.parent(home, path) as (parent_fd, name):
            fd = files.open_regular(parent_fd, name, flags)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise NotFoundError("there is no such disk") from error
        if error.errno in (errno.EXDEV, errno.ELOOP):
            raise UsageError("leads out of the VM, or through a symlink") from error
        raise
    try:
        treatment = home.treatment(path, fd)
    except BaseException:  # nobody else closes it
        os.close(fd)
        raise
    shown, writable = regular.full_path(home, path), flags != os.O_RDONLY
    return files.open_file(home, fd, treatment, writable=writable, place=lambda: None, name=shown)


def _allocated(file: OpenFile, start: int) -> Iterator[Area]:
    while start < file.length:
        try:
            start = file.seek(start, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return
        end = min(file.length, file.seek(start, os.SEEK_HOLE))
        yield start, end - start
        start = end


def _extents(path: str, text: bytes) -> list[Part]:
    disk = descriptor.parse(text, os.path.basename(path))
    if disk.parent_cid != NO_PARENT or disk.parent_file_name_hint:
        raise UnsupportedError("its changed blocks cannot be tracked", "it is a snapshot of another disk")
    found, start = [], 0
    for extent in disk.extents:
        length, beside = extent.sectors * 512, None
        if extent.file_name is not None:
            if extent.kind not in ("FLAT", "VMFS"):
                raise UnsupportedError("its changed blocks cannot be tracked", f"an extent is {extent.kind}")
            beside = os.path.join(os.path.dirname(path), extent.file_name)
        found.append(Part(beside, extent.offset * 512, start, length))
        start += length
    if not _files(found):
        raise UnsupportedError("its changed blocks cannot be tracked", "it has no extent")
    return found


def _files(disk: list[Part]) -> list[str]:
    return list(dict.fromkeys(part.path for part in disk if part.path is not None))


def _uuid(disk: list[Part], uuids: dict[str, bytes]) -> bytes:
    """Of a disk whose files have those. One file from its beginning on is the same when it is longer."""
    first = disk[0]
    if len(disk) == 1 and first.path is not None and first.offset == 0:
        return uuids[first.path]
    made = hashlib.sha256()
    for part in disk:
        made.update(bytes(UUID_SIZE) if part.path is None else uuids[part.path])
        made.update(struct.pack("<QQ", part.offset, part.length or 0))
    return made.digest()[:UUID_SIZE]


def _append(areas: list[Area], start: int, length: int) -> None:
    if areas and sum(areas[-1]) == start:
        start, length = areas[-1][0], areas.pop()[1] + length
    areas.append((start, length))


def _not_tracked() -> NotFoundError:
    return NotFoundError("its changed blocks are not tracked")
