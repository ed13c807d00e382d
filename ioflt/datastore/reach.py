"""From what the user names to the container that is meant, and to whoever may change its header now.

Only one writes a header: who has the OFD writer's lock of the file. If that is a mount of this host, it is
asked over its control socket.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TypeVar

from ioflt import paths, syscalls
from ioflt.crypto.secret import Secret
from ioflt.datastore import files, records, recovery
from ioflt.datastore.home import Home
from ioflt.datastore.standing import Treatment
from ioflt.datastore.walk import raise_it, walk
from ioflt.errors import BusyError, DeniedError, IofltError, PeerError, UsageError
from ioflt.format.record import record as form
from ioflt.format.record.record import Deep, HomeRecord
from ioflt.keys import mounts
from ioflt.keys.mounts import MountControl
from ioflt.keys.service import KeyService
from ioflt.types import HomeState

_Result = TypeVar("_Result")


def backing_path(path: str | os.PathLike[str]) -> str:
    """The absolute path in the datastore; `path` may also lie under a mount of this host."""
    directory, name = os.path.split(os.path.abspath(path))
    real = os.path.join(os.path.realpath(directory), name)
    for mount in _mounts():
        below = _relative(real, mount.status.mountpoint)
        if below is not None:
            return os.path.join(mount.status.datastore, below)
    return real


def containers(home: Home) -> list[str]:
    """The paths, relative to an encrypted home, of all its containers. Raises UsageError when it is clear.

    Sealed VMX files are none. Raises KeyUnavailableError, OSError.
    """
    standing = home.standing()
    if standing.state is HomeState.CLEAR:
        raise UsageError("a clear home: its files have no headers", file=home.name)
    found = []
    for node in walk(home, raise_it):
        if node.is_regular:
            fd = files.open_regular(node.dir_fd, node.name, os.O_RDONLY)
            try:
                if home.treatment(node.path, fd, standing) is Treatment.CONTAINER:
                    found.append(node.path)
            finally:
                os.close(fd)
    return found


def change(
    path: str, here: Callable[[int], _Result], by_mount: Callable[[MountControl, str], _Result]
) -> _Result:
    """Change the container at an absolute backing path.

    `here` gets a descriptor, read and write, that has the writer's lock. When somebody else has that lock,
    `by_mount` gets each mount of the datastore in turn, and the path as that knows it. Raises BusyError when
    nobody reached has the file; OSError; what the two raise, with the file's name.
    """
    fd = _open(path)
    try:
        if syscalls.try_write_lock(fd):
            return here(fd)
    except IofltError as error:
        error.file = error.file or path
        raise
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)
    return ask(path, by_mount)


@contextmanager
def reading(path: str) -> Iterator[int]:
    """A read-only descriptor of the container; errors get the file's name."""
    fd = files.open_regular(None, path, os.O_RDONLY)
    try:
        yield fd
    except IofltError as error:
        error.file = error.file or path
        raise
    finally:
        os.close(fd)


def add_slot(path: str, keys: KeyService, passphrase: Secret) -> int:
    """`recovery.add_slot` by whoever may write the header now. Raises as that and as `change`.

    Raises UsageError in the middle of a deep recrypt, which would drop the slot again.
    """
    _refuse_while_rewritten(path)
    return change(
        path,
        lambda fd: recovery.add_slot(fd, keys, passphrase),
        lambda mount, below: mount.add_keyslot(below, passphrase),
    )


def _refuse_while_rewritten(path: str) -> None:
    """By the record of the home that has the file, not verified: a false one refuses, and gives nothing."""
    top = _top(path)
    record = None if top is None else _home_record(top)
    if record is not None and isinstance(record.operation, Deep):
        raise UsageError("its deep recrypt was interrupted, and comes first", file=top)


def _top(path: str) -> str | None:
    """The home that has the file, by the record there, which is not verified; None when there is none."""
    top = os.path.dirname(path)
    while top != "/":
        if _home_record(top) is not None:
            return top
        top = os.path.dirname(top)
    return None


def _home_record(directory: str) -> HomeRecord | None:
    with suppress(IofltError, OSError):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return form.parse_home(records.read(fd)).record
        finally:
            os.close(fd)
    return None


def remove_slot(path: str, number: int) -> None:
    """`recovery.remove_slot`, likewise."""

    def here(fd: int) -> None:
        recovery.remove_slot(fd, number, None)

    change(path, here, lambda mount, below: mount.remove_keyslot(below, number))


def restore_header(path: str, keys: KeyService, header_area: bytes) -> None:
    """`recovery.restore_header`, likewise."""
    change(
        path,
        lambda fd: recovery.restore_header(fd, keys, header_area),
        lambda mount, below: mount.restore_header(below, header_area),
    )


def take(path: str) -> int:
    """A descriptor, read and write, that has the writer's lock. Raises BusyError, OSError."""
    fd = _open(path)
    if not syscalls.try_write_lock(fd):
        os.close(fd)
        raise BusyError("is open for writing in a mount", file=path)
    return fd


def fill(path: str, keys: KeyService, progress: Callable[[int], None]) -> int:
    """`recovery.fill` of a file that nobody has open for writing. Raises BusyError otherwise."""
    top = _top(path)
    try:
        with ExitStack() as opened:
            fd = take(path)
            tags_in = None
            if top is not None:
                tags_in = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                opened.callback(os.close, tags_in)
            return recovery.fill(fd, keys, progress, tags_in=tags_in)
    except IofltError as error:
        error.file = error.file or path
        raise
    except OSError as error:
        error.filename = path
        raise


def _open(path: str) -> int:
    try:
        return files.open_regular(None, path, os.O_RDWR)
    except OSError as error:
        error.filename = path
        raise


def ask(path: str, by_mount: Callable[[MountControl, str], _Result]) -> _Result:
    """`by_mount` of the mount of this host that has the file at an absolute backing path open for writing.

    Raises BusyError when none has.
    """
    for mount in _mounts():
        below = _relative(path, mount.status.datastore)
        if below is None or mount.status.read_only:
            continue
        with suppress(BusyError):  # another mount of the same datastore has it
            return by_mount(mount, below)
    raise BusyError("is open for writing, and no mount of this host has it", file=path)


def _mounts() -> Iterator[MountControl]:
    for socket in mounts.sockets(paths.find()):
        try:
            control = MountControl(socket)
        except (PeerError, DeniedError):  # gone without its socket, or another user's
            continue
        except PermissionError:  # a confined process, which reaches none
            return
        with control:
            yield control


def _relative(path: str, directory: str) -> str | None:
    """`path` seen from `directory`, if it lies there."""
    real = os.path.realpath(directory)
    if path == real:
        return ""
    return path[len(real) + 1 :] if path.startswith(f"{real.rstrip('/')}/") else None
