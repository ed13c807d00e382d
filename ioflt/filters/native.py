"""What a chain amounts to, for whoever does its reads and writes without calling it: in C, that is."""

from __future__ import annotations

import mmap
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Native:
    """Bytes that lie in `fd` from `start` on, as they are or, with a `key`, as sectors of AES-256-XTS.

    `key`: 64 bytes, those of the cipher itself, not a copy. `holes`: a sector of zeros was never written.
    `marks`: a bit for each 64 KiB from byte 0 on, lowest first, to be set before anything of them is written;
    behind its end none is asked for. `writes`, `grows`: whether anything may be written, and behind the end.
    """

    fd: int
    start: int
    key: memoryview | None = None
    holes: bool = False
    marks: mmap.mmap | None = None
    writes: bool = True
    grows: bool = True
