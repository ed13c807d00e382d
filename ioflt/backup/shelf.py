"""Where the backups of one VM stand in a destination: its points, each a directory with a manifest.

A point appears whole. While it is made its directory is called `.part-…`; while another version takes its
place, which is one step where the file system exchanges names, the old one is called `.old-…`. What a crash
leaves of both the next command that writes here clears.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from typing import Final

from ioflt import syscalls
from ioflt.datastore import atomic, namespace, tree
from ioflt.datastore.home import Home
from ioflt.datastore.openfile import OpenFile
from ioflt.datastore.tree import HomeSide, HostSide, Side
from ioflt.datastore.walk import raise_it
from ioflt.errors import BusyError, CorruptDataError, IofltError, MalformedError, StorageError, UsageError
from ioflt.format.manifest import text
from ioflt.format.manifest.model import Document

#: The name of a point, of its time in UTC.
TIME: Final = "%Y%m%dT%H%M%SZ"

_POINT: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z", re.ASCII)
_PART: Final = ".part-"
_OLD: Final = ".old-"


def _is_point(name: str) -> bool:
    try:
        return _POINT.fullmatch(name) is not None and bool(datetime.strptime(name, TIME))
    except ValueError:  # somebody else's name, which is no time
        return False


class Shelf:
    """The points of the VM `name`, in the directory `fd`, which is `path`; in a datastore it is `home`'s."""

    def __init__(self, name: str, path: str, fd: int, home: Home | None) -> None:
        self.name = name
        self.path = path
        self.fd = fd
        self.home = home
        self._side: Side = HostSide() if home is None else HomeSide(home)

    # Reading

    def points(self) -> list[str]:
        """The names of its points, the oldest first. Raises StorageError."""
        with self.naming(""):
            return sorted(entry for entry in os.listdir(self.fd) if _is_point(entry))

    def document(self, point: str) -> Document:
        """The manifest of a point, which belongs there; its signature is not looked at.

        Raises CorruptDataError, also where it is missing; KeyUnavailableError, DeniedError, StorageError.
        """
        with self.opened(f"{point}/{text.NAME}") as file, self.naming(f"{point}/{text.NAME}"):
            if file.length > text.MAX_SIZE:
                raise MalformedError("too large", f"{file.length} bytes")
            found = text.parse(bytes(file.read(0, text.MAX_SIZE + 1)))
            if (found.manifest.vm, found.manifest.point) != (self.name, point):
                raise MalformedError(
                    "manifest of another point", f"{found.manifest.vm}/{found.manifest.point}"
                )
            if (found.manifest.kind == "ciphertext") != (self.home is None):
                raise MalformedError("manifest of another kind", found.manifest.kind)
            return found

    def places(self) -> dict[str, int]:
        """Of each point which directory it is: one that is made anew is another one. Raises StorageError."""
        found = {}
        with self.naming(""), os.scandir(self.fd) as entries:
            for entry in entries:
                if _is_point(entry.name):
                    found[entry.name] = entry.inode()
        return found

    @contextmanager
    def steady(self) -> Iterator[None]:
        """What the block finds wrong is of no point that a `prune` took away meanwhile. Raises BusyError."""
        before = self.places()
        try:
            yield
        except CorruptDataError as error:
            if before.items() <= self.places().items():
                raise
            raise BusyError("points of it were removed, or made anew, meanwhile", file=self.path) from error

    @contextmanager
    def opened(self, path: str) -> Iterator[OpenFile]:
        """A stored file, open for reading. Raises MalformedError "file missing", and as `document`."""
        with self.naming(path), self._directory(os.path.dirname(path)) as fd:
            file = self._side.open(fd, path)
        try:
            yield file
        finally:
            file.close()

    def check_backups(self) -> None:
        """Raises UsageError where something else than points is kept here."""
        with self.naming(""):
            for name in os.listdir(self.fd):
                if not name.startswith(".") and not _POINT.fullmatch(name):
                    raise UsageError(f"holds something else than backups: {name}", file=self.path)

    def walk(self, path: str) -> list[str]:
        """The paths of all files below a directory. Raises MalformedError, StorageError."""
        found = []
        with self.naming(path), self._directory(path) as top:
            for root, _, names, _ in os.fwalk(".", dir_fd=top, onerror=raise_it):
                found += [os.path.normpath(os.path.join(root, name)) for name in names]
        return sorted(found)

    # Writing

    @contextmanager
    def alone(self) -> Iterator[None]:
        """The one command that makes or removes points; what others left is cleared.

        Raises BusyError; ReadOnlyError where nothing can be made, before anything is.
        """
        if self.home is not None:
            with self.naming(""):
                self.home.check_writable()
        with ExitStack() as held:
            try:
                held.enter_context(self.home.recrypting() if self.home is not None else self._flock())
            except BusyError as error:
                raise BusyError(
                    "another backup command works on it, or one that changes its keys", file=self.path
                ) from error
            self._clear_leftovers()
            yield

    @contextmanager
    def making(self, point: str) -> Iterator[str]:
        """The path of a directory to fill, which becomes the point when the block ends well."""
        draft = f"{_PART}{point}"
        with self.naming(""):
            os.mkdir(draft, 0o700, dir_fd=self.fd)
        try:
            yield draft
            with self.naming(draft):
                self._sync(draft)
                self._take_place(draft, point)
        except BaseException:  # also after Ctrl-C: nothing half made stays
            with suppress(IofltError):  # else the next command that writes here clears it
                self.remove(draft)
            raise

    @contextmanager
    def created(self, path: str, mode: int = 0o600) -> Iterator[OpenFile]:
        """A new file, durable when the block ends well; its directories are made."""
        directory = os.path.dirname(path)
        with self.naming(path):
            tree.make_directories(self.fd, directory)
            with self._directory(directory) as fd, tree.created(self._side, fd, path, mode) as file:
                yield file

    def link(self, path: str, new: str) -> None:
        """One more name of a stored file."""
        with self.naming(new):
            tree.make_directories(self.fd, os.path.dirname(new))
            with self._directory(os.path.dirname(path)) as fd, self._directory(os.path.dirname(new)) as to:
                names = os.path.basename(path), os.path.basename(new)
                os.link(*names, src_dir_fd=fd, dst_dir_fd=to, follow_symlinks=False)

    def remove(self, path: str) -> None:
        """A directory with all that is in it, if it is there. Raises StorageError, ReadOnlyError."""
        with self.naming(path):
            try:
                if self.home is None:
                    shutil.rmtree(path, dir_fd=self.fd)
                else:
                    self._remove_of(self.home, self.fd, path)
            except FileNotFoundError:
                return
            atomic.sync_directory(self.fd)

    def _remove_of(self, home: Home, parent_fd: int, name: str) -> None:
        """By the home's own rules: tags of what is removed go along."""
        with tree.directory(parent_fd, os.path.basename(name)) as fd:
            for entry in os.listdir(fd):
                if stat.S_ISDIR(os.stat(entry, dir_fd=fd, follow_symlinks=False).st_mode):
                    self._remove_of(home, fd, entry)
                else:
                    namespace.remove(home, fd, entry, os.unlink)
        os.rmdir(os.path.basename(name), dir_fd=parent_fd)

    def remove_point(self, point: str) -> None:
        """It is gone at once, and what it took soon."""
        draft = f"{_PART}{point}"
        with self.naming(point):
            os.rename(point, draft, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            atomic.sync_directory(self.fd)
        self.remove(draft)

    def _take_place(self, draft: str, point: str) -> None:
        """Where the file system can, there is no moment without the point."""
        old = draft
        try:
            syscalls.renameat2(self.fd, draft, self.fd, point, syscalls.RENAME_EXCHANGE)
        except FileNotFoundError:
            os.rename(draft, point, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            old = f"{_OLD}{point}"
            with suppress(FileNotFoundError):
                os.rename(point, old, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            os.rename(draft, point, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        atomic.sync_directory(self.fd)
        self.remove(old)

    def _clear_leftovers(self) -> None:
        with self.naming(""):
            names = os.listdir(self.fd)
        for name in names:
            point = name.removeprefix(_OLD)
            if name.startswith(_OLD) and _is_point(point) and point not in names:  # it has to come back
                with self.naming(name):
                    os.rename(name, point, src_dir_fd=self.fd, dst_dir_fd=self.fd)
                    atomic.sync_directory(self.fd)
            elif name.startswith((_OLD, _PART)):
                self.remove(name)

    def _sync(self, path: str) -> None:
        """All directories at and below the path."""
        with self._directory(path) as top:
            for _, _, _, fd in os.fwalk(".", dir_fd=top, onerror=raise_it):
                os.fsync(fd)

    @contextmanager
    def _flock(self) -> Iterator[None]:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            if not syscalls.try_flock(fd, fcntl.LOCK_EX):
                raise BusyError("locked", file=self.path)
            yield
        finally:
            os.close(fd)

    @contextmanager
    def _directory(self, path: str) -> Iterator[int]:
        """A directory at or below the top, through no symlink."""
        fd = syscalls.open_beneath(self.fd, path or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def naming(self, path: str) -> Iterator[None]:
        """Errors that leave the block name the file; none is an OSError any more."""
        where = os.path.join(self.path, path) if path else self.path
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise MalformedError("file missing", os.strerror(error.errno), file=where) from error
            raise StorageError("the destination failed", error.errno or 0, file=where) from error
        except IofltError as error:
            if error.file is None or not os.path.isabs(error.file):
                error.file = where
            raise
