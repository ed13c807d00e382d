"""What a filter is: every operation goes to the next link unless a class says otherwise."""

from __future__ import annotations

from typing import Protocol

from ioflt.filters.native import Native


class Link(Protocol):
    """One link of the chain. All offsets and lengths are bytes; every call may raise OSError."""

    def read(self, offset: int, length: int, *, nowait: bool = False) -> bytearray | memoryview:
        """Up to `length` bytes, fewer only at the end. `nowait`: BlockingIOError instead of disk I/O."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """All of `data`; extends the file when it ends behind its end."""

    def size(self) -> int:
        """Bytes in the file."""

    def resize(self, size: int) -> None:
        """Cut or extend; what is new reads as zeros."""

    def allocate(self, offset: int, length: int, *, keep_size: bool) -> None:
        """Reserve space; contents stay."""

    def punch(self, offset: int, length: int) -> None:
        """Give the space back; the range then reads as zeros. Never changes the size."""

    def zero(self, offset: int, length: int) -> None:
        """The range then reads as zeros, its space stays reserved. Never changes the size."""

    def seek_data(self, offset: int) -> int:
        """Where data begins at or after `offset`; OSError ENXIO if nowhere."""

    def seek_hole(self, offset: int) -> int:
        """Where a hole begins at or after `offset`; the end of the file counts as one."""

    def sync(self, *, data_only: bool) -> None:
        """All that was written is on the medium when this returns."""

    def native(self) -> Native | None:
        """What the chain down from here amounts to just now; None when a link does more than that can say.

        Valid until anything but `read`, `write` and `sync` is called.
        """

    def close(self) -> None:
        """Drop what the link holds, keys first."""


class Filter:
    """A link that passes everything on. Filters override what they change, and nothing else."""

    def __init__(self, below: Link) -> None:
        self.below = below

    def read(self, offset: int, length: int, *, nowait: bool = False) -> bytearray | memoryview:
        return self.below.read(offset, length, nowait=nowait)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self.below.write(offset, data)

    def size(self) -> int:
        return self.below.size()

    def resize(self, size: int) -> None:
        self.below.resize(size)

    def allocate(self, offset: int, length: int, *, keep_size: bool) -> None:
        self.below.allocate(offset, length, keep_size=keep_size)

    def punch(self, offset: int, length: int) -> None:
        self.below.punch(offset, length)

    def zero(self, offset: int, length: int) -> None:
        self.below.zero(offset, length)

    def seek_data(self, offset: int) -> int:
        return self.below.seek_data(offset)

    def seek_hole(self, offset: int) -> int:
        return self.below.seek_hole(offset)

    def sync(self, *, data_only: bool) -> None:
        self.below.sync(data_only=data_only)

    def native(self) -> Native | None:
        return None  # a filter changes something

    def close(self) -> None:
        self.below.close()
