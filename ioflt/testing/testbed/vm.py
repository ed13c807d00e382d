"""The bed's VM as a test uses it: where it is, and whether what came back is what it was."""

from __future__ import annotations

import json
from pathlib import Path

from ioflt.testing.testbed import guest
from ioflt.testing.testbed.bed import Bed


class EncryptedVm:
    """`home`: through the mount; `stored`: what is on the datastore."""

    def __init__(self, bed: Bed) -> None:
        self.home = bed.vm
        self.stored = bed.datastore / guest.NAME
        known = json.loads(bed.checksums.read_text())
        #: SHA-256 of its files by name, of its disks as a guest sees them, and of files of the guest by path.
        self.files: dict[str, str] = known["files"]
        self.disks: dict[str, str] = known["disks"]
        self.guest: dict[str, str] = known["guest"]

    @property
    def disk(self) -> Path:
        """The descriptor of its disk, a VMDK."""
        return self.home / guest.DISK

    @property
    def extent(self) -> Path:
        """The bytes of its disk, raw."""
        return self.home / guest.EXTENT

    def departures(self, copy: Path) -> list[str]:
        """Names of files of the VM that are not in that directory, or not what they are in the VM."""
        return [name for name, digest in self.files.items() if _sha256(copy / name) != digest]

    def is_disk(self, copy: Path) -> bool:
        """Whether that file has the bytes of the VM's disk."""
        return _sha256(copy) == self.disks[guest.DISK]


def _sha256(path: Path) -> str | None:
    return guest.sha256(path) if path.is_file() else None
