"""An open file as a disk: its bytes are the disk's."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from types import TracebackType

from ioflt.backup.disk import Area, check_inside
from ioflt.datastore.openfile import OpenFile
from ioflt.errors import MalformedError


class FlatDisk:
    """A `VirtualDisk` over a file that somebody else closes. It has zeros up to a multiple of 512 bytes."""

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        self._length = file.length
        self.capacity = -(-self._length // 512) * 512

    def read(self, offset: int, length: int) -> bytes:
        check_inside(self.capacity, offset, length)
        wanted = max(0, min(length, self._length - offset))
        data = bytes(self._file.read(offset, wanted)) if wanted else b""
        if len(data) != wanted:
            raise MalformedError("truncated", "it became shorter meanwhile")
        return data.ljust(length, b"\0")

    def areas(self, offset: int = 0, length: int | None = None) -> Iterator[Area]:
        end = min(self._length, self.capacity if length is None else offset + length)
        while offset < end:
            try:
                start = self._file.seek(offset, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                return
            stop = min(self._file.seek(start, os.SEEK_HOLE), end)
            if start < stop:
                yield Area(start, stop - start)
            offset = max(stop, start)

    def close(self) -> None:
        """The file is somebody else's."""

    def __enter__(self) -> FlatDisk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
