"""Room for what a guest overwrites while a backup of it is made: the backup gives up before there is none.

Where the old data cannot be kept QEMU has the guest's write fail, or the guest stop.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ioflt.errors import StorageError

#: Bytes that have to be free: more than a guest writes between two looks, a gigabyte in a second.
RESERVE = 256 << 20

_EVERY_S: Final = 0.25


def check(directories: Iterable[Path]) -> None:
    """Raises StorageError where too little is free."""
    for directory in directories:
        if _is_low(directory):
            told = f"less than {RESERVE >> 20} MiB are free for what the guest overwrites meanwhile"
            raise StorageError(told, errno.ENOSPC, file=directory)


@contextmanager
def watched(directories: Iterable[Path], give_up: Callable[[], None]) -> Iterator[None]:
    """While the block runs, `give_up` is called, in another thread, once too little is free."""
    ended = threading.Event()
    places = list(directories)

    def watch() -> None:
        while not ended.wait(_EVERY_S):
            if any(map(_is_low, places)):
                give_up()
                return

    thread = threading.Thread(target=watch, name="freespace")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _is_low(directory: Path) -> bool:
    try:
        found = os.statvfs(directory)
    except OSError:  # the mount is gone: whoever reads from it hears of that
        return False
    return found.f_bavail * found.f_frsize < RESERVE
