"""The disk that an image in memory holds, for tests of its format."""

from __future__ import annotations

from ioflt.format.mapping import Image, Kind, Read, exactly


def reading(data: bytes | bytearray) -> Read:
    """`read` over these bytes."""
    return lambda offset, length: bytes(data[offset : offset + length])


def content(image: Image, read: Read) -> bytes:
    """All bytes; what is absent as zeros."""
    found = bytearray(image.capacity)
    at = 0
    for start, length, kind, place in image.runs(0, image.capacity):
        assert start == at
        at += length
        assert length > 0
        if kind is Kind.DATA:
            found[start:at] = exactly(read, place, length)
        elif kind is Kind.PACKED:
            first, data = image.unpack(start)
            found[start:at] = data[start - first : at - first]
    assert at == image.capacity
    return bytes(found)
