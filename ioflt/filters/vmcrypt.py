"""The encryption filter: whole sectors pass the cipher, partial ones are read, merged and written back.

Below it lies ciphertext whose size is a multiple of a sector; a caller that needs exact lengths keeps them
itself (`datastore.container`). Holes are decided by the ciphertext, never by what is written: in a thin
container a sector of zeros was never written and reads as zeros. In a thick one that rule holds only from
the `initialised` mark on.
"""

from __future__ import annotations

import errno
from dataclasses import replace

from ioflt.crypto.xts import SectorLoop
from ioflt.filters.base import Filter, Link
from ioflt.filters.native import Native
from ioflt.sectors import cover, inner, round_down, round_up
from ioflt.types import SECTOR_SIZE

#: Bytes encrypted at a time when a range is filled with zeros: the largest FUSE request.
_CHUNK = 1 << 20

_ZERO_SECTOR = bytes(SECTOR_SIZE)


class VmCrypt(Filter):
    """AES-256-XTS over 4096-byte sectors.

    `thin`: the hole rule holds everywhere. Otherwise it holds from byte `initialised` on
    (a multiple of a sector; None: nowhere).
    """

    def __init__(self, below: Link, cipher: SectorLoop, *, thin: bool, initialised: int | None) -> None:
        super().__init__(below)
        self._cipher = cipher
        self.thin = thin
        self.initialised = initialised

    def read(self, offset: int, length: int, *, nowait: bool = False) -> bytearray | memoryview:
        span = cover(offset, length)
        buffer = self.below.read(span.start, span.size, nowait=nowait)
        if len(buffer) % SECTOR_SIZE:  # a body cut by somebody else: the broken sector cannot be decrypted
            buffer = memoryview(buffer)[: round_down(len(buffer))]
        self._decrypt(buffer, span.start)
        if span.aligned and len(buffer) == length:
            return buffer
        return memoryview(buffer)[span.head : span.head + length]

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        if len(data) == 0:  # pwrite of nothing changes nothing, not even a size
            return
        span = cover(offset, len(data))
        if span.aligned:
            buffer = bytearray(data)
        else:
            buffer = self._merge(span.start, span.size, span.head, span.tail, data)
        self._cipher.encrypt(buffer, span.start // SECTOR_SIZE)
        self.below.write(span.start, buffer)

    def punch(self, offset: int, length: int) -> None:
        if self.thin:
            self._clear(offset, length, keep_space=False)
        else:
            self._empty_thick(offset, length)

    def zero(self, offset: int, length: int) -> None:
        if self.thin:
            self._clear(offset, length, keep_space=True)
        else:
            self._empty_thick(offset, length)

    def seek_data(self, offset: int) -> int:
        if self.thin:
            return self.below.seek_data(offset)
        return offset

    def seek_hole(self, offset: int) -> int:
        if self.thin:
            return self.below.seek_hole(offset)
        return self.below.size()

    def native(self) -> Native | None:
        below, key = self.below.native(), self._cipher.key
        if below is None or key is None or self.initialised is not None:
            return None
        return replace(below, key=key, holes=self.thin)

    def close(self) -> None:
        self._cipher.wipe()
        super().close()

    def fill_holes(self, offset: int, length: int) -> int:
        """Write encrypted zeros into every never-written sector of a range of whole sectors.

        Returns the bytes written. The range must lie inside the file.
        """
        ciphertext = memoryview(self.below.read(offset, length))
        written = 0
        run = 0
        for position in range(0, len(ciphertext) + SECTOR_SIZE, SECTOR_SIZE):
            hole = bytes(ciphertext[position : position + SECTOR_SIZE]) == _ZERO_SECTOR
            if hole:
                run += SECTOR_SIZE
            elif run:
                start = offset + position - run
                zeros = bytearray(run)
                self._cipher.encrypt(zeros, start // SECTOR_SIZE)
                self.below.write(start, zeros)
                written += run
                run = 0
        return written

    def _decrypt(self, buffer: bytearray | memoryview, start: int) -> None:
        """Decrypt whole sectors in place; `start` is the byte offset of the first."""
        mark = 0 if self.thin else self.initialised
        if mark is None or start + len(buffer) <= mark:
            self._cipher.decrypt(buffer, start // SECTOR_SIZE, holes=False)
        elif start >= mark:
            self._cipher.decrypt(buffer, start // SECTOR_SIZE, holes=True)
        else:
            view = memoryview(buffer)
            self._cipher.decrypt(view[: mark - start], start // SECTOR_SIZE, holes=False)
            self._cipher.decrypt(view[mark - start :], mark // SECTOR_SIZE, holes=True)

    def _merge(
        self, start: int, size: int, head: int, tail: int, data: bytes | bytearray | memoryview
    ) -> bytearray:
        """The plaintext of the covering sectors with `data` laid over it."""
        buffer = bytearray(size)
        if head:
            self._load_sector(buffer, start, 0)
        if tail and (size > SECTOR_SIZE or not head):
            self._load_sector(buffer, start, size - SECTOR_SIZE)
        buffer[head : size - tail] = data
        return buffer

    def _load_sector(self, buffer: bytearray, start: int, position: int) -> None:
        sector = self.below.read(start + position, SECTOR_SIZE)
        if len(sector) == SECTOR_SIZE:  # else it lies behind the end: zeros
            self._decrypt(sector, start + position)
            buffer[position : position + SECTOR_SIZE] = sector

    def _clear(self, offset: int, length: int, *, keep_space: bool) -> None:
        """Thin: whole sectors become holes, the partial ones at the ends get zeros written into them."""
        start, end = inner(offset, length)
        if start < end:
            if keep_space:
                self.below.zero(start, end - start)
            else:
                self.below.punch(start, end - start)
            self._zero_part(offset, start - offset)
            self._zero_part(end, offset + length - end)
        else:
            first = min(length, SECTOR_SIZE - offset % SECTOR_SIZE)
            self._zero_part(offset, first)
            self._zero_part(offset + first, length - first)

    def _zero_part(self, offset: int, length: int) -> None:
        """Zeros into part of one sector; nothing to do for a hole."""
        if length == 0:
            return
        sector = self.below.read(round_down(offset), SECTOR_SIZE)
        if len(sector) == SECTOR_SIZE and bytes(sector) != _ZERO_SECTOR:
            self.write(offset, bytes(length))

    def _empty_thick(self, offset: int, length: int) -> None:
        """Holes, their space reserved, where the thin rule holds and the file system can; else zeros."""
        if self.initialised is not None and round_up(offset) >= self.initialised:
            try:
                self._clear(offset, length, keep_space=True)
                return
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
        self._write_zeros(offset, length)

    def _write_zeros(self, offset: int, length: int) -> None:
        end = min(offset + length, self.below.size())
        while offset < end:
            step = min(_CHUNK, end - offset)
            self.write(offset, bytes(step))
            offset += step
