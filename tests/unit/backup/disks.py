"""Descriptors and images of small disks, for tests of what reads them."""

from __future__ import annotations

import struct

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


def cowd(capacity: int, pieces: dict[int, bytes]) -> bytes:
    """A COWD extent with grains of a sector: the sectors that have bytes of their own, by number."""
    sectors = capacity // 512
    tables = -(-sectors // 4096)
    directory_sectors = -(-tables * 4 // 512)
    at = 4 + directory_sectors
    places = {number: at + index * 32 for index, number in enumerate(sorted({n // 4096 for n in pieces}))}
    at += 32 * len(places)
    entries = {number: [0] * 4096 for number in places}
    grains = bytearray()
    for number, data in pieces.items():
        entries[number // 4096][number % 4096] = at + len(grains) // 512
        grains += data
    head = struct.pack("<4s6I2I", b"COWD", 1, 3, sectors, 1, 4, tables, at + len(pieces), 0).ljust(
        2048, b"\0"
    )
    directory = struct.pack(f"<{tables}I", *(places.get(number, 0) for number in range(tables)))
    made = head + directory.ljust(directory_sectors * 512, b"\0")
    return made + b"".join(struct.pack("<4096I", *entries[number]) for number in places) + grains


def sesparse(capacity: int, pieces: dict[int, bytes | None]) -> bytes:
    """A seSparse extent: the grains of 4 KiB that it has, by number; None is a grain of zeros."""
    tables = -(-capacity // (4096 * 4096))
    directory_sectors = -(-tables * 8 // 512)
    used = {number: index for index, number in enumerate(sorted({n // 4096 for n in pieces}))}
    tables_at, count = 2 + directory_sectors, max(1, len(used))
    grains_at = tables_at + count * 64
    entries = [[0] * 4096 for _ in range(count)]
    grains = bytearray()
    for number, data in pieces.items():
        entry = 2 << 60
        if data is not None:
            place = len(grains) // 4096
            entry = 3 << 60 | (place & 0xFFF) << 48 | place >> 12
            grains += data
        entries[used[number // 4096]][number % 4096] = entry
    areas = (1, 1, 0, 0, 0, 0, 2, directory_sectors, tables_at, count * 64, 0, 0, 0, 0, grains_at)
    sizes = (0xCAFEBABE, 0x0000000200000001, capacity // 512, 8, 64, 0, 0, 0, 0, 0)
    made = struct.pack("<26Q", *sizes, *areas, len(grains) // 512).ljust(512, b"\0")
    made += struct.pack("<4Q", 0xCAFECAFE, 0, 0, 0).ljust(512, b"\0")
    names = (1 << 60 | used[number] if number in used else 0 for number in range(tables))
    made += struct.pack(f"<{tables}Q", *names).ljust(directory_sectors * 512, b"\0")
    return made + b"".join(struct.pack("<4096Q", *table) for table in entries) + grains
