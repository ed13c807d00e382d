"""Descriptors of raw device mappings: what is named there is a device, not a file of the VM."""

from __future__ import annotations

import re
from typing import Final

from ioflt.errors import MalformedError
from ioflt.format import dictionary
from ioflt.format.vmdk import descriptor

#: `createType` of RDMs as ESXi and its documentation spell them, and of Workstation's physical disks.
CREATE_TYPES: Final = frozenset(
    kind.lower()
    for kind in (
        "vmfsRDM",
        "vmfsRDMP",
        "vmfsRaw",
        "vmfsRawDeviceMap",
        "vmfsPassthroughRawDeviceMap",
        "fullDevice",
        "partitionedDevice",
    )
)
#: Kinds of extents that are devices, or map one.
EXTENTS: Final = ("VMFSRDM", "VMFSRDMP", "VMFSRAW")

_EXTENT = re.compile(rb"\s*(?:RW|RDONLY|NOACCESS)\s+[0-9]+\s+(\w+)", re.ASCII)


def kind(data: bytes) -> str | None:
    """What makes the descriptor in `data` that of a raw device; None for any other file.

    Looser than `descriptor.parse`, which knows none of these: it is to name what is refused.
    """
    try:
        text = dictionary.parse(descriptor.text_of(data))
    except MalformedError:
        return None
    create_type = text.get("createType", "")
    if create_type.lower() in CREATE_TYPES:
        return create_type
    found = (_EXTENT.match(line.raw) for line in text.lines)
    kinds = (match[1].decode("ascii").upper() for match in found if match is not None)
    return next((one for one in kinds if one in EXTENTS), None)
