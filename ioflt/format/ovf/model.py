"""What an OVF envelope says of a VM, as far as ioflt carries it over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

ControllerKind = Literal["ide", "scsi", "sata", "nvme"]

#: Buses of each kind that a VMX can name, and units on each bus.
BUSES: Final[dict[ControllerKind, int]] = {"ide": 2, "scsi": 4, "sata": 4, "nvme": 4}
UNITS: Final[dict[ControllerKind, int]] = {"ide": 2, "scsi": 65, "sata": 30, "nvme": 64}

STREAM_OPTIMIZED: Final = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"


@dataclass(frozen=True, slots=True)
class File:
    """A file beside the envelope. `href` is a bare name.

    `size` and `chunk_size` are bytes, None where the envelope does not say. With a chunk size the file comes
    in pieces `href.000000000`, `href.000000001`, …, even if it is one.
    """

    id: str
    href: str
    size: int | None = None
    chunk_size: int | None = None


@dataclass(frozen=True, slots=True)
class Disk:
    """A virtual disk of `capacity` bytes. `file_id` is None for one that starts empty."""

    id: str
    file_id: str | None
    capacity: int
    format: str


@dataclass(frozen=True, slots=True)
class Controller:
    """`instance` is the id by which drives name it; `subtype` the model ("lsilogic", "VirtualSCSI", …)."""

    instance: str
    kind: ControllerKind
    bus: int
    subtype: str = ""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A disk on a controller."""

    controller: str
    unit: int
    disk_id: str


@dataclass(frozen=True, slots=True)
class Nic:
    """A network card of model `subtype` on the network `network`."""

    subtype: str
    network: str


@dataclass(frozen=True, slots=True)
class Hardware:
    """`system_type` is the hardware version, "vmx-10"; `firmware` is "bios" or "efi"."""

    cpus: int
    memory_mib: int
    controllers: tuple[Controller, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    nics: tuple[Nic, ...] = ()
    firmware: str = "bios"
    system_type: str = ""


@dataclass(frozen=True, slots=True)
class Envelope:
    """One VM. `os_id` is the CIM number of its guest system, `os_type` VMware's name of it, where given."""

    name: str
    files: tuple[File, ...]
    disks: tuple[Disk, ...]
    hardware: Hardware
    os_id: int = 1
    os_type: str | None = None

    def file_of(self, disk: Disk) -> File | None:
        """The file that holds `disk`'s content."""
        return next((file for file in self.files if file.id == disk.file_id), None)
