"""Changed block tracking: before anything changes below, the blocks of it are marked.

Reads are not touched. A write into a block that has its mark in this sequence costs a look at it, 0.3 µs; the
first one after a close makes durable that a writer is at work.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from ioflt.filters.base import Filter, Link
from ioflt.filters.changemap import ChangeMap
from ioflt.filters.native import Native
from ioflt.format.cbt.sidecar import BLOCK_SHIFT, PAGE_MARKS, PAGE_SHIFT

_LAST = PAGE_MARKS - 1

_log = logging.getLogger(__name__)


class Cbt(Filter):
    """Owns `changes`. Offsets are bytes of the disk file as its user sees them."""

    def __init__(self, below: Link, changes: ChangeMap, name: str = "") -> None:
        super().__init__(below)
        self.changes = changes
        self._name = name
        self._end = -1  # the size; below every write while no writer is told of

    @property
    def at_rest(self) -> bool:
        """Whether the changes are on the medium; then the next one waits for it."""
        return self._end < 0

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        end = offset + len(data)
        changes = self.changes
        page = changes.pages.get(offset >> PAGE_SHIFT)
        if (
            end > self._end
            or page is None
            or page[(offset >> BLOCK_SHIFT) & _LAST] != changes.sequence
            or (end - 1) >> BLOCK_SHIFT != offset >> BLOCK_SHIFT
        ):
            self._mark(offset, end)
        self.below.write(offset, data)

    def resize(self, size: int) -> None:
        self.begin()
        before = self.below.size()
        if size != before:
            self.changes.cut(min(size, before) >> BLOCK_SHIFT)
        self.below.resize(size)
        self._end = size

    def allocate(self, offset: int, length: int, *, keep_size: bool) -> None:
        self.begin()
        if not keep_size:
            self._grow(offset + length)
        self.below.allocate(offset, length, keep_size=keep_size)

    def punch(self, offset: int, length: int) -> None:
        self._mark_inside(offset, length)
        self.below.punch(offset, length)

    def zero(self, offset: int, length: int) -> None:
        self._mark_inside(offset, length)
        self.below.zero(offset, length)

    def begin(self) -> None:
        """The file changes, if only in its times."""
        if self._end < 0:
            self.changes.begin()
            self._end = self.below.size()

    def settle(self) -> None:
        """The writer may go. What cannot be written stays as after a crash, and the log tells."""
        try:
            self.changes.settle()
            self._end = -1
        except OSError as error:
            _log.warning(
                "%s: its changed blocks could not be written, a full backup is due: %s", self._name, error
            )

    def native(self) -> Native | None:
        below = self.below.native()
        if below is None:
            return None
        if self.at_rest:
            return replace(below, writes=False, grows=False)
        last = self.below.size() >> BLOCK_SHIFT
        grows = below.grows and self.changes.is_cut(last)
        return replace(below, marks=self.changes.marks(last), grows=grows)

    def close(self) -> None:
        self.changes.close()
        super().close()

    def _mark(self, offset: int, end: int) -> None:
        if offset < end:  # else it is a write of nothing
            self.begin()
            self._grow(end)
            self.changes.mark(offset >> BLOCK_SHIFT, (end - 1) >> BLOCK_SHIFT)

    def _grow(self, end: int) -> None:
        """What comes behind the end changes as a whole."""
        if end > self._end:
            self.changes.cut(self._end >> BLOCK_SHIFT)
            self._end = end

    def _mark_inside(self, offset: int, length: int) -> None:
        self.begin()
        self._mark(offset, min(offset + length, self.below.size()))
