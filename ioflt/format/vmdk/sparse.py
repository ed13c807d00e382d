"""The 512-byte header of hosted sparse extents ("KDMV"), and the descriptor that may follow it.

Source: libyal/libvmdk's format description; headers that QEMU and vCenter write.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from ioflt.errors import MalformedError, UnsupportedError
from ioflt.format.vmdk import descriptor

HEADER_SIZE: Final = 512
MAGIC: Final = b"KDMV"

#: Bytes from the start of a file that `descriptor_of` needs for every descriptor seen in the wild.
PROBE_SIZE: Final = 64 << 10

#: gd_offset of a stream whose grain directory comes at the end, behind a footer.
GD_AT_END: Final = (1 << 64) - 1

_LAYOUT: Final = struct.Struct("<4sIIQQQQIQQQB4sH")
_LINE_ENDS: Final = b"\n \r\n"  # mangled by a transfer in text mode
_MAX_SECTORS: Final = (1 << 63) // 512
_COMPRESSED: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class SparseHeader:
    """Sizes and offsets count 512-byte sectors. `descriptor_size` is 0 where no descriptor is embedded."""

    version: int
    flags: int
    capacity: int
    grain_size: int
    descriptor_offset: int
    descriptor_size: int
    entries_per_table: int
    gd_offset: int
    overhead: int
    unclean: bool
    compression: int

    @property
    def stream_optimized(self) -> bool:
        """Whether grains are compressed (DEFLATE), as streamOptimized has them."""
        return bool(self.flags & _COMPRESSED)


def parse(data: bytes) -> SparseHeader:
    """The header at the start of `data`.

    Raises MalformedError: "truncated", "bad magic", "line ends mangled", "bad grain size",
    "bad descriptor place", "sector count overflow"; UnsupportedError: "unknown version",
    "unknown compression".
    """
    if data[:4] != MAGIC:
        raise MalformedError("bad magic", "not KDMV")
    if len(data) < HEADER_SIZE:
        raise MalformedError("truncated", f"sparse header of {len(data)} bytes")
    (
        _,
        version,
        flags,
        capacity,
        grain,
        place,
        size,
        entries,
        _redundant,
        gd,
        overhead,
        unclean,
        ends,
        method,
    ) = _LAYOUT.unpack_from(data)
    if not 1 <= version <= 3:
        raise UnsupportedError("unknown version", str(version))
    if ends != _LINE_ENDS:
        raise MalformedError("line ends mangled")
    if method > 1:
        raise UnsupportedError("unknown compression", str(method))
    if grain & (grain - 1) or not 8 <= grain <= 1 << 16:
        raise MalformedError("bad grain size", str(grain))
    if capacity > _MAX_SECTORS:
        raise MalformedError("sector count overflow")
    if size and (place == 0 or size * 512 > descriptor.MAX_SIZE or place > _MAX_SECTORS):
        raise MalformedError("bad descriptor place", f"{size} sectors at {place}")
    return SparseHeader(
        version, flags, capacity, grain, place, size, entries, gd, overhead, bool(unclean), method
    )


def pack(header: SparseHeader) -> bytes:
    """The 512 bytes of a header without a redundant directory: `parse(pack(header)) == header`."""
    h = header
    place = (h.descriptor_offset, h.descriptor_size, h.entries_per_table, 0, h.gd_offset, h.overhead)
    fields = (h.version, h.flags, h.capacity, h.grain_size, *place, h.unclean, _LINE_ENDS, h.compression)
    return _LAYOUT.pack(MAGIC, *fields).ljust(HEADER_SIZE, b"\0")


def descriptor_of(first_bytes: bytes) -> bytes | None:
    """The descriptor's text in a file that starts so, without its padding: the file is one, or embeds one.

    None when there is none: an extent of its own, a flat extent, no VMDK. Raises MalformedError "truncated"
    when the embedded one goes beyond `first_bytes` (PROBE_SIZE suffices for real ones), and those of `parse`.
    """
    if descriptor.is_descriptor(first_bytes):
        return first_bytes.rstrip(b"\0")
    if first_bytes[:4] != MAGIC:
        return None
    header = parse(first_bytes)
    if header.descriptor_size == 0:
        return None
    start = header.descriptor_offset * 512
    text = first_bytes[start : start + header.descriptor_size * 512]
    end = text.find(b"\0")
    if end < 0 and len(text) < header.descriptor_size * 512:
        raise MalformedError("truncated", "embedded descriptor")
    return text if end < 0 else text[:end]
