"""A VM's disk opened by transport mode, one contract for all: `disk.VirtualDisk`.

| mode | how the disk is read | an encrypted VM needs |
|---|---|---|
| `file` | through the library, no mount | Cryptographer.Access |
| `san` | the datastore's bytes as they are | refused |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from ioflt.backup import direct
from ioflt.backup.disk import VirtualDisk
from ioflt.datastore.volume import Volume
from ioflt.errors import UsageError

#: What opens a disk: an open datastore, the VM's name, the disk's file as a path in its home. The disk does
#: not own the datastore.
Opener = Callable[[Volume, str, str], VirtualDisk]

#: By transport mode. A mode that has a server or a proxy VM of its own is opened with more than this.
OPENERS: Final[Mapping[str, Opener]] = {"file": direct.open_file, "san": direct.open_san}


def open_disk(volume: Volume, vm: str, disk: str, mode: str = "file") -> VirtualDisk:
    """The disk whose descriptor (or image) is the file `disk` of the VM's home, as `web01.vmdk`.

    The volume stays open longer than the disk. Raises UsageError for an unknown mode, NotFoundError,
    DeniedError, KeyUnavailableError, CorruptDataError, StorageError, BusyError.
    """
    if mode not in OPENERS:
        raise UsageError(f"{mode!r} is no transport mode: {', '.join(OPENERS)}")
    return OPENERS[mode](volume, vm, disk)
