"""A VM's disk opened by transport mode, one contract for all: `disk.VirtualDisk`.

| mode | how the disk is read | an encrypted VM needs |
|---|---|---|
| `file` | through the library, no mount | Cryptographer.Access |
| `nbd` | from qemu-nbd on a private mount, by a unix socket | Cryptographer.Access |
| `nbdssl` | the same by TLS, with a one-time ticket | Cryptographer.Access |
| `san` | the datastore's bytes as they are | refused |
| `hotadd` | not here: a proxy VM reads it (`hotadd`) | Access, AddDisk, and the proxy encrypted |
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from ioflt.backup import direct, exporter, hotadd
from ioflt.backup.disk import VirtualDisk
from ioflt.datastore.volume import Volume
from ioflt.errors import UsageError
from ioflt.keys.client import KeyClient

#: What opens a disk: an open datastore, the VM's name, the disk's file as a path in its home. The disk does
#: not own the datastore.
Opener = Callable[[Volume, str, str], VirtualDisk]

#: By transport mode. A mode that has a server or a proxy VM of its own is opened with more than this.
OPENERS: Final[Mapping[str, Opener]] = {
    "file": direct.open_file,
    "nbd": exporter.open_nbd,
    "nbdssl": exporter.open_nbdssl,
    "san": direct.open_san,
    "hotadd": hotadd.refuse,
}


@contextmanager
def open_datastore(path: str | os.PathLike[str], operation: str = "backup run") -> Iterator[Volume]:
    """The datastore at `path`, for reading, with keys of keyd: it decides what they are given out for.

    `operation`: what they are asked for, by its name in the table of operations. Raises NotFoundError,
    CorruptDataError, KeyUnavailableError, DeniedError, PeerError, StorageError.
    """
    with KeyClient.connect(operation=operation) as keys, Volume.open(path, keys, read_only=True) as volume:
        yield volume


def open_disk(volume: Volume, vm: str, disk: str, mode: str = "file") -> VirtualDisk:
    """The disk whose descriptor (or image) is the file `disk` of the VM's home, as `web01.vmdk`.

    The volume stays open longer than the disk. Raises UsageError for an unknown mode, NotFoundError,
    DeniedError, KeyUnavailableError, CorruptDataError, StorageError, BusyError.
    """
    if mode not in OPENERS:
        raise UsageError(f"{mode!r} is no transport mode: {', '.join(OPENERS)}")
    return OPENERS[mode](volume, vm, disk)
