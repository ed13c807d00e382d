"""The storage of a deep recrypt that is real: a container of a home, and `.ioflt.d` beside it."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from types import TracebackType

from ioflt import syscalls
from ioflt.datastore import atomic, regular, tagfiles
from ioflt.datastore.atomic import PRIVATE_DIR, Draft
from ioflt.datastore.deep.storage import Bytes, File
from ioflt.datastore.header import locked
from ioflt.datastore.home import Home
from ioflt.datastore.writeout import WriteOut
from ioflt.errors import BugError, IntegrityError

#: What the name of a sidecar begins with; the UUID of the container to be follows.
SIDECAR = "recrypt-"


class DiskFile:
    """A `storage.File` over a descriptor, which it does not own."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._writeout = WriteOut(fd)

    def pread(self, length: int, offset: int) -> bytearray:
        buffer = bytearray(length)
        view, got = memoryview(buffer), 0
        while got < length and (more := os.preadv(self.fd, (view[got:],), offset + got)):
            got += more
        view.release()
        del buffer[got:]
        return buffer

    def pwrite(self, data: Bytes, offset: int) -> None:
        atomic.write_all(self.fd, data, offset)
        self._writeout.add(len(data))

    def fsync(self) -> None:
        os.fsync(self.fd)

    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def resize(self, size: int) -> None:
        os.ftruncate(self.fd, size)

    def next_data(self, offset: int) -> int:
        try:
            return os.lseek(self.fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return self.size()
            raise


class HomeStorage:
    """A `storage.Storage` of a home's container. Owns what it opens, not `fd`; a context manager."""

    def __init__(self, home: Home, fd: int, names: Sequence[str], uuid: str) -> None:
        """`fd`: the container, for reading and writing. `names`: its paths in the home, in the order in which
        another file takes them. `uuid`: what it becomes."""
        self._home = home
        self._names = names
        self._sidecar_name = SIDECAR + uuid
        self._before = os.fstat(fd)
        self._container = DiskFile(fd)
        self._sidecar: DiskFile | None = None
        self._draft: Draft | None = None
        self._opened = ExitStack()

    def __enter__(self) -> HomeStorage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_sidecar()
        self._opened.close()
        if self._draft is not None:
            self._draft.__exit__(kind, error, trace)

    @property
    def container(self) -> DiskFile:
        return self._container

    def header_lock(self) -> AbstractContextManager[None]:
        return locked(self._container.fd)

    def mtime(self) -> int:
        return os.fstat(self._container.fd).st_mtime_ns

    def set_mtime(self, mtime: int) -> None:
        with suppress(PermissionError):  # as `atomic.keep_times`
            os.utime(self._container.fd, ns=(self._before.st_atime_ns, mtime))

    def sidecar(self) -> DiskFile | None:
        if self._sidecar is None:
            with suppress(FileNotFoundError):
                self._sidecar = DiskFile(self._open_sidecar(os.O_RDWR))
        return self._sidecar

    def make_sidecar(self, size: int) -> DiskFile:
        self.remove_sidecar()
        atomic.make_private_dir(self._home.fd)
        self._sidecar = DiskFile(self._open_sidecar(os.O_RDWR | os.O_CREAT | os.O_EXCL))
        self._sidecar.resize(size)
        try:
            syscalls.fallocate(self._sidecar.fd, 0, 0, size)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            self._sidecar.pwrite(bytes(size), 0)
        return self._sidecar

    def remove_sidecar(self) -> None:
        self._close_sidecar()
        remove_sidecar(self._home.fd, self._sidecar_name)

    def tags(self, uuid: str) -> DiskFile | None:
        try:
            fd = tagfiles.open_file(self._home.fd, uuid, writable=True)
        except IntegrityError:
            return None
        self._opened.callback(os.close, fd)
        return DiskFile(fd)

    def make_tags(self, uuid: str) -> DiskFile:
        fd = tagfiles.make(self._home.fd, uuid)
        self._opened.callback(os.close, fd)
        return DiskFile(fd)

    def sync_sidecars(self) -> None:
        sync_sidecars(self._home.fd)

    def make_draft(self) -> DiskFile:
        self._draft = Draft(self._home.fd)
        return DiskFile(self._draft.fd)

    def dress(self, draft: File) -> None:
        atomic.dress(self._own(draft).fd, self._before)

    def publish(self, draft: File) -> None:
        made = self._own(draft)
        first, *others = self._names
        with regular.parent(self._home, first) as (parent_fd, name):
            made.publish_over(parent_fd, name)
        for path in others:
            with regular.parent(self._home, path) as (parent_fd, name):
                atomic.link_over(self._home.fd, made.fd, parent_fd, name)

    def sync_names(self) -> None:
        for path in self._names:
            with regular.parent(self._home, path) as (parent_fd, _name):
                atomic.sync_directory(parent_fd)

    def _own(self, draft: File) -> Draft:
        if self._draft is None or not isinstance(draft, DiskFile) or draft.fd != self._draft.fd:
            raise BugError("another draft")
        return self._draft

    def _open_sidecar(self, flags: int) -> int:
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(f"{PRIVATE_DIR}/{self._sidecar_name}", flags, 0o600, dir_fd=self._home.fd)

    def _close_sidecar(self) -> None:
        if self._sidecar is not None:
            os.close(self._sidecar.fd)
            self._sidecar = None


def remove_sidecar(home_fd: int, name: str) -> None:
    """If there is one of that name; syncs nothing."""
    with suppress(FileNotFoundError):
        os.unlink(f"{PRIVATE_DIR}/{name}", dir_fd=home_fd)


def sync_sidecars(home_fd: int) -> None:
    """fsync of `.ioflt.d`, if there is one, and of the home, which names it."""
    with suppress(FileNotFoundError):
        fd = os.open(PRIVATE_DIR, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=home_fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        atomic.sync_directory(home_fd)
