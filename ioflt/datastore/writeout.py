"""Long writes, on their way to the medium while they go on: else all is left to the sync at the end, which
waits for it while nothing else is done.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from ioflt import syscalls

#: Bytes between two times that the kernel is told to begin.
STEP: Final = 16 << 20


class WriteOut:
    """What was written to the file behind `fd`, which it does not own."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._written = 0

    def add(self, length: int) -> None:
        """So many bytes more were written."""
        self._written += length
        if self._written >= STEP:
            self._written = 0
            with suppress(OSError):  # what fails the sync tells
                syscalls.begin_writing(self._fd)
