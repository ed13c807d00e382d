"""`Envelope` ↔ VMX: what an imported VM's VMX says, and the envelope of an exported one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ioflt.errors import MalformedError, UsageError
from ioflt.format.dictionary import Dictionary
from ioflt.format.ovf import guests
from ioflt.format.ovf.model import (
    BUSES,
    STREAM_OPTIMIZED,
    UNITS,
    Attachment,
    Controller,
    ControllerKind,
    Disk,
    Envelope,
    File,
    Hardware,
    Nic,
)
from ioflt.format.vmdk.descriptor import confine

#: Hardware version of a VM whose envelope names none of VMware's: ESXi 5.5 and later run it.
_HARDWARE_VERSION: Final = 10

_CONTROLLERS: Final = {
    "lsilogic": "lsilogic",
    "lsilogicsas": "lsisas1068",
    "virtualscsi": "pvscsi",
    "buslogic": "buslogic",
}
_CONTROLLERS_BACK: Final = {
    "lsilogic": "lsilogic",
    "lsisas1068": "lsilogicsas",
    "pvscsi": "VirtualSCSI",
    "buslogic": "buslogic",
}
_NICS: Final = {"pcnet32": "vlance", "e1000": "e1000", "e1000e": "e1000e", "vmxnet3": "vmxnet3"}
_NICS_BACK: Final = {"vlance": "PCNet32", "e1000": "E1000", "e1000e": "E1000e", "vmxnet3": "VmxNet3"}
_SUBTYPES: Final[dict[ControllerKind, str]] = {
    "ide": "",
    "scsi": "lsilogic",
    "sata": "vmware.sata.ahci",
    "nvme": "vmware.nvme.controller",
}

# PCI Express slots for pvscsi, vmxnet3 and SATA; VMware's products write these into every VMX since version 7
_BRIDGES: Final = (
    ("pciBridge0.present", "TRUE"),
    *(
        (f"pciBridge{n}.{key}", value)
        for n in range(4, 8)
        for key, value in (("present", "TRUE"), ("virtualDev", "pcieRootPort"), ("functions", "8"))
    ),
)

_FILE_NAME = re.compile(r"(ide|scsi|sata|nvme)([0-9]{1,2}):([0-9]{1,2})\.filename", re.ASCII)
_ETHERNET = re.compile(r"ethernet([0-9]{1,2})\.present", re.ASCII)


def vmx_of(envelope: Envelope, disk_files: Mapping[str, str]) -> bytes:
    """The VMX of an imported VM. `disk_files` gives for each attached disk's id the bare name of its file.

    Raises MalformedError "disk name not confined", UsageError for a disk without a name.
    """
    hardware = envelope.hardware
    lines: list[tuple[str, str]] = [
        (".encoding", "UTF-8"),
        ("config.version", "8"),
        ("virtualHW.version", str(_hardware_version(hardware.system_type))),
        *_BRIDGES,
        ("displayName", envelope.name),
        ("guestOS", guests.vmx_name(envelope.os_type, envelope.os_id)),
        ("firmware", hardware.firmware),
        ("memsize", str(hardware.memory_mib)),
        ("numvcpus", str(hardware.cpus)),
    ]
    for controller in hardware.controllers:
        lines += _controller_lines(controller)
    for attachment in hardware.attachments:
        lines += _attachment_lines(attachment, hardware, disk_files)
    for number, nic in enumerate(hardware.nics):
        lines += _nic_lines(number, nic)
    vmx = Dictionary(())
    for key, value in lines:
        vmx = vmx.set(key, value)
    return bytes(vmx)


def envelope_of(vmx: Dictionary, disks: Mapping[str, tuple[File, int]]) -> Envelope:
    """The envelope of a VM to be exported.

    `disks` has, for each disk's `fileName` in the VMX, the streamOptimized file that goes into the export and
    the disk's capacity in bytes. Raises UsageError for a `.vmdk` that the VMX attaches and `disks` lacks, and
    for numbers in the VMX that are none; MalformedError "bad controller".
    """
    controllers, attachments, files, exported = _drives(vmx, disks)
    version = vmx.get("virtualHW.version", str(_HARDWARE_VERSION))
    hardware = Hardware(
        cpus=_number(vmx, "numvcpus", 1),
        memory_mib=_number(vmx, "memsize", 1024),
        controllers=controllers,
        attachments=attachments,
        nics=_nics(vmx),
        firmware="efi" if vmx.get("firmware", "bios").lower() == "efi" else "bios",
        system_type=f"vmx-{int(version):02}" if version.isdecimal() and version.isascii() else "",
    )
    os_type = guests.os_type(vmx.get("guestOS", "other"))
    return Envelope(_words(vmx.get("displayName", "")), files, exported, hardware, _cim(os_type), os_type)


def _hardware_version(system_type: str) -> int:
    match = re.search(r"\bvmx-([0-9]{1,2})\b", system_type, re.ASCII)
    return int(match[1]) if match else _HARDWARE_VERSION


def _controller_lines(controller: Controller) -> list[tuple[str, str]]:
    if controller.kind == "ide":  # always there
        return []
    name = f"{controller.kind}{controller.bus}"
    lines = [(f"{name}.present", "TRUE")]
    if controller.kind == "scsi":
        lines.append((f"{name}.virtualDev", _CONTROLLERS.get(controller.subtype.lower(), "lsilogic")))
    return lines


def _attachment_lines(
    attachment: Attachment, hardware: Hardware, disk_files: Mapping[str, str]
) -> list[tuple[str, str]]:
    controller = next(c for c in hardware.controllers if c.instance == attachment.controller)
    if attachment.disk_id not in disk_files:
        raise UsageError(f"no file for the disk {attachment.disk_id}")
    file_name = confine(disk_files[attachment.disk_id], "disk")
    name = f"{controller.kind}{controller.bus}:{attachment.unit}"
    return [(f"{name}.present", "TRUE"), (f"{name}.fileName", file_name)]


def _nic_lines(number: int, nic: Nic) -> list[tuple[str, str]]:
    name = f"ethernet{number}"
    lines = [
        (f"{name}.present", "TRUE"),
        (f"{name}.virtualDev", _NICS.get(nic.subtype.lower(), "e1000")),
        (f"{name}.addressType", "generated"),
        (f"{name}.connectionType", "nat"),  # Workstation's; ESXi goes by networkName
    ]
    return [*lines, (f"{name}.networkName", nic.network)] if nic.network else lines


def _drives(
    vmx: Dictionary, disks: Mapping[str, tuple[File, int]]
) -> tuple[tuple[Controller, ...], tuple[Attachment, ...], tuple[File, ...], tuple[Disk, ...]]:
    controllers: dict[tuple[ControllerKind, int], Controller] = {}
    attachments: list[Attachment] = []
    files: list[File] = []
    exported: list[Disk] = []
    for key, file_name in vmx.items():
        match = _FILE_NAME.fullmatch(key.lower())
        if match is None or not _is_disk(vmx, key, file_name, disks):
            continue
        if file_name not in disks:
            raise UsageError(f"the VMX attaches {file_name}, which is not among the disks to export")
        kind, bus, unit = _place(match)
        if (kind, bus) not in controllers:
            subtype = _subtype(vmx, kind, bus)
            controllers[kind, bus] = Controller(str(len(controllers) + 3), kind, bus, subtype)
        file, capacity = disks[file_name]
        disk = Disk(f"vmdisk{len(exported) + 1}", file.id, capacity, STREAM_OPTIMIZED)
        files.append(file)
        exported.append(disk)
        attachments.append(Attachment(controllers[kind, bus].instance, unit, disk.id))
    return tuple(controllers.values()), tuple(attachments), tuple(files), tuple(exported)


def _place(match: re.Match[str]) -> tuple[ControllerKind, int, int]:
    for kind in BUSES:
        if kind == match[1] and int(match[2]) < BUSES[kind] and int(match[3]) < UNITS[kind]:
            return kind, int(match[2]), int(match[3])
    raise MalformedError("bad controller", match[0])


def _is_disk(vmx: Dictionary, key: str, file_name: str, disks: Mapping[str, tuple[File, int]]) -> bool:
    device = key.rpartition(".")[0]
    if vmx.get(f"{device}.present", "TRUE").upper() != "TRUE":
        return False
    kind = vmx.get(f"{device}.deviceType", "disk").lower()
    return "disk" in kind and (file_name in disks or file_name.lower().endswith(".vmdk"))


def _subtype(vmx: Dictionary, kind: ControllerKind, bus: int) -> str:
    device = vmx.get(f"{kind}{bus}.virtualDev", "").lower()
    return _CONTROLLERS_BACK.get(device, _SUBTYPES[kind]) if kind == "scsi" else _SUBTYPES[kind]


def _nics(vmx: Dictionary) -> tuple[Nic, ...]:
    numbers = sorted(
        int(match[1])
        for key, value in vmx.items()
        if (match := _ETHERNET.fullmatch(key.lower())) and value.upper() == "TRUE"
    )
    return tuple(_nic(vmx, f"ethernet{number}") for number in numbers)


def _nic(vmx: Dictionary, name: str) -> Nic:
    model = _NICS_BACK.get(vmx.get(f"{name}.virtualDev", "").lower(), "E1000")
    network = vmx.get(f"{name}.networkName") or vmx.get(f"{name}.connectionType") or "bridged"
    return Nic(model, _words(network))


def _number(vmx: Dictionary, key: str, default: int) -> int:
    text = vmx.get(key, str(default))
    if not re.fullmatch(r"[1-9][0-9]{0,7}", text, re.ASCII):
        raise UsageError(f"{key} is {text[:20]!r} in the VMX, not a number")
    return int(text)


def _words(text: str) -> str:
    """`text` with its white space made single blanks: XML does not keep it otherwise."""
    return " ".join(text.split())


def _cim(os_type: str) -> int:
    linux = any(word in os_type.lower() for word in ("linux", "ubuntu", "debian", "rhel", "centos", "sles"))
    wide = "64" in os_type
    return (101 if wide else 36) if linux else (102 if wide else 1)
