"""A backup destination: a datastore whose homes are shelves of points, or a directory of ciphertext.

The latter has a marker, `ioflt-backup.json`, and needs no key for anything that is done here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ioflt.backup.shelf import Shelf
from ioflt.datastore import atomic, files, records
from ioflt.datastore.home import LOST_FOUND
from ioflt.datastore.newhome import MAX_NAME, new_home
from ioflt.datastore.standing import is_private
from ioflt.datastore.volume import Volume
from ioflt.errors import (
    ExistsError,
    MalformedError,
    NotFoundError,
    StorageError,
    UnsupportedError,
    UsageError,
)
from ioflt.format.manifest.model import Kind
from ioflt.format.strict_json import parse_object
from ioflt.format.vmdk.descriptor import confine
from ioflt.types import HomeState

#: What says that a directory holds backups as ciphertext.
MARKER: Final = "ioflt-backup.json"

_TEXT: Final = b'{"format":1,"kind":"ciphertext"}\n'
_MAX_MARKER: Final = 4096


class Repository:
    """An open destination; `volume` is that of a datastore. A context manager."""

    def __init__(self, path: str, fd: int, volume: Volume | None) -> None:
        self.path = path
        self._fd = fd
        self.volume = volume

    @property
    def kind(self) -> Kind:
        if self.volume is None:
            return "ciphertext"
        return "encrypted" if self.volume.record.default is HomeState.ENCRYPTED else "clear"

    def vms(self) -> list[str]:
        """The VMs that have a shelf, sorted. Raises StorageError."""
        if self.volume is not None:
            return [name for name in self.volume.homes() if name != LOST_FOUND]
        with _storage(self.path), os.scandir(self._fd) as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and _is_name(entry.name) and entry.name != LOST_FOUND
            )

    @contextmanager
    def shelf(self, vm: str) -> Iterator[Shelf]:
        """That of a VM. Raises NotFoundError, UsageError for the name."""
        path = self._place(vm)
        if self.volume is not None:
            try:
                home = self.volume.home(vm)
            except NotFoundError as error:
                raise NotFoundError("no backups of a VM of that name", file=path) from error
            yield Shelf(vm, path, home.fd, home)
            return
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(vm, flags, dir_fd=self._fd)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError("no backups of a VM of that name", file=path) from error
        except OSError as error:
            raise StorageError("cannot open", error.errno or 0, file=path) from error
        try:
            yield Shelf(vm, path, fd, None)
        finally:
            os.close(fd)

    def make_shelf(self, vm: str) -> bool:
        """Make that of a VM, by the destination's own policy. Whether there was none.

        Raises UsageError for one that is not as the destination is: decrypted, or encrypted, later.
        """
        path = self._place(vm)
        if os.path.lexists(path):
            state = self.kind if self.volume is None else self.volume.home(vm).standing().state.value
            if state != self.kind:
                raise UsageError(f"is {state}, in a destination that is {self.kind}", file=path)
            return False
        with _storage(path):
            if self.volume is None:
                os.mkdir(vm, 0o700, dir_fd=self._fd)
                os.fsync(self._fd)
                return True
            with new_home(self.volume, vm):
                return True

    def remove_shelf(self, vm: str) -> None:
        """One without points, if nothing else is in it. Raises StorageError."""
        with _storage(self._place(vm)):
            if self.volume is None:
                os.rmdir(vm, dir_fd=self._fd)
            else:
                self.volume.remove_home(vm)

    def _place(self, vm: str) -> str:
        place = os.path.join(self.path, vm)
        if not _is_name(vm):
            raise UsageError("not a name for a VM", file=place)
        return place

    def __enter__(self) -> Repository:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _is_name(vm: str) -> bool:
    """Whether a VM may be called so; somebody else's directory may have any name."""
    try:
        confine(vm, "VM")
    except MalformedError:
        return False
    return not vm.startswith(".") and not is_private(vm) and len(os.fsencode(vm)) <= MAX_NAME


def open_ciphertext(path: str | os.PathLike[str]) -> Repository:
    """The destination there. Raises NotFoundError, StorageError, CorruptDataError for its marker."""
    found = Repository(os.path.abspath(path), _open(path), None)
    try:
        _check_marker(found)
    except BaseException:  # nobody else closes it
        with found:
            raise
    return found


def of_volume(volume: Volume) -> Repository:
    """The datastore as a destination; closing it leaves that open."""
    return Repository(volume.path, os.dup(volume.fd), volume)


def make_ciphertext(path: str | os.PathLike[str]) -> None:
    """Mark a directory, which is made if need be, and is empty. Raises ExistsError, StorageError."""
    with _storage(path):
        Path(path).mkdir(mode=0o700, exist_ok=True)
        if os.listdir(path):
            raise ExistsError("is not empty, and no destination for backups", file=path)
        with _storage(path):
            fd = _open(path)
            try:
                marker = os.open(
                    MARKER, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=fd
                )
                try:
                    atomic.write_all(marker, _TEXT)
                    os.fsync(marker)
                finally:
                    os.close(marker)
                os.fsync(fd)
            finally:
                os.close(fd)


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """ "ciphertext", "datastore", or None for a directory that is not there, or empty. Needs no key.

    Raises NotFoundError for what is none of these, StorageError.
    """
    if not os.path.lexists(path):
        return None
    fd = _open(path)
    try:
        with _storage(path):
            names = os.listdir(fd)
            if MARKER in names:
                return "ciphertext"
            if records.stamp(fd) is not None:
                return "datastore"
    finally:
        os.close(fd)
    if not set(names) - {LOST_FOUND}:
        return None
    raise NotFoundError("no backups here: neither a datastore nor marked as a destination", file=path)


def _check_marker(found: Repository) -> None:
    with _storage(found.path):
        try:
            fd = files.open_regular(found._fd, MARKER, os.O_RDONLY)
        except FileNotFoundError as error:
            raise NotFoundError("no backups here", file=found.path) from error
        try:
            data = os.pread(fd, _MAX_MARKER, 0)
        finally:
            os.close(fd)
    where = os.path.join(found.path, MARKER)
    try:
        value = parse_object(data)
        if value.get("format") != 1:
            raise UnsupportedError("unknown version", f"destination {str(value.get('format'))[:20]}")
        if data != _TEXT:
            raise MalformedError("bad marker")
    except (MalformedError, UnsupportedError) as error:
        error.file = where
        raise


def _open(path: str | os.PathLike[str]) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError("no backups here", file=path) from error
    except OSError as error:
        raise StorageError("cannot open", error.errno or 0, file=path) from error


@contextmanager
def _storage(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError("the destination failed", error.errno or 0, file=path) from error
