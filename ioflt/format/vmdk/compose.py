"""The text of a new VMDK descriptor: one extent, no parent."""

from __future__ import annotations

from typing import Final, Literal

_HEADS: Final = 255
_SECTORS: Final = 63


def compose(
    kind: Literal["vmfs", "streamOptimized"],
    *,
    capacity: int,
    file_name: str,
    cid: int,
    adapter: str = "lsilogic",
) -> bytes:
    """A descriptor that `descriptor.parse` reads, for a disk of `capacity` bytes (a multiple of 512).

    `file_name` is a confined name (`descriptor.confine`); in a streamOptimized file it is the file's own.
    """
    sectors = capacity // 512
    extent = (
        f'RW {sectors} VMFS "{file_name}"' if kind == "vmfs" else f'RDONLY {sectors} SPARSE "{file_name}"'
    )
    thin = 'ddb.thinProvisioned = "1"\n' if kind == "vmfs" else ""
    cylinders = max(1, min(sectors // (_HEADS * _SECTORS), 0xFFFF))
    text = f"""# Disk DescriptorFile
version=1
encoding="UTF-8"
CID={cid:08x}
parentCID=ffffffff
createType="{kind}"

# Extent description
{extent}

# The Disk Data Base
ddb.adapterType = "{adapter}"
ddb.geometry.cylinders = "{cylinders}"
ddb.geometry.heads = "{_HEADS}"
ddb.geometry.sectors = "{_SECTORS}"
{thin}ddb.virtualHWVersion = "10"
"""
    return text.encode("utf-8", "surrogateescape")
