"""The files of a point written where they come back: each as it was, each disk in a form that the VMX names.

What is there already, as it must be, stays: an interrupted restore goes on so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol

from ioflt import ahead, syscalls
from ioflt.backup import copying, images, increments
from ioflt.backup.disk import VirtualDisk
from ioflt.backup.flat import FlatDisk
from ioflt.backup.images import Chain, Layers
from ioflt.backup.shelf import Shelf
from ioflt.crypto.mac import sha256
from ioflt.datastore import files, tree
from ioflt.datastore.container import Progress
from ioflt.datastore.openfile import OpenFile
from ioflt.datastore.tree import Side
from ioflt.datastore.writeout import WriteOut
from ioflt.errors import CorruptDataError, MalformedError
from ioflt.format.manifest import text
from ioflt.format.manifest.model import Directory, Disk, File, Link, Manifest, Top
from ioflt.format.qcow2.reader import Reader
from ioflt.format.qcow2.writer import Writer
from ioflt.format.vmdk.compose import compose


class Place(Protocol):
    """Where files are made. `named`: errors of the block name the file; `remove` is of one in a directory."""

    fd: int
    side: Side

    def named(self, path: str) -> AbstractContextManager[None]: ...

    def remove(self, parent_fd: int, name: str) -> None: ...


class Filling:
    """A directory that gets what a point has. What is there as it must be stays. `owners`: all is whose it
    was, by the numbers of users and groups.
    """

    def __init__(
        self, shelf: Shelf, manifest: Manifest, place: Place, progress: Progress | None, *, owners: bool
    ) -> None:
        self._shelf = shelf
        self._manifest = manifest
        self._place = place
        self._progress = progress
        self._owners = owners
        self._known = {manifest.point: manifest}
        self._taken = {disk.path for disk in manifest.disks} | {file.path for file in manifest.files}
        self._taken |= {directory.path for directory in manifest.directories}
        self._taken |= {link.path for link in manifest.links}
        self._paths: list[str] = []

    def run(self) -> list[str]:
        """Paths of the files, in the order in which they came."""
        for directory in self._manifest.directories:
            with self._place.named(directory.path):
                tree.make_directories(self._place.fd, directory.path)
        for file in self._manifest.files:
            self._file(file)
        for disk in self._manifest.disks:
            self._disk(disk)
        for link in self._manifest.links:
            self._link(link)
        for directory in reversed(self._manifest.directories):
            self._dress_directory(directory)
        with self._place.named(""):
            self._dress(self._place.fd, self._manifest.top)
            os.fsync(self._place.fd)
        return self._paths

    def _dress(self, fd: int, as_it_was: File | Disk | Directory | Top) -> None:
        """Owner first: nobody else's file has permissions for a moment that were not his."""
        if self._owners:
            os.fchown(fd, as_it_was.uid, as_it_was.gid)
        os.fchmod(fd, as_it_was.mode)

    def _link(self, link: Link) -> None:
        target = tree.check_inner(link.target, link.path)
        with (
            self._place.named(link.path),
            self._parent(link.path) as (fd, name),
        ):
            with suppress(FileExistsError):  # of an interrupted restore
                os.symlink(target, name, dir_fd=fd)
            if self._owners:
                os.chown(name, link.uid, link.gid, dir_fd=fd, follow_symlinks=False)

    def _file(self, file: File) -> None:
        where = f"{self._manifest.point}/{text.FILES}/{file.path}"
        with self._shelf.opened(where) as source:
            if source.length != file.size:
                told = f"{source.length} bytes, the manifest says {file.size}"
                raise MalformedError("changed", told, file=f"{self._shelf.path}/{where}")
            self._copy(file, source)

    def _copy(self, file: File, source: OpenFile) -> None:
        def write(target: OpenFile) -> None:
            files.copy_contents(source, target, self._progress)

        def same(target: OpenFile) -> bool:
            return (target.length, copying.digest(target)) == (file.size, file.sha256)

        self._make(file.path, file, write, same)

    def _disk(self, disk: Disk) -> None:
        chain = images.chain_of(self._shelf, self._manifest, disk.path, self._known)
        with Chain(self._shelf, chain, disk.path, proved=len(chain), progress=self._progress) as source:
            if source.capacity != -(-disk.capacity // 512) * 512:
                raise MalformedError("capacity differs", f"{source.capacity} bytes", file=disk.path)
            if disk.form == "qcow2":
                self._make(
                    disk.path,
                    disk,
                    lambda file: self._pack(source, file),
                    lambda file: _same(Layers([(file, Reader(file.read))]), source),
                )
                return
            path = disk.path
            if disk.form == "vmdk":
                path = self._flat_name(disk)
                self._descriptor(disk, os.path.basename(path))
            self._make(
                path,
                disk,
                lambda file: self._fill(source, file, disk.capacity),
                lambda file: file.length == disk.capacity and _same(FlatDisk(file), source),
            )

    def _fill(self, source: Chain, target: OpenFile, length: int) -> None:
        target.truncate(source.capacity)
        writeout = WriteOut(target.fd)
        with ahead.taken(_parts(source)) as parts:
            for begin, data in parts:
                for start, piece in images.pieces(begin, data):
                    target.write(start, piece)
                self._wrote(writeout, len(data))
        if target.length != length:  # a stored file of which the image has whole sectors
            target.truncate(length)

    def _pack(self, source: Chain, target: OpenFile) -> None:
        writer = Writer(target.write, source.capacity)
        writeout = WriteOut(target.fd)
        with ahead.taken(_parts(source)) as parts:
            for start, data in parts:
                writer.write(start, data)
                self._wrote(writeout, len(data))
        writer.finish()

    def _wrote(self, writeout: WriteOut, length: int) -> None:
        writeout.add(length)
        if self._progress is not None:
            self._progress(length)

    def _descriptor(self, disk: Disk, extent: str) -> None:
        cid = int.from_bytes(sha256(disk.content.encode())[:4]) % 0xFFFFFFFE
        made = compose("vmfs", capacity=disk.capacity, file_name=extent, cid=cid, ddb=disk.ddb)
        self._make(
            disk.path,
            disk,
            lambda file: file.write(0, made),
            lambda file: bytes(file.read(0, len(made) + 1)) == made,
        )

    def _flat_name(self, disk: Disk) -> str:
        stem = disk.path[: -len(".vmdk")] if disk.path.lower().endswith(".vmdk") else disk.path
        names = (f"{stem}-flat{number or ''}.vmdk" for number in range(len(self._taken) + 1))
        found = next(name for name in names if name not in self._taken)
        self._taken.add(found)
        return found

    def _make(
        self,
        path: str,
        as_it_was: File | Disk,
        write: Callable[[OpenFile], None],
        same: Callable[[OpenFile], bool],
    ) -> None:
        """The file, unless it is there as it must be; what was written is read back."""
        self._paths.append(path)
        with self._place.named(path), self._parent(path) as (fd, _):
            there = self._is_there(fd, path, same)
            if not there:
                with tree.created(self._place.side, fd, path, 0o600) as made:
                    write(made)
                    made.sync(data_only=False)
                    os.posix_fadvise(made.fd, 0, 0, os.POSIX_FADV_DONTNEED)
            with tree.opened(self._place.side, fd, path) as stored:
                if not there and not same(stored):
                    raise MalformedError("read back otherwise", "what is stored is not what was backed up")
                # last, and what was there as well: it may have ended before
                self._dress(stored.fd, as_it_was)
                os.utime(stored.fd, ns=(as_it_was.mtime, as_it_was.mtime))

    def _is_there(self, fd: int, path: str, same: Callable[[OpenFile], bool]) -> bool:
        """Of an interrupted restore; what is not whole goes."""
        name = os.path.basename(path)
        try:
            os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        try:
            with tree.opened(self._place.side, fd, path) as file:
                if same(file):
                    return True
        except CorruptDataError:
            pass
        self._place.remove(fd, name)
        return False

    @contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        tree.make_directories(self._place.fd, os.path.dirname(path))
        fd = syscalls.open_beneath(self._place.fd, os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield fd, os.path.basename(path)
        finally:
            os.close(fd)

    def _dress_directory(self, directory: Directory) -> None:
        with self._place.named(directory.path):
            fd = syscalls.open_beneath(self._place.fd, directory.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self._dress(fd, directory)
                os.utime(fd, ns=(directory.mtime, directory.mtime))
                os.fsync(fd)
            finally:
                os.close(fd)


def _parts(source: Chain) -> Generator[tuple[int, bytes], None, None]:
    """What the disk has, where it begins."""
    for area in images.clusters(source.areas(), source.capacity):
        yield area.start, source.read(area.start, area.length)


def _same(made: VirtualDisk, source: VirtualDisk) -> bool:
    return made.capacity == source.capacity and not any(increments.changed(made, source))
