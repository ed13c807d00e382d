"""What every transport mode gives: a virtual disk, read as the guest sees it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Protocol

from ioflt.errors import UsageError
from ioflt.types import Area

__all__ = ["Area", "VirtualDisk", "aligned", "check_inside"]


class VirtualDisk(Protocol):
    """An open disk: descriptor, extents and snapshot chain resolved. A context manager.

    For one thread at a time. Reading raises what opening raises: the datastore is somebody else's, too.
    """

    @property
    def capacity(self) -> int:
        """Bytes of the disk, a multiple of 512."""

    def read(self, offset: int, length: int) -> bytes | bytearray | memoryview:
        """Exactly `length` bytes; holes are zeros. Raises UsageError for what is not inside the capacity, and
        when it is closed.

        A memoryview may be of a buffer that the next call overwrites.
        """

    def areas(self, offset: int = 0, length: int | None = None) -> Iterator[Area]:
        """What may hold other bytes than zeros in that part of the disk (`length` None: up to its end).

        In order, none empty, none that touch or overlap, all inside the part. It may be generous, and never
        misses data. Reading between two areas is allowed. Raises UsageError as `read`.
        """

    def close(self) -> None:
        """May be called again."""

    def __enter__(self) -> VirtualDisk: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def check_inside(capacity: int, offset: int, length: int) -> None:
    """Raises UsageError for bytes that are not all in a disk of that capacity."""
    if not 0 <= offset <= offset + length <= capacity:
        raise UsageError(f"{length} bytes at {offset} of a disk of {capacity}")


def aligned(areas: Iterable[Area], unit: int, capacity: int) -> Iterator[Area]:
    """The same areas, which come in order, widened to whole units of the disk (or to its end), and merged."""
    start = end = 0  # of the area in hand
    for area in areas:
        first = area.start // unit * unit
        if first > end:
            if end > start:
                yield Area(start, end - start)
            start = first
        end = max(end, min(capacity, -(-area.end // unit) * unit))
    if end > start:
        yield Area(start, end - start)
