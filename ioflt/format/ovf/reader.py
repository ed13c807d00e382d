"""OVF 1.x envelope → `Envelope`: strict about names, numbers and references, and passes over the unknown."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, TypeVar
from xml.etree.ElementTree import Element, ParseError  # types only; defusedxml parses

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from ioflt.errors import MalformedError, UnsupportedError
from ioflt.format.ovf.model import (
    BUSES,
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

#: Longest envelope accepted, in bytes. Real ones have tens of KiB; parsed, hostile ones take a hundredfold.
MAX_SIZE: Final = 2 << 20

OVF: Final = "http://schemas.dmtf.org/ovf/envelope/1"
RASD: Final = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
VSSD: Final = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
VMW: Final = "http://www.vmware.com/schema/ovf"

_Named = TypeVar("_Named", File, Disk)

_MAX_BYTES: Final = (1 << 63) - 1
_MAX_CPUS: Final = 1024
_MAX_MEMORY_MIB: Final = 1 << 26

_UNITS_TEXT = re.compile(r"byte(?:\*(2|10)\^([0-9]{1,2}))?", re.ASCII)
_UNITS_WORD: Final = {"": 1, "kilobytes": 1 << 10, "megabytes": 1 << 20, "gigabytes": 1 << 30}
_DISK_RESOURCE = re.compile(r"(?:ovf:)?/disk/([^/]+)")


class _Type(StrEnum):
    """rasd:ResourceType, as far as it is read."""

    CPU = "3"
    MEMORY = "4"
    IDE = "5"
    SCSI = "6"
    ETHERNET = "10"
    DISK = "17"
    STORAGE = "20"


def parse(data: bytes) -> Envelope:
    """The VM in `data`.

    Raises MalformedError: "too large", "bad XML", "XML entity or DTD", "not an envelope",
    "no virtual system", "missing attribute", "duplicate id", "bad number", "bad units", "capacity overflow",
    "unknown file reference", "unknown disk reference", "unknown controller", "bad controller", "bad unit",
    "duplicate attachment", "file name not confined"; UnsupportedError: "unknown OVF version",
    "more than one virtual system".
    """
    root = _root(data)
    files = _unique([_file(element) for element in root.iterfind(f"{{{OVF}}}References/{{{OVF}}}File")])
    known = {file.id for file in files}
    disks = _unique(
        [_disk(element, known) for element in root.iterfind(f"{{{OVF}}}DiskSection/{{{OVF}}}Disk")]
    )
    system = _system(root)
    os_section = system.find(f"{{{OVF}}}OperatingSystemSection")
    os_id, os_type = 1, None
    if os_section is not None:
        os_id = _number(os_section.get(f"{{{OVF}}}id", "1"), 0xFFFF)
        os_type = os_section.get(f"{{{VMW}}}osType")
    name = system.findtext(f"{{{OVF}}}Name") or system.get(f"{{{OVF}}}id") or ""
    hardware = _hardware(system, {disk.id for disk in disks})
    return Envelope(name.strip(), files, disks, hardware, os_id, os_type)


def _root(data: bytes) -> Element:
    if len(data) > MAX_SIZE:
        raise MalformedError("too large", f"envelope of {len(data)} bytes, at most {MAX_SIZE}")
    try:
        root: Element = fromstring(data.rstrip(b"\0"), forbid_dtd=True)
    except DefusedXmlException:
        raise MalformedError("XML entity or DTD") from None
    except (ParseError, ValueError, LookupError) as error:
        raise MalformedError("bad XML", str(error)[:100]) from None
    if root.tag != f"{{{OVF}}}Envelope":
        if re.fullmatch(r"\{http://schemas\.dmtf\.org/ovf/envelope/.*\}Envelope", root.tag):
            raise UnsupportedError("unknown OVF version", root.tag[:80])
        raise MalformedError("not an envelope", root.tag[:80])
    return root


def _system(root: Element) -> Element:
    if root.find(f"{{{OVF}}}VirtualSystemCollection") is not None:
        raise UnsupportedError("more than one virtual system")
    systems = root.findall(f"{{{OVF}}}VirtualSystem")
    if not systems:
        raise MalformedError("no virtual system")
    if len(systems) > 1:
        raise UnsupportedError("more than one virtual system")
    return systems[0]


def _file(element: Element) -> File:
    href = confine(_attribute(element, "href"), "file")
    size, chunk = element.get(f"{{{OVF}}}size"), element.get(f"{{{OVF}}}chunkSize")
    return File(
        _attribute(element, "id"),
        href,
        None if size is None else _number(size),
        None if chunk is None else _number(chunk),
    )


def _disk(element: Element, files: set[str]) -> Disk:
    file_id = element.get(f"{{{OVF}}}fileRef")
    if file_id is not None and file_id not in files:
        raise MalformedError("unknown file reference", repr(file_id[:40]))
    units = element.get(f"{{{OVF}}}capacityAllocationUnits", "byte")
    capacity = _number(_attribute(element, "capacity")) * _multiplier(units)
    if capacity > _MAX_BYTES:
        raise MalformedError("capacity overflow")
    return Disk(_attribute(element, "diskId"), file_id, capacity, element.get(f"{{{OVF}}}format", ""))


def _hardware(system: Element, disks: set[str]) -> Hardware:
    section = system.find(f"{{{OVF}}}VirtualHardwareSection")
    if section is None:
        return Hardware(cpus=1, memory_mib=1024)
    # an Item for one deployment configuration only is an alternative to what the others say
    items = [i for i in section.iterfind(f"{{{OVF}}}Item") if i.get(f"{{{OVF}}}configuration") is None]
    controllers = _controllers(items)
    config = {
        element.get(f"{{{VMW}}}key"): element.get(f"{{{VMW}}}value")
        for element in section.iterfind(f"{{{VMW}}}Config")
    }
    return Hardware(
        cpus=_cpus(items),
        memory_mib=_memory(items),
        controllers=controllers,
        attachments=_attachments(items, controllers, disks),
        nics=tuple(
            Nic(_rasd(item, "ResourceSubType"), _rasd(item, "Connection"))
            for item in _of(items, _Type.ETHERNET)
        ),
        firmware="efi" if config.get("firmware") == "efi" else "bios",
        system_type=(section.findtext(f"{{{OVF}}}System/{{{VSSD}}}VirtualSystemType") or "").strip(),
    )


def _cpus(items: list[Element]) -> int:
    found = _of(items, _Type.CPU)
    return max(1, _number(_rasd(found[0], "VirtualQuantity"), _MAX_CPUS)) if found else 1


def _memory(items: list[Element]) -> int:
    found = _of(items, _Type.MEMORY)
    if not found:
        return 1024
    units = _rasd(found[0], "AllocationUnits") or "byte * 2^20"
    mib = (_number(_rasd(found[0], "VirtualQuantity")) * _multiplier(units)) >> 20
    if not 1 <= mib <= _MAX_MEMORY_MIB:
        raise MalformedError("bad number", f"memory of {mib} MiB")
    return mib


def _controllers(items: list[Element]) -> tuple[Controller, ...]:
    controllers: list[Controller] = []
    for item in items:
        kind = _kind(item)
        if kind is None:
            continue
        taken = {controller.bus for controller in controllers if controller.kind == kind}
        address = _rasd(item, "Address")
        bus = _number(address) if address else len(taken)
        if bus >= BUSES[kind] or bus in taken:
            raise MalformedError("bad controller", f"{kind}{bus}")
        controllers.append(Controller(_rasd(item, "InstanceID"), kind, bus, _rasd(item, "ResourceSubType")))
    if len({controller.instance for controller in controllers}) != len(controllers):
        raise MalformedError("duplicate id", "of a controller")
    return tuple(controllers)


def _kind(item: Element) -> ControllerKind | None:
    match _rasd(item, "ResourceType"):
        case _Type.IDE:
            return "ide"
        case _Type.SCSI:
            return "scsi"
        case _Type.STORAGE:
            return "nvme" if "nvme" in _rasd(item, "ResourceSubType").lower() else "sata"
        case _:
            return None


def _attachments(
    items: list[Element], controllers: tuple[Controller, ...], disks: set[str]
) -> tuple[Attachment, ...]:
    kinds = {controller.instance: controller.kind for controller in controllers}
    taken: set[tuple[str, int]] = set()
    attachments = []
    for item in _of(items, _Type.DISK):
        parent, address = _rasd(item, "Parent"), _rasd(item, "AddressOnParent")
        if parent not in kinds:
            raise MalformedError("unknown controller", repr(parent[:20]))
        unit = _number(address) if address else 0
        if unit >= UNITS[kinds[parent]]:
            raise MalformedError("bad unit", f"{kinds[parent]} unit {unit}")
        if (parent, unit) in taken:
            raise MalformedError("duplicate attachment")
        taken.add((parent, unit))
        resource = _DISK_RESOURCE.fullmatch(_rasd(item, "HostResource"))
        if resource is None or resource[1] not in disks:
            raise MalformedError("unknown disk reference", repr(_rasd(item, "HostResource")[:40]))
        attachments.append(Attachment(parent, unit, resource[1]))
    return tuple(attachments)


def _of(items: list[Element], resource_type: _Type) -> list[Element]:
    return [item for item in items if _rasd(item, "ResourceType") == resource_type]


def _rasd(item: Element, name: str) -> str:
    return (item.findtext(f"{{{RASD}}}{name}") or "").strip()


def _attribute(element: Element, name: str) -> str:
    value = element.get(f"{{{OVF}}}{name}")
    if not value:
        raise MalformedError("missing attribute", name)
    return value


def _number(text: str, maximum: int = _MAX_BYTES) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text.strip(), re.ASCII) or int(text) > maximum:
        raise MalformedError("bad number", repr(text[:24]))
    return int(text)


def _multiplier(units: str) -> int:
    folded = "".join(units.split()).lower()
    match = _UNITS_TEXT.fullmatch(folded)
    if match is not None:
        return int(int(match[1] or 1) ** int(match[2] or 0))
    if folded not in _UNITS_WORD:
        raise MalformedError("bad units", repr(units[:30]))
    return _UNITS_WORD[folded]


def _unique(found: list[_Named]) -> tuple[_Named, ...]:
    if len({element.id for element in found}) != len(found):
        raise MalformedError("duplicate id")
    return tuple(found)
