"""Descriptors and images of small disks, for tests of what reads them."""

from __future__ import annotations

from ioflt.format.qcow2.writer import Writer


def text(*extents: str, kind: str = "vmfs", cid: int = 1, parent: tuple[str, int] | None = None) -> bytes:
    """A descriptor. `parent`: its file, and its CID."""
    lines = ["# Disk DescriptorFile", "version=1", f"CID={cid:08x}"]
    lines.append(f"parentCID={0xFFFFFFFF if parent is None else parent[1]:08x}")
    lines.append(f'createType="{kind}"')
    if parent is not None:
        lines.append(f'parentFileNameHint="{parent[0]}"')
    return ("\n".join((*lines, *extents)) + "\n").encode()


def qcow2(
    capacity: int, *pieces: tuple[int, bytes], backing: str | None = None, backing_format: str = "qcow2"
) -> bytes:
    """An image; pieces are of whole clusters."""
    made = bytearray()

    def put(position: int, data: bytes | bytearray | memoryview) -> None:
        made.extend(bytes(max(0, position + len(data) - len(made))))
        made[position : position + len(data)] = data

    writer = Writer(put, capacity, backing=backing, backing_format=backing_format)  # type: ignore[arg-type]
    for offset, data in pieces:
        writer.write(offset, data)
    writer.finish()
    return bytes(made)
