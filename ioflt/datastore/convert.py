"""The conversion of a home's files, one after the other, as its record's operation says.

A crash may come at any point. So before a file is replaced, the record says which one (`current`) and by the
container of which UUID it will be known; a file leaves `pending` with the record's next change. A file with
several names is converted once. The name in `current` is replaced last when encrypting (until then it leads
to the clear file, hence to its other names) and first when decrypting (from then on it leads to the clear
file that the others get).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace

from ioflt.crypto.rng import new_uuid
from ioflt.datastore import atomic, cbtfiles, files, newcontainer, regular, sidecars, tagfiles
from ioflt.datastore.atomic import Draft
from ioflt.datastore.container import Container, Progress
from ioflt.datastore.fileid import carries, file_id_of, uuid_of
from ioflt.datastore.header import read_header
from ioflt.datastore.home import Home
from ioflt.datastore.openfile import OpenFile
from ioflt.datastore.plain import PlainFile
from ioflt.datastore.standing import Treatment, stored_as
from ioflt.datastore.vmx import seal_new
from ioflt.errors import AuthenticationError, BugError, BusyError, CorruptDataError, MalformedError
from ioflt.filters.backing import Backing
from ioflt.format.record.record import Current, HomeRecord, Operation
from ioflt.format.vmx import sealed
from ioflt.types import KeyRef


class Conversion:
    """An operation under way in `home`, of which the caller has exclusive use."""

    def __init__(self, home: Home, record: HomeRecord, progress: Progress | None) -> None:
        """`record` is the home's, has an operation, and is durable."""
        if not isinstance(record.operation, Operation) or not record.keys:
            raise BugError("no conversion to go on with")
        self._home = home
        self._keys = record.keys
        self._progress = progress
        self.record = record
        self.operation: Operation = record.operation

    def run(self) -> None:
        """Convert all pending files. Raises the first error, with the file's name; then it can be resumed."""
        self.settle()
        while self.operation.pending:
            path = self.operation.current.path if self.operation.current else self.operation.pending[0]
            with regular.named(self._home, path):
                self._convert(path)
        sidecars.remove_stray_changes(self._home)

    def settle(self) -> None:
        """Finish a file of which some names were replaced: then `pending` is just the unconverted files."""
        current = self.operation.current
        if current is None:
            return
        with regular.named(self._home, current.path):
            if self.operation.kind == "encrypt":
                self._settle_encrypt(current)
            else:
                self._settle_decrypt(current)

    def _settle_encrypt(self, current: Current) -> None:
        made = [path for path in self.operation.pending if self._carries(path, current.uuid)]
        if not made:
            return
        rest = []
        if current.path not in made:
            try:
                info = os.stat(current.path, dir_fd=self._home.fd, follow_symlinks=False)
                rest = self._names(current.path, info)
            except FileNotFoundError:
                pass
        with regular.opened(self._home, made[0]) as fd:
            self._link(fd, rest)
        self._drop((*made, *rest))

    def _settle_decrypt(self, current: Current) -> None:
        if self._carries(current.path, current.uuid):
            return
        try:
            fd = regular.open_file(self._home, current.path)
        except FileNotFoundError:
            self._drop((current.path,))
            return
        with closing(PlainFile(fd, Backing(fd, 0))) as clear:
            done = self._names(current.path, os.fstat(fd))
            rest = [
                path
                for path in self.operation.pending
                if path not in done
                and self._carries(path, current.uuid)
                and self._same_contents(path, clear)  # else it is a raw copy of the container, changed since
            ]
            self._link(fd, rest)
        self._drop((*done, *rest))

    def _convert(self, path: str) -> None:
        try:
            fd = regular.open_file(self._home, path)
        except FileNotFoundError:  # somebody removed it
            self._drop((path,))
            return
        treatment = stored_as(path) if self.operation.kind == "decrypt" else Treatment.CLEAR
        try:
            before = os.fstat(fd)
            current = self.operation.current or self._choose(path, fd)
        except BaseException:  # nobody else closes it
            os.close(fd)
            raise
        with closing(self._open(fd, treatment, path)) as source, Draft(self._home.fd) as draft:
            if treatment is not Treatment.CLEAR:
                self._unwrap(source, draft)
            elif stored_as(path) is Treatment.VMX:
                self._seal(source, draft, current.uuid)
            else:
                self._wrap(source, draft, current.uuid)
            after = os.fstat(source.fd)
            if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise BusyError("changed while it was converted")
            atomic.dress(draft.fd, before)
            names = self._names(path, before)
            if self.operation.kind == "encrypt":
                names.reverse()
            with regular.parent(self._home, names[0]) as (parent_fd, name):
                draft.publish_over(parent_fd, name)
            self._link(draft.fd, names[1:])
        self._drop(names)

    def _choose(self, path: str, fd: int) -> Current:
        """Make the record say that this file is next, and by which UUID it is known."""
        if self.operation.kind == "encrypt":
            if set(self._keys) & set(named_keys(fd, stored_as(path))):
                raise AuthenticationError(
                    "replayed record", "the file is encrypted under the home's key, the record says clear"
                )
            uuid = new_uuid()
        else:
            uuid = identity(fd, stored_as(path))
        self.operation = replace(self.operation, current=Current(path, uuid))
        self.record = replace(self.record, operation=self.operation)
        self.record = self._home.store(self.record, counts=False)
        return Current(path, uuid)

    def _drop(self, paths: Iterable[str]) -> None:
        """These files are converted. On the medium with the next change of the record."""
        gone = frozenset(paths)
        current = self.operation.current
        if self.operation.kind == "decrypt" and current is not None:
            tagfiles.remove(self._home.fd, current.uuid)
        pending = tuple(path for path in self.operation.pending if path not in gone)
        self.operation = replace(self.operation, pending=pending, current=None)
        self.record = replace(self.record, operation=self.operation)

    # One file

    def _open(self, fd: int, treatment: Treatment, path: str) -> OpenFile:
        where = regular.full_path(self._home, path)
        return files.open_file(self._home, fd, treatment, writable=False, place=lambda: None, name=where)

    def _wrap(self, source: OpenFile, draft: Draft, uuid: str) -> None:
        keys, thin = self._home.volume.keys, not self.operation.thick
        home_fd = self._home.fd
        cbtfiles.follow(home_fd, cbtfiles.of_clear(source.fd), cbtfiles.of_container(uuid))
        tags_in = home_fd if self.record.integrity else None
        newcontainer.create(
            draft.fd, keys, self._keys, thin=thin, uuid=uuid, file_id=file_id_of(uuid), tags_in=tags_in
        )
        self._copy(source, Container.open(os.dup(draft.fd), keys, writable=True, tags_in=home_fd))

    def _unwrap(self, source: OpenFile, draft: Draft) -> None:
        fd = os.dup(draft.fd)
        if isinstance(source, Container):
            cbtfiles.follow(self._home.fd, source.sidecar_name, cbtfiles.of_clear(fd))
        self._copy(source, PlainFile(fd, Backing(fd, 0)))

    def _seal(self, source: OpenFile, draft: Draft, uuid: str) -> None:
        check_vmx_size(source.length)
        plaintext = bytes(source.read(0, source.length))
        text = seal_new(self._home.volume.keys, self._keys, plaintext, file_id_of(uuid))
        atomic.write_all(draft.fd, text)
        if self._progress is not None:
            self._progress(len(plaintext))

    def _copy(self, source: OpenFile, target: OpenFile) -> None:
        with closing(target):
            files.copy_contents(source, target, self._progress)
            if isinstance(target, Container):
                while (step := target.fill_step()) is not None:
                    target.fill(step)
            target.sync(data_only=False)
            target.flush()

    # Names

    def _names(self, path: str, info: os.stat_result) -> list[str]:
        """All pending names of that file which are stored alike, `path` first."""
        if info.st_nlink == 1:
            return [path]
        return [path] + [
            other
            for other in self.operation.pending
            if other != path and stored_as(other) is stored_as(path) and self._is_same(other, info)
        ]

    def _is_same(self, path: str, info: os.stat_result) -> bool:
        try:
            return os.path.samestat(os.stat(path, dir_fd=self._home.fd, follow_symlinks=False), info)
        except FileNotFoundError:
            return False

    def _link(self, fd: int, paths: Iterable[str]) -> None:
        for path in paths:
            with regular.parent(self._home, path) as (parent_fd, name):
                atomic.link_over(self._home.fd, fd, parent_fd, name)

    def _carries(self, path: str, uuid: str) -> bool:
        try:
            with regular.opened(self._home, path) as fd:
                return carries(fd, path, uuid)
        except (FileNotFoundError, MalformedError):
            return False

    def _same_contents(self, path: str, clear: OpenFile) -> bool:
        fd = regular.open_file(self._home, path)
        with closing(self._open(fd, stored_as(path), path)) as source:
            if source.length != clear.length:
                return False
            return all(
                source.read(offset, files.COPY_CHUNK) == clear.read(offset, files.COPY_CHUNK)
                for offset in range(0, clear.length, files.COPY_CHUNK)
            )


def check_vmx_size(length: int) -> None:
    """Raises MalformedError for a VMX that cannot be sealed."""
    if length > sealed.MAX_PLAINTEXT:
        raise MalformedError(
            "too large", f"a VMX of {length} bytes; at most {sealed.MAX_PLAINTEXT} are sealed"
        )


def named_keys(fd: int, treatment: Treatment) -> tuple[KeyRef, ...]:
    """The KEKs that a stored file names, unverified; none when it is not stored so."""
    try:
        if treatment is Treatment.VMX:
            return sealed.peek(os.pread(fd, sealed.PEEK_SIZE, 0)).keys
        return tuple(token.key for token in read_header(fd).tokens)
    except CorruptDataError:
        return ()


def identity(fd: int, treatment: Treatment) -> str:
    """The UUID by which an encrypted file is known while it is decrypted. Raises CorruptDataError."""
    if treatment is not Treatment.VMX:
        return read_header(fd).uuid
    file_id = sealed.peek(os.pread(fd, sealed.PEEK_SIZE, 0)).file_id
    uuid = uuid_of(file_id)
    if file_id_of(uuid) != file_id:
        raise MalformedError("bad file line", "not a file id of ours")
    return uuid
