"""Keys in memory that no other process can read, root's included.

`memfd_secret` (Linux 5.14) takes pages out of the kernel's own map: /proc/pid/mem, ptrace and core dumps do
not see them, and they are never swapped. Where it is not to be had: anonymous memory, locked, out of dumps.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from ioflt.crypto.secret import Secret

#: Bytes of a key.
KEY_SIZE = 32

#: Keys that are kept; the one that was put first goes first. 16,384 keys are 512 KiB of the 8 MiB that a user
#: may lock.
CAPACITY = 16384

_SYS_MEMFD_SECRET = 447  # the same number on every architecture
_libc = ctypes.CDLL(None, use_errno=True)

Name = TypeVar("Name")


class KeyCache(Generic[Name]):
    """32-byte keys by name. Safe for calls from several threads."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._lock = threading.Lock()
        self._memory, self.kind = _secret_memory(capacity * KEY_SIZE)
        self._free = list(reversed(range(capacity)))
        self._slots: dict[Name, int] = {}

    def put(self, name: Name, key: Secret) -> Name | None:
        """Keep a copy of a key, in place of the one of that name. Returns the name that gave way."""
        gone = None
        with self._lock:
            slot = self._slots.get(name)
            if slot is None:
                if not self._free:
                    gone = next(iter(self._slots))
                    self._drop(gone)
                slot = self._slots[name] = self._free.pop()
            self._memory[slot * KEY_SIZE : (slot + 1) * KEY_SIZE] = key.view()
        return gone

    def get(self, name: Name) -> Secret | None:
        """A copy in ordinary memory, for the caller to use at once and wipe."""
        with self._lock:
            slot = self._slots.get(name)
            if slot is None:
                return None
            return Secret(self._memory[slot * KEY_SIZE : (slot + 1) * KEY_SIZE])

    def drop(self, name: Name) -> None:
        """Wipe the key of that name, if there is one."""
        with self._lock:
            if name in self._slots:
                self._drop(name)

    def drop_if(self, chosen: Callable[[Name], bool]) -> None:
        """Wipe the keys of chosen names."""
        with self._lock:
            for name in [name for name in self._slots if chosen(name)]:
                self._drop(name)

    def wipe(self) -> None:
        """Wipe all keys."""
        self.drop_if(lambda _name: True)

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, name: Name) -> bool:
        return name in self._slots

    def _drop(self, name: Name) -> None:
        slot = self._slots.pop(name)
        self._memory[slot * KEY_SIZE : (slot + 1) * KEY_SIZE] = bytes(KEY_SIZE)
        self._free.append(slot)


def _secret_memory(size: int) -> tuple[memoryview, str]:
    """Memory of at least `size` zero bytes, and which kind it is: "memfd_secret", "mlock" or "plain"."""
    fd: Final = _libc.syscall(_SYS_MEMFD_SECRET, os.O_CLOEXEC)
    if fd >= 0:
        try:
            os.ftruncate(fd, size)
            # Pages come at the first touch, so the limit on locked memory shows in mmap.
            return memoryview(mmap.mmap(fd, size, mmap.MAP_SHARED)), "memfd_secret"
        except OSError:
            pass  # above the limit on locked memory, as the fallback may be
        finally:
            os.close(fd)
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_DONTDUMP)
    start = (ctypes.c_char * size).from_buffer(memory)
    locked = _libc.mlock(ctypes.byref(start), ctypes.c_size_t(size)) == 0
    return memoryview(memory), "mlock" if locked else "plain"
