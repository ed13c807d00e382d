"""The file of tags beside a container, open: tags of sectors, marks of areas, the journal."""

from __future__ import annotations

import errno
import os

from ioflt import syscalls
from ioflt.crypto.sectortags import TAG_SIZE
from ioflt.filters.written import Notes, Within
from ioflt.format.luks2 import tags
from ioflt.format.luks2.tags import AREA_SECTORS, Journal, TagKeys


class TagFile:
    """Owns `fd`. Sectors and areas are numbers; every call may raise OSError.

    After a sync that failed nothing is written any more: what is on the medium is unknown.
    """

    def __init__(self, fd: int, keys: TagKeys, written: Within | None = None) -> None:
        """`written` is told what is written."""
        self.fd = fd
        self._notes = Notes(written, fd)
        self._key = keys.journal
        self._failed = False

    def read_tags(self, first: int, count: int, *, nowait: bool = False) -> bytes:
        """The tags of `count` sectors; zeros where none was written."""
        runs = tags.tag_runs(first, count)
        return b"".join(self._read(tags.tag_offset(start), step, nowait) for start, step in runs)

    def write_tags(self, first: int, data: bytes) -> None:
        """The tags from that sector on."""
        done = 0
        for start, step in tags.tag_runs(first, len(data) // TAG_SIZE):
            self._write(data[done : done + step * TAG_SIZE], tags.tag_offset(start))
            done += step * TAG_SIZE

    def clear_tags(self, area: int, count: int) -> None:
        """No tags for the sectors of so many areas, and no space for them."""
        for start, step in tags.tag_runs(area * AREA_SECTORS, count * AREA_SECTORS):
            self._check()
            mode = syscalls.FALLOC_FL_PUNCH_HOLE | syscalls.FALLOC_FL_KEEP_SIZE
            place, size = tags.tag_offset(start), step * TAG_SIZE
            try:
                syscalls.fallocate(self.fd, mode, place, size)
                self._notes.note(place, place + size)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                for sector in range(start, start + step, AREA_SECTORS):
                    self._write(bytes(AREA_SECTORS * TAG_SIZE), tags.tag_offset(sector))

    def read_marks(self, first: int, count: int) -> bytes:
        """The marks of `count` areas; zeros where none was written."""
        runs = tags.mark_runs(first, count)
        return b"".join(self._read(tags.mark_offset(start), step, False) for start, step in runs)

    def write_marks(self, first: int, data: bytes) -> None:
        """The marks from that area on."""
        done = 0
        for start, step in tags.mark_runs(first, len(data) // TAG_SIZE):
            self._write(data[done : done + step * TAG_SIZE], tags.mark_offset(start))
            done += step * TAG_SIZE

    def load_journal(self) -> Journal:
        """The newest one. Raises CorruptDataError."""
        first, second = (os.pread(self.fd, tags.SLOT_SIZE, offset) for offset in tags.SLOT_OFFSETS)
        return tags.load(first, second, self._key)

    def write_journal(self, journal: Journal) -> None:
        """Into the slot of the older one. Syncs nothing: the one before must be durable."""
        self._write(tags.pack(journal, self._key), tags.slot_offset(journal.sequence))

    def sync(self) -> None:
        """All that was written is on the medium when this returns."""
        self._check()
        try:
            os.fdatasync(self.fd)
        except OSError:
            self._failed = True
            raise

    def close(self) -> None:
        os.close(self.fd)

    def _read(self, offset: int, count: int, nowait: bool) -> bytes:
        buffer = bytearray(count * TAG_SIZE)
        got = os.preadv(self.fd, (buffer,), offset, os.RWF_NOWAIT if nowait else 0)
        if nowait and got < len(buffer):  # the rest is not in memory, or behind the end
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return bytes(buffer)

    def _write(self, data: bytes, offset: int) -> None:
        self._check()
        view = memoryview(data)
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(self.fd, view[done:], offset + done)
        finally:
            self._notes.note(offset, offset + len(view))

    def _check(self) -> None:
        if self._failed:
            raise OSError(errno.EIO, "shut after a failed sync of the tags")
