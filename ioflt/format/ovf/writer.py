"""`Envelope` → OVF 1.1, as VMware's and other importers take it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from typing import Final

from ioflt.errors import UsageError
from ioflt.format.ovf.model import Controller, ControllerKind, Envelope, Hardware
from ioflt.format.ovf.reader import OVF, RASD, VMW, VSSD

_TYPES: Final[dict[ControllerKind, int]] = {"ide": 5, "scsi": 6, "sata": 20, "nvme": 20}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(envelope: Envelope) -> bytes:
    """The envelope's XML, UTF-8. `reader.parse` gives an equal envelope.

    Raises UsageError for text with characters that XML does not have.
    """
    return "\n".join(_lines(envelope)).encode() + b"\n"


def _lines(envelope: Envelope) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="UTF-8"?>'
    spaces = {"": OVF, ":ovf": OVF, ":rasd": RASD, ":vmw": VMW, ":vssd": VSSD}
    yield "<Envelope " + " ".join(f'xmlns{name}="{uri}"' for name, uri in spaces.items()) + ">"
    yield "  <References>"
    for file in envelope.files:
        size = "" if file.size is None else f' ovf:size="{file.size}"'
        chunk = "" if file.chunk_size is None else f' ovf:chunkSize="{file.chunk_size}"'
        yield f'    <File ovf:href="{_text(file.href)}" ovf:id="{_text(file.id)}"{size}{chunk}/>'
    yield "  </References>"
    yield "  <DiskSection>"
    yield "    <Info>Virtual disks</Info>"
    for disk in envelope.disks:
        ref = "" if disk.file_id is None else f' ovf:fileRef="{_text(disk.file_id)}"'
        yield (
            f'    <Disk ovf:capacity="{disk.capacity}" ovf:capacityAllocationUnits="byte"'
            f' ovf:diskId="{_text(disk.id)}"{ref} ovf:format="{_text(disk.format)}"/>'
        )
    yield "  </DiskSection>"
    yield from _networks(envelope.hardware)
    yield f'  <VirtualSystem ovf:id="{_text(envelope.name)}">'
    yield "    <Info>A virtual machine</Info>"
    yield f"    <Name>{_text(envelope.name)}</Name>"
    os_type = "" if envelope.os_type is None else f' vmw:osType="{_text(envelope.os_type)}"'
    yield f'    <OperatingSystemSection ovf:id="{envelope.os_id}"{os_type}>'
    yield "      <Info>The guest operating system</Info>"
    yield "    </OperatingSystemSection>"
    yield from _hardware(envelope)
    yield "  </VirtualSystem>"
    yield "</Envelope>"


def _networks(hardware: Hardware) -> Iterator[str]:
    names = sorted({nic.network for nic in hardware.nics})
    if not names:
        return
    yield "  <NetworkSection>"
    yield "    <Info>Networks</Info>"
    for name in names:
        yield f'    <Network ovf:name="{_text(name)}"/>'
    yield "  </NetworkSection>"


def _hardware(envelope: Envelope) -> Iterator[str]:
    hardware = envelope.hardware
    yield "    <VirtualHardwareSection>"
    yield "      <Info>Virtual hardware</Info>"
    yield "      <System>"
    yield "        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>"
    yield "        <vssd:InstanceID>0</vssd:InstanceID>"
    yield f"        <vssd:VirtualSystemIdentifier>{_text(envelope.name)}</vssd:VirtualSystemIdentifier>"
    yield f"        <vssd:VirtualSystemType>{_text(hardware.system_type)}</vssd:VirtualSystemType>"
    yield "      </System>"
    instances = {controller.instance for controller in hardware.controllers}
    free = (str(n) for n in range(1, 1 << 20) if str(n) not in instances)
    yield from _item(
        ElementName=f"{hardware.cpus} virtual CPU(s)",
        InstanceID=next(free),
        ResourceType="3",
        VirtualQuantity=str(hardware.cpus),
    )
    yield from _item(
        AllocationUnits="byte * 2^20",
        ElementName=f"{hardware.memory_mib}MB of memory",
        InstanceID=next(free),
        ResourceType="4",
        VirtualQuantity=str(hardware.memory_mib),
    )
    for controller in hardware.controllers:
        yield from _controller(controller)
    for number, attachment in enumerate(hardware.attachments, 1):
        yield from _item(
            AddressOnParent=str(attachment.unit),
            ElementName=f"Hard disk {number}",
            HostResource=f"ovf:/disk/{attachment.disk_id}",
            InstanceID=next(free),
            Parent=attachment.controller,
            ResourceType="17",
        )
    for number, nic in enumerate(hardware.nics, 1):
        yield from _item(
            AutomaticAllocation="true",
            Connection=nic.network,
            ElementName=f"Network adapter {number}",
            InstanceID=next(free),
            ResourceSubType=nic.subtype,
            ResourceType="10",
        )
    yield f'      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="{hardware.firmware}"/>'
    yield "    </VirtualHardwareSection>"


def _controller(controller: Controller) -> Iterator[str]:
    yield from _item(
        Address=str(controller.bus),
        ElementName=f"{controller.kind.upper()} controller {controller.bus}",
        InstanceID=controller.instance,
        ResourceSubType=controller.subtype,
        ResourceType=str(_TYPES[controller.kind]),
    )


def _item(**fields: str) -> Iterator[str]:
    """An Item; the schema wants its fields in alphabetical order, empty ones are left out."""
    yield "      <Item>"
    for name, value in sorted(fields.items()):
        if value:
            yield f"        <rasd:{name}>{_text(value)}</rasd:{name}>"
    yield "      </Item>"


def _text(value: str) -> str:
    bad = _NOT_XML.search(value)
    if bad:
        raise UsageError(f"the character U+{ord(bad[0]):04X} cannot be written in XML")
    return escape(value)
