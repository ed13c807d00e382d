"""An OVA in the making: envelope, manifest, disks, in this order as OVF asks.

Envelope and manifest tell sizes and digests of the disks, so their places are kept free and filled last.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from ioflt.format.ovf import manifest
from ioflt.format.ovf.manifest import Entry

#: Adds bytes to the member that is being written.
Add = Callable[[bytes], None]

_BLOCK: Final = 512
_END: Final = 2 * _BLOCK
_LARGEST: Final = 10**18


class OvaWriter:
    """Writes to the new file `fd`, which it does not own. Names are short enough for a tar header."""

    def __init__(
        self, fd: int, stem: str, members: Sequence[str], envelope: Callable[[Mapping[str, int]], bytes]
    ) -> None:
        """`envelope` gives the .ovf for the sizes of all `members`, in bytes."""
        self._fd = fd
        self._envelope = envelope
        self._ovf, self._mf = f"{stem}.ovf", f"{stem}.mf"
        self._ovf_size = len(envelope(dict.fromkeys(members, _LARGEST)))
        self._mf_size = len(
            manifest.write(Entry(name, "SHA256", bytes(32)) for name in (self._ovf, *members))
        )
        self._position = 2 * _BLOCK + _padded(self._ovf_size) + _padded(self._mf_size)
        self._sizes: dict[str, int] = {}
        self._entries: list[Entry] = []

    @property
    def names(self) -> list[str]:
        """The archive's members."""
        return [self._ovf, self._mf, *self._sizes]

    @contextmanager
    def member(self, name: str) -> Iterator[Add]:
        """The next disk, of any size."""
        start = self._position
        self._position += _BLOCK
        digest = hashlib.sha256()

        def add(data: bytes) -> None:
            digest.update(data)
            self._put(self._position, data)
            self._position += len(data)

        yield add
        size = self._sizes[name] = self._position - start - _BLOCK
        self._position = start + _BLOCK + _padded(size)
        self._put(start, _header(name, size))
        self._entries.append(Entry(name, "SHA256", digest.digest()))

    def finish(self) -> None:
        """Envelope and manifest, and the archive's end."""
        text = self._envelope(self._sizes).ljust(self._ovf_size, b"\n")
        entries = (Entry(self._ovf, "SHA256", hashlib.sha256(text).digest()), *self._entries)
        at = self._put(0, _header(self._ovf, self._ovf_size) + text)
        self._put(_padded(at), _header(self._mf, self._mf_size) + manifest.write(entries))
        os.ftruncate(self._fd, self._position + _END)

    def _put(self, position: int, data: bytes) -> int:
        """Write all of `data`; returns where it ends. Padding is left as a hole."""
        view = memoryview(data)
        while view:
            done = os.pwrite(self._fd, view, position)
            position += done
            view = view[done:]
        return position


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o644
    info.mtime = int(time.time())
    return info.tobuf(tarfile.GNU_FORMAT)  # USTAR, as long as sizes stay below 8 GiB


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
