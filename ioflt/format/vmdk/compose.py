"""The text of a new VMDK descriptor: one extent, no parent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

_HEADS: Final = 255
#: Of a descriptor's entry: its key, and a value that stands between quotes as it is.
_ENTRY: Final = re.compile(r'[A-Za-z0-9._]+=[^"|#\\\x00-\x1f\x7f]*', re.ASCII)
_SECTORS: Final = 63


def compose(
    kind: Literal["vmfs", "streamOptimized"],
    *,
    capacity: int,
    file_name: str,
    cid: int,
    adapter: str = "lsilogic",
    ddb: Mapping[str, str] | None = None,
) -> bytes:
    """A descriptor that `descriptor.parse` reads, for a disk of `capacity` bytes (a multiple of 512).

    `file_name` is a confined name (`descriptor.confine`); in a streamOptimized file it is the file's own.
    `ddb`: entries of another descriptor, which this one has instead of its own; what could not be written
    back is left out.
    """
    sectors = capacity // 512
    extent = (
        f'RW {sectors} VMFS "{file_name}"' if kind == "vmfs" else f'RDONLY {sectors} SPARSE "{file_name}"'
    )
    cylinders = max(1, min(sectors // (_HEADS * _SECTORS), 0xFFFF))
    if ddb is None:
        ddb = {
            "adapterType": adapter,
            "geometry.cylinders": str(cylinders),
            "geometry.heads": str(_HEADS),
            "geometry.sectors": str(_SECTORS),
            "virtualHWVersion": "10",
        }
    entries = {key: value for key, value in ddb.items() if _ENTRY.fullmatch(f"{key}={value}")}
    if kind == "vmfs":
        entries["thinProvisioned"] = "1"
    lines = "".join(f'ddb.{key} = "{value}"\n' for key, value in sorted(entries.items()))
    text = f"""# Disk DescriptorFile
version=1
encoding="UTF-8"
CID={cid:08x}
parentCID=ffffffff
createType="{kind}"

# Extent description
{extent}

# The Disk Data Base
{lines}"""
    return text.encode("utf-8", "surrogateescape")
