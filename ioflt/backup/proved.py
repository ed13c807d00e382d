"""A stored file that is read by parts, and has been read whole before: each part is what it was then.

Whoever has the destination may give other bytes at each look. So of the first one, by which the digest is
found that a manifest names, a mark of each piece stays here.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Final

from ioflt import ahead
from ioflt.crypto.marks import MARK_SIZE, Marks
from ioflt.datastore.container import Progress
from ioflt.datastore.openfile import OpenFile
from ioflt.errors import MalformedError

#: Bytes of a piece; with `MARK_SIZE` for each, that is 64 MB for a terabyte.
PIECE: Final = 256 << 10

#: Pieces in memory of one file.
_KEPT: Final = 4


class Proved:
    """`file`, which is somebody else's, with that SHA-256."""

    def __init__(self, file: OpenFile, sha256: str, progress: Progress | None = None) -> None:
        """Raises MalformedError "changed"."""
        self._file = file
        self._marks = Marks()  # nobody finds other bytes with the same mark
        self._marked = bytearray()
        self._pieces: OrderedDict[int, bytes] = OrderedDict()
        self.length = 0
        whole = hashlib.sha256()
        with ahead.worked(whole.update, self._read(progress)) as hashed:
            deque(hashed, maxlen=0)
        if whole.hexdigest() != sha256:
            raise MalformedError("changed", "its digest is not that of the manifest")

    def _read(self, progress: Progress | None) -> Iterator[bytes]:
        """All of it, as the medium gives it; each piece is marked."""
        os.posix_fadvise(self._file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        for number in range(-(-self._file.length // PIECE)):
            data = bytes(self._file.read(number * PIECE, PIECE))
            yield data
            self._marked += self._marks.of(number, data)
            self.length += len(data)
            if progress is not None:
                progress(len(data))

    def read(self, offset: int, length: int) -> bytes:
        """As `OpenFile.read`. Raises MalformedError "changed"."""
        end = min(offset + length, self.length)
        parts = []
        while offset < end:
            number, start = divmod(offset, PIECE)
            part = self._piece(number)[start : start + end - offset]
            parts.append(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _piece(self, number: int) -> bytes:
        found = self._pieces.get(number)
        if found is None:
            found = bytes(self._file.read(number * PIECE, PIECE))
            if self._marks.of(number, found) != self._marked[number * MARK_SIZE : (number + 1) * MARK_SIZE]:
                raise MalformedError("changed", "it is another one each time that it is read")
            self._pieces[number] = found
            if len(self._pieces) > _KEPT:
                self._pieces.popitem(last=False)
        else:
            self._pieces.move_to_end(number)
        return found
