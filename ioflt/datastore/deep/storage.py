"""What a deep recrypt asks of the file system, and nothing more: who models a power cut models this.

Nothing is durable before `fsync` of the file, and no name before a sync of its directory. All calls may raise
OSError; after one that a `fsync` raised, what is on the medium is unknown.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

Bytes = bytes | bytearray | memoryview


class File(Protocol):
    """An open file. Offsets and sizes are bytes."""

    def pread(self, length: int, offset: int) -> bytearray:
        """Up to `length` bytes; fewer only at the end."""

    def pwrite(self, data: Bytes, offset: int) -> None:
        """All of `data`; extends the file when it ends behind its end."""

    def fsync(self) -> None:
        """What was written is on the medium when this returns."""

    def size(self) -> int:
        """Bytes of the file."""

    def resize(self, size: int) -> None:
        """Cut or extend; what is new is a hole."""

    def next_data(self, offset: int) -> int:
        """Where data begins at or after `offset`, not later; the file's size if nowhere."""


class Storage(Protocol):
    """A container, and the files that come and go beside it."""

    @property
    def container(self) -> File:
        """The file that had the container's name when this was opened."""

    def header_lock(self) -> AbstractContextManager[None]:
        """Keeps stock cryptsetup from the header. Raises BusyError when that has it now."""

    def mtime(self) -> int:
        """The container's, nanoseconds."""

    def set_mtime(self, mtime: int) -> None:
        """Durable with the container's next `fsync`."""

    def sidecar(self) -> File | None:
        """The sidecar; None when there is none."""

    def make_sidecar(self, size: int) -> File:
        """A new one, of zeros, in place of any that is there. Its space is reserved."""

    def remove_sidecar(self) -> None:
        """If there is one."""

    def tags(self, uuid: str) -> File | None:
        """The file of tags of the container of that UUID; None when there is none."""

    def make_tags(self, uuid: str) -> File:
        """A new, empty one, in place of any that is there."""

    def sync_sidecars(self) -> None:
        """fsync of the directory of sidecars and tags."""

    def make_draft(self) -> File:
        """A new, empty file without a name; gone when it gets none."""

    def dress(self, draft: File) -> None:
        """Give it the container's owner, mode and times; durable with its next `fsync`."""

    def publish(self, draft: File) -> None:
        """Put it in place of the container, under all its names, each atomically."""

    def sync_names(self) -> None:
        """fsync of the directories of the container's names."""
