"""The header of a qcow2 image with its extensions and the name of its backing file, read strictly.

Source: QEMU's docs/interop/qcow2.txt.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from ioflt.errors import MalformedError, UnsupportedError
from ioflt.format.mapping import Read

MAGIC: Final = b"QFI\xfb"

#: Bytes from the start of a file that `parse` may need: the largest cluster.
MAX_SIZE: Final = 2 << 20

#: Largest L1 table, bytes: QEMU's own limit.
MAX_L1: Final = 32 << 20

#: Where offsets stand in an L1 or L2 entry: bits 9 to 55.
OFFSET_MASK: Final = 0x00FFFFFFFFFFFE00

#: In an L1 or L2 entry: exactly one reference.
COPIED: Final = 1 << 63

#: Bytes of the header that the writer makes, without extensions: version 3's first form.
LENGTH: Final = 104

_USUAL: Final = 64 << 10  # bytes of a cluster
_HEAD: Final = struct.Struct(">4sIQIIQIIQQIIQ")
_MORE: Final = struct.Struct(">QQQII")
_EXTENSION: Final = struct.Struct(">II")
_BACKING_FORMAT: Final = 0xE2792ACA
_BITMAPS: Final = 0x23852875
_MAX_NAME: Final = 1023
_FORMATS: Final = frozenset({"raw", "qcow2", "vmdk"})
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED = (1 << bit for bit in range(5))


@dataclass(frozen=True, slots=True)
class Header:
    """`size` is the disk's, bytes. `backing` is a path relative to the image's directory, `backing_format`
    None where the image does not say it. `snapshots`, `bitmaps`: how many it has, of which nothing is read.
    """

    version: int
    cluster_bits: int
    size: int
    l1_size: int
    l1_offset: int
    backing: str | None
    backing_format: str | None
    snapshots: int = 0
    bitmaps: int = 0

    @property
    def cluster(self) -> int:
        """Bytes of a cluster."""
        return 1 << self.cluster_bits


def is_qcow2(first_bytes: bytes) -> bool:
    """Whether a file that starts so says it is a qcow2 image."""
    return first_bytes[:4] == MAGIC


def load(read: Read) -> Header:
    """The header of an image, of which no more is read than its first cluster. Raises as `parse`."""
    first = bytes(read(0, _USUAL))
    bits = int.from_bytes(first[20:24], "big")
    return parse(first if bits <= 16 else bytes(read(0, MAX_SIZE)))


def parse(data: bytes) -> Header:
    """The header at the start of `data`: of the whole first cluster, or of the whole file.

    Raises MalformedError: "bad magic", "truncated", "bad cluster size", "bad disk size", "bad L1 table",
    "bad header length", "bad extension", "backing name not confined", "marked corrupt", "marked dirty";
    UnsupportedError: "unknown version", "encrypted", "external data file", "extended L2 entries",
    "unknown compression", "unknown feature", "unknown backing format".
    """
    if not is_qcow2(data):
        raise MalformedError("bad magic", "not QFI")
    if len(data) < _HEAD.size:
        raise MalformedError("truncated", f"header of {len(data)} bytes")
    (
        _,
        version,
        name_offset,
        name_size,
        bits,
        size,
        crypt,
        l1_size,
        l1_offset,
        _refcounts,
        _refcount_clusters,
        snapshots,
        _snapshots_offset,
    ) = _HEAD.unpack_from(data)
    if version not in (2, 3):
        raise UnsupportedError("unknown version", str(version))
    if not 9 <= bits <= 21:
        raise MalformedError("bad cluster size", f"2^{bits}")
    if crypt:
        raise UnsupportedError("encrypted", f"by method {crypt} of qcow2 itself")
    if size % 512 or size >= 1 << 63:
        raise MalformedError("bad disk size", f"{size} bytes")
    length = _HEAD.size if version == 2 else _features(data)
    _check_l1(size, bits, l1_size, l1_offset)
    area = data[: 1 << bits]
    backing_format, bitmaps = _extensions(area, length, name_offset)
    backing = _backing(area, name_offset, name_size) if name_offset else None
    known = backing_format if backing else None
    return Header(version, bits, size, l1_size, l1_offset, backing, known, snapshots, bitmaps)


def _features(data: bytes) -> int:
    """The header's length, when nothing in it is asked for that is not known."""
    if len(data) < _HEAD.size + _MORE.size:
        raise MalformedError("truncated", f"header of {len(data)} bytes")
    length: int
    incompatible, _compatible, _autoclear, _order, length = _MORE.unpack_from(data, _HEAD.size)
    if length < LENGTH or length % 8 or length > len(data):
        raise MalformedError("bad header length", str(length))
    if incompatible & _CORRUPT:
        raise MalformedError("marked corrupt", "qemu-img check finds out more")
    if incompatible & _DIRTY:
        raise MalformedError("marked dirty", "it was not closed; qemu-img check -r all repairs it")
    if incompatible & _DATA_FILE:
        raise UnsupportedError("external data file")
    if incompatible & _EXTENDED:
        raise UnsupportedError("extended L2 entries")
    if incompatible >> 5:
        raise UnsupportedError("unknown feature", f"{incompatible:#x}")
    if length > LENGTH and data[LENGTH]:
        raise UnsupportedError("unknown compression", "zstd" if data[LENGTH] == 1 else str(data[LENGTH]))
    return length


def _check_l1(size: int, bits: int, l1_size: int, l1_offset: int) -> None:
    needed = l1_entries(size, bits)
    if needed * 8 > MAX_L1 or l1_size * 8 > MAX_L1:
        raise MalformedError("bad L1 table", f"{max(needed, l1_size)} entries")
    if l1_size < needed or l1_offset % (1 << bits) or (needed and not l1_offset) or l1_offset >= 1 << 56:
        raise MalformedError("bad L1 table", f"{l1_size} entries at {l1_offset}, {needed} needed")


def l1_entries(size: int, bits: int) -> int:
    """How many entries the L1 table of a disk of `size` bytes has."""
    return -(-size // (1 << bits + bits - 3))


def _extensions(area: bytes, start: int, name_offset: int) -> tuple[str | None, int]:
    """The backing file's format, and how many bitmaps there are, if extensions say it."""
    end = name_offset if start <= name_offset <= len(area) else len(area)
    found, bitmaps = None, 0
    while start + _EXTENSION.size <= end:
        kind, length = _EXTENSION.unpack_from(area, start)
        if kind == 0:
            return found, bitmaps
        start += _EXTENSION.size
        if length > end - start:
            raise MalformedError("bad extension", f"{kind:#x} of {length} bytes")
        if kind == _BACKING_FORMAT:
            found = area[start : start + length].decode("ascii", "backslashreplace")
            if found not in _FORMATS:
                raise UnsupportedError("unknown backing format", repr(found[:20]))
        if kind == _BITMAPS:
            bitmaps = int.from_bytes(area[start : start + min(length, 4)], "big")
        start += -(-length // 8) * 8
    return found, bitmaps


def _backing(area: bytes, offset: int, size: int) -> str:
    name = area[offset : offset + size]
    if not 0 < size <= _MAX_NAME or len(name) != size:
        raise MalformedError("backing name not confined", f"{size} bytes at {offset}")
    return confine(name.decode("utf-8", "surrogateescape"))


def confine(name: str) -> str:
    """`name`, if it is a relative path and nothing else to QEMU. Raises MalformedError
    "backing name not confined".

    Whether it stays inside the home is for who knows where the image lies.
    """
    first = name.partition("/")[0]
    odd = any(ord(char) < 32 or ord(char) == 127 for char in name)
    if not first or ":" in first or odd or name.endswith("/"):  # absolute, "json:", "nbd:"
        raise MalformedError("backing name not confined", repr(name[:60]))
    return name


def pack(header: Header, refcount_offset: int, refcount_clusters: int) -> bytes:
    """The first bytes of a version 3 image without snapshots: header, extensions, backing name."""
    tail = b""
    if header.backing_format is not None:
        text = header.backing_format.encode()
        tail += _EXTENSION.pack(_BACKING_FORMAT, len(text)) + text.ljust(-(-len(text) // 8) * 8, b"\0")
    tail += _EXTENSION.pack(0, 0)
    name = b"" if header.backing is None else header.backing.encode("utf-8", "surrogateescape")
    head = _HEAD.pack(
        MAGIC,
        3,
        LENGTH + len(tail) if name else 0,
        len(name),
        header.cluster_bits,
        header.size,
        0,
        header.l1_size,
        header.l1_offset,
        refcount_offset,
        refcount_clusters,
        0,
        0,
    )
    return head + _MORE.pack(0, 0, 0, 4, LENGTH) + tail + name
