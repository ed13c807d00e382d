"""Files of tags in a home's `.ioflt.d`: one beside each container that has tags, named by its UUID."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from ioflt.crypto.secret import Secret
from ioflt.datastore import atomic
from ioflt.datastore.atomic import PRIVATE_DIR
from ioflt.datastore.header import read_header
from ioflt.errors import CorruptDataError, IntegrityError
from ioflt.format.luks2 import tags
from ioflt.format.luks2.tags import Journal

_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def create(top_fd: int, dek: Secret, uuid: str) -> int:
    """Make the file for an empty container, durably; its descriptor. `top_fd`: the home. Raises OSError."""
    keys = tags.keys(dek, uuid)
    fd = make(top_fd, uuid)
    try:
        for sequence in (1, 2):  # so that no later one needs space
            atomic.write_all(fd, tags.pack(Journal(sequence), keys.journal), tags.slot_offset(sequence))
        os.ftruncate(fd, tags.GROUPS_OFFSET)
        os.fsync(fd)
        sync_directory(top_fd)
    except BaseException:  # nobody else does
        os.close(fd)
        remove(top_fd, uuid)
        raise
    return fd


def open_file(top_fd: int, uuid: str, *, writable: bool) -> int:
    """A descriptor of the file. Raises IntegrityError when it is not there, OSError."""
    try:
        return os.open(_path(uuid), (os.O_RDWR if writable else os.O_RDONLY) | _FLAGS, dir_fd=top_fd)
    except FileNotFoundError:
        raise IntegrityError("no tags", f"they are missing in {PRIVATE_DIR}") from None


def make(top_fd: int, uuid: str) -> int:
    """A new file without anything in it; its descriptor. One that is there is of an interrupted attempt."""
    atomic.make_private_dir(top_fd)
    remove(top_fd, uuid)
    return os.open(_path(uuid), os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600, dir_fd=top_fd)


def remove(top_fd: int, uuid: str) -> None:
    """If it is there; syncs nothing."""
    with suppress(FileNotFoundError):
        os.unlink(_path(uuid), dir_fd=top_fd)


def sync_directory(top_fd: int) -> None:
    """Make the names of these files durable."""
    with suppress(FileNotFoundError):
        fd = os.open(PRIVATE_DIR, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top_fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    atomic.sync_directory(top_fd)


def uuids(top_fd: int) -> Iterator[str]:
    """The UUIDs of the containers whose tags are there, or were."""
    with suppress(FileNotFoundError):
        fd = os.open(PRIVATE_DIR, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top_fd)
        try:
            names = os.listdir(fd)
        finally:
            os.close(fd)
        yield from (name.removesuffix(tags.SUFFIX) for name in sorted(names) if name.endswith(tags.SUFFIX))


def uuid_of(fd: int) -> str | None:
    """The UUID of a container that has tags, from its header, which nobody verified; None for all else."""
    with suppress(CorruptDataError, OSError):
        header = read_header(fd)
        return header.uuid if header.tagged else None
    return None


def _path(uuid: str) -> str:
    return f"{PRIVATE_DIR}/{uuid}{tags.SUFFIX}"
