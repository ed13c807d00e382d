"""What a measurement is: rows that one piece of work fills, for each of its places, once a round."""

from __future__ import annotations

import ctypes
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .filesystem import DISK, fill
from .places import Place, Places
from .results import Row, Sample

MIB = 1 << 20
GIB = 1 << 30

#: Flags of sync_file_range(2): write what is dirty, and wait for it.
_WRITE_AND_WAIT = 1 | 2 | 4

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Extent:
    """How much is measured: bytes of a disk, seconds of a job by time, files of a directory, VMs."""

    size: int
    seconds: float
    names: int
    vms: int


class Work(ABC):
    """`measure` fills all `rows`, or those of them that a place has."""

    rows: Sequence[Row]
    #: In this order, round after round.
    places: Sequence[str]

    @abstractmethod
    def measure(self, places: Places, place: str, extent: Extent) -> Mapping[str, Sample]:
        """Figures by the names of rows. What it needs it makes at the first call. Raises BenchError."""


def seconds(act: Callable[..., object], *arguments: object) -> float:
    """What the call takes."""
    begin = time.perf_counter()
    act(*arguments)
    return time.perf_counter() - begin


def disk(vm: Path, size: int) -> Path:
    """A flat disk of that size, all of it written, with noise; its stored bytes are in the page cache."""
    path = vm / DISK
    if not path.exists():
        fill(path, size)
    return path


def forget_pages(path: Path) -> None:
    """Of this name of the file: what a mount's kernel side keeps goes, what is behind the mount stays."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def forget_stored(place: Place) -> None:
    """All that is behind the mount: it comes from the device again."""
    os.sync()  # dirty pages stay
    for directory, _, names in os.walk(place.system.store):
        for name in names:
            forget_pages(Path(directory, name))


def write_out(path: Path) -> None:
    """What a write-back cache of the mount still holds goes to its file system, if not to the device."""
    fd = os.open(path, os.O_WRONLY)
    try:
        if _libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), _WRITE_AND_WAIT) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(fd)
