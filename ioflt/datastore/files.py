"""Regular files of a home, whatever their treatment: make, open, look at without a key, convert.

All names are opened relative to directory descriptors, symlinks never followed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass

from ioflt import ahead, syscalls
from ioflt.datastore import atomic, container, newcontainer, stateblocks
from ioflt.datastore.atomic import Draft
from ioflt.datastore.container import Container
from ioflt.datastore.home import Home
from ioflt.datastore.newcontainer import New
from ioflt.datastore.openfile import OpenFile
from ioflt.datastore.plain import PlainFile
from ioflt.datastore.standing import Treatment
from ioflt.datastore.vmx import Place, VmxFile, seal_new
from ioflt.datastore.writeout import WriteOut
from ioflt.errors import IofltError, MalformedError
from ioflt.filters.backing import Backing
from ioflt.filters.base import Link
from ioflt.filters.trace import Counters, Trace
from ioflt.filters.written import Within
from ioflt.format.luks2.layout import DATA_OFFSET
from ioflt.format.vmx import sealed
from ioflt.sectors import round_down

#: Bytes of a chunk when one file's contents are copied into another.
COPY_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Face:
    """What `stat` shows of an encrypted file before it is opened; not verified."""

    length: int
    file_id: int


@dataclass(frozen=True, slots=True)
class Made:
    """A regular file that was just made: a descriptor (read and write) of the backing file, and what opens a
    container. Owns both.
    """

    fd: int
    new: New | None

    def descriptor(self) -> int:
        """The descriptor, without the rest."""
        if self.new is not None:
            self.new.dek.wipe()
        return self.fd

    def close(self) -> None:
        """Let go of it unopened."""
        os.close(self.descriptor())


def create(
    home: Home, parent_fd: int, name: str, *, mode: int, file_id: int | None = None, thin: bool | None = None
) -> int:
    """As `make`, as this process's own. Returns a descriptor (read and write) of the backing file."""
    return make(home, parent_fd, name, mode=mode, file_id=file_id, thin=thin).descriptor()


def make(
    home: Home,
    parent_fd: int,
    name: str,
    *,
    mode: int,
    owner: tuple[int, int] | None = None,
    file_id: int | None = None,
    thin: bool | None = None,
) -> Made:
    """Make an empty regular file as its home says, complete before it has a name; FileExistsError if taken.

    After a power cut it is there, complete, or not there. Its name is durable when the directory is synced.
    `owner`: (uid, gid). Where the home's record lists its name, it is clear: `namespace.release` comes
    before, where that is not meant.
    """
    keys = home.volume.keys
    with home.acting() as known, Draft(home.fd) as draft, ExitStack() as undone:
        fd, new = draft.fd, None
        lists = known.record is not None and known.record.clear_files
        treatment = home.treatment(home.path_of(parent_fd, name) if lists else name, standing=known)
        if treatment is Treatment.VMX:
            text = seal_new(keys, known.keys, b"", file_id or newcontainer.new_file_id())
            atomic.write_all(fd, text)
        elif treatment is Treatment.CONTAINER:
            thin = not known.thick if thin is None else thin
            tags_in = home.fd if known.integrity else None
            new = newcontainer.make(fd, keys, known.keys, thin=thin, file_id=file_id, tags_in=tags_in)
            undone.callback(new.dek.wipe)
        if owner is not None and owner != (os.geteuid(), os.getegid()):
            os.fchown(fd, *owner)
        os.fchmod(fd, mode)
        if treatment is not Treatment.CLEAR:
            os.fsync(fd)  # else a power cut may leave a name without a header behind it, which never opens
        draft.publish_new(parent_fd, name)
        undone.pop_all()
        return Made(draft.take(), new)


def open_file(
    home: Home,
    fd: int,
    treatment: Treatment,
    *,
    writable: bool,
    place: Place,
    counters: Counters | None = None,
    name: str = "",
    written: Within | None = None,
    new: New | None = None,
) -> OpenFile:
    """The open file over the backing descriptor `fd`, which is taken over, and closed on failure.

    `written` is told what is written to it. `new`, also taken over: of a container that was just made; keyd
    is not asked. Raises CorruptDataError, KeyUnavailableError with the file's name; OSError.
    """
    try:
        if treatment is Treatment.CONTAINER:
            return Container.open(
                fd,
                home.volume.keys,
                new=new,
                writable=writable,
                counters=counters,
                name=name,
                tags_in=home.fd,
                needs_tags=new is None and home.standing().needs_tags,
                written=written,
            )
        if new is not None:
            new.dek.wipe()
        if treatment is Treatment.VMX:
            return VmxFile(fd, home.volume.keys, writable=writable, place=place)
    except IofltError as error:
        error.file = error.file or name
        raise
    backing: Link = Backing(fd, 0, written)
    return PlainFile(fd, backing if counters is None else Trace(backing, counters), name=name)


def look(fd: int, treatment: Treatment) -> Face:
    """Length and file id of an encrypted file, from the readable descriptor `fd`; needs no key.

    Raises CorruptDataError when there is nothing to see.
    """
    if treatment is Treatment.VMX:
        info = sealed.peek(os.pread(fd, sealed.PEEK_SIZE, 0))
        return Face(info.length, info.file_id)
    block = stateblocks.peek(fd)
    if block is None:
        raise MalformedError("no state block")
    if block.length is None:
        return Face(round_down(max(0, os.fstat(fd).st_size - DATA_OFFSET)), block.file_id)
    return Face(block.length, block.file_id)


def open_regular(dir_fd: int | None, name: str, flags: int) -> int:
    """Open a regular file of that directory, through no symlink, without waiting for a FIFO's other end.

    Raises OSError; MalformedError when it is something else.
    """
    fd = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=dir_fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise MalformedError("not a regular file", file=name)
    return fd


def copy_contents(source: OpenFile, target: OpenFile, progress: container.Progress | None = None) -> None:
    """Copy all bytes; holes of `source` stay holes where `target`, which is empty, can have them.

    A thread reads ahead. Raises MalformedError when `source` becomes shorter.
    """
    length = source.length
    plain = isinstance(source, PlainFile) and isinstance(target, PlainFile)
    if plain and syscalls.reflink(target.fd, source.fd):
        if progress is not None:
            progress(length)
        return
    writeout, done = WriteOut(target.fd), 0
    with ahead.taken(_pieces(source, length)) as pieces:
        for offset, data in pieces:
            target.write(offset, data)
            writeout.add(len(data))
            if progress is not None:
                progress(offset + len(data) - done)
            done = offset + len(data)
    if progress is not None:
        progress(length - done)
    if target.length != length:
        target.truncate(length)


def _pieces(
    source: OpenFile, length: int
) -> Generator[tuple[int, bytes | bytearray | memoryview], None, None]:
    """(offset, bytes) of all but the holes."""
    offset = 0
    while offset < length:
        try:
            start = source.seek(offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # only a hole is left
        offset, end = start, min(source.seek(start, os.SEEK_HOLE), length)
        while offset < end:
            data = source.read(offset, min(COPY_CHUNK, end - offset))
            if not data:
                raise MalformedError("file became shorter while it was copied")
            yield offset, data
            offset += len(data)
