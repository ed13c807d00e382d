"""Flat disks of powered-off VMs made longer.

The extent grows first, durably, then its descriptor is replaced by one that says so: after a crash the extent
is longer than the descriptor says, never shorter, and the next try goes on from there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager

from ioflt.datastore import atomic, cbtfiles, files, regular
from ioflt.datastore.atomic import Draft
from ioflt.datastore.container import Container, Progress
from ioflt.datastore.home import Home
from ioflt.datastore.openfile import OpenFile
from ioflt.datastore.plain import PlainFile
from ioflt.datastore.volume import Volume
from ioflt.errors import CorruptDataError, MalformedError, UnsupportedError, UsageError
from ioflt.filters.backing import Backing
from ioflt.format.vmdk import descriptor, extend, sparse


def extend_disk(
    volume: Volume, name: str, path: str, size: int, *, by: bool = False, progress: Progress | None = None
) -> int:
    """Make the disk whose descriptor is at `path` in the home `size` bytes long, or, `by`, longer by that.

    Its length then. The new space is zeros: a hole in a thin file, encrypted zeros in a thick one. Raises
    UsageError for what is not longer, no multiple of 512 bytes, or has snapshots; UnsupportedError for disks
    of other forms; BusyError, ReadOnlyError, KeyUnavailableError, CorruptDataError, StorageError.
    """
    if size % 512:
        raise UsageError(f"{size} bytes: a disk has whole sectors of 512 bytes")
    home = volume.home(name)
    with regular.named(home), home.exclusive():
        home.check_writable()
        with regular.named(home, path):
            text = _read(home, path)
            parsed = descriptor.parse(text, os.path.basename(path))
            extent = extend.sole_extent(parsed)
            whole = size + parsed.sectors * 512 if by else size
            longer = extend.extended(text, os.path.basename(path), whole // 512)
        if extent.file_name is None:
            raise MalformedError("bad extent")
        _refuse_snapshots(home, path)
        with regular.named(home, _beside(path, extent.file_name)):
            now = (extent.offset + extent.sectors) * 512
            _grow(home, _beside(path, extent.file_name), now, extent.offset * 512 + whole, progress)
        with regular.named(home, path):
            _replace(home, path, longer)
    return whole


def capacity(volume: Volume, name: str, path: str) -> int:
    """Bytes that the disk has whose descriptor is at `path` in the home.

    Raises UnsupportedError for disks of other forms; NotFoundError, KeyUnavailableError, CorruptDataError,
    StorageError.
    """
    home = volume.home(name)
    with regular.named(home), regular.named(home, path):
        return descriptor.parse(_read(home, path), os.path.basename(path)).sectors * 512


def _read(home: Home, path: str) -> bytes:
    """The descriptor at that path."""
    with _opened(home, path, os.O_RDONLY) as file:
        first = bytes(file.read(0, sparse.PROBE_SIZE))
        if not descriptor.is_descriptor(first):
            if sparse.descriptor_of(first) is not None:
                raise UnsupportedError("not a flat disk", "its descriptor is embedded")
            raise UnsupportedError("no descriptor of a disk")
        return bytes(file.read(0, descriptor.MAX_SIZE + 1))


def _refuse_snapshots(home: Home, path: str) -> None:
    """Raises UsageError when another disk beside it names it as its parent."""
    directory, name = os.path.split(path)
    for entry in regular.regular_files(home):
        if os.path.dirname(entry.path) != directory or not entry.path.lower().endswith(".vmdk"):
            continue
        with regular.named(home, entry.path), _opened(home, entry.path, os.O_RDONLY) as file:
            try:
                first = bytes(file.read(0, sparse.PROBE_SIZE))
                if descriptor.is_descriptor(first):
                    first = bytes(file.read(0, descriptor.MAX_SIZE))
                text = sparse.descriptor_of(first)
                parent = None if text is None else descriptor.parse(text).parent_file_name_hint
            except CorruptDataError:  # a guest's data that looks like one
                continue
        if parent == name:
            raise UsageError(f"{path!r} has a snapshot, {entry.path!r}, which is as long as it is now")


def _grow(home: Home, path: str, now: int, then: int, progress: Progress | None) -> None:
    with _opened(home, path, os.O_RDWR) as file:
        if isinstance(file, (Container, PlainFile)):
            cbtfiles.attach(home.fd, file)
        if file.length < now:
            raise MalformedError("extent truncated", f"{file.length} bytes, {now} needed")
        if file.length > now:  # whatever is there, the disk must have zeros
            file.truncate(now)
        file.truncate(then)
        if isinstance(file, Container):
            while (step := file.fill_step()) is not None:
                file.fill(step)
                if progress is not None:
                    progress(step[1])
        file.sync(data_only=False)
        file.flush()


def _replace(home: Home, path: str, text: bytes) -> None:
    """Put `text` in the place of a file's contents: a copy as it is stored, recovery slots too, changed."""
    with (
        regular.parent(home, path) as (parent_fd, name),
        regular.opened(home, path) as fd,
        Draft(home.fd) as draft,
    ):
        before = os.fstat(fd)
        with closing(_plain(os.dup(draft.fd))) as stored:
            files.copy_contents(PlainFile(fd, Backing(fd, 0)), stored)
        with closing(_as_stored(home, path, os.dup(draft.fd), writable=True)) as file:
            # Until `flush` the journal of tags names what is written: they fit the old file and the new one.
            file.write(0, text)
            file.truncate(len(text))
            file.sync(data_only=False)
            atomic.dress(draft.fd, before)
            os.utime(draft.fd)
            draft.publish_over(parent_fd, name)
            file.flush()


@contextmanager
def _opened(home: Home, path: str, flags: int) -> Iterator[OpenFile]:
    with regular.parent(home, path) as (parent_fd, name):
        fd = files.open_regular(parent_fd, name, flags)
        with closing(_as_stored(home, path, fd, writable=flags != os.O_RDONLY)) as file:
            yield file


def _as_stored(home: Home, path: str, fd: int, *, writable: bool) -> OpenFile:
    """The open file over `fd`, which is taken over."""
    treatment = home.treatment(path, fd)
    return files.open_file(
        home, fd, treatment, writable=writable, place=lambda: None, name=regular.full_path(home, path)
    )


def _plain(fd: int) -> PlainFile:
    return PlainFile(fd, Backing(fd, 0))


def _beside(path: str, name: str) -> str:
    return os.path.join(os.path.dirname(path), name)
