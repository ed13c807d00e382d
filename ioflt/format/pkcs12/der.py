"""DER (ITU-T X.690): only what a PKCS#12 file needs, read strictly and without recursion.

A reader goes through a value in the order that its caller expects, so a file decides neither depth nor work.
Reasons: "not DER", "another structure", "data behind the end".
"""

from __future__ import annotations

from typing import Final

from ioflt.errors import MalformedError

INTEGER: Final = 0x02
OCTETS: Final = 0x04
NULL: Final = 0x05
OID: Final = 0x06
UTF8: Final = 0x0C
BMP: Final = 0x1E
SEQUENCE: Final = 0x30
SET: Final = 0x31
CONTEXT_0: Final = 0xA0

_MAX_LENGTH_BYTES = 3


def element(tag: int, *parts: bytes | memoryview) -> bytes:
    """One element with that content."""
    content = b"".join(parts)
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(length)]) + length + content


def integer(value: int) -> bytes:
    """An INTEGER that is not negative."""
    return element(INTEGER, value.to_bytes(value.bit_length() // 8 + 1))


def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER, with tag and length."""
    first, second, *others = map(int, dotted.split("."))
    content = b""
    for arc in (40 * first + second, *others):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | arc & 0x7F)
        content += bytes(reversed(groups))
    return element(OID, content)


class Reader:
    """The elements in `data`, one after the other."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self._at = 0

    @property
    def next_tag(self) -> int | None:
        """The tag of the next element; None at the end."""
        return self._data[self._at] if self._at < len(self._data) else None

    def content(self, tag: int) -> memoryview:
        """The content of the next element, which has that tag."""
        found, start, end = self._next()
        if found != tag:
            raise MalformedError("another structure", f"tag {found:#04x} where {tag:#04x} is expected")
        self._at = end
        return self._data[start:end]

    def enter(self, tag: int) -> Reader:
        """A reader of what is in the next element, which has that tag."""
        return Reader(self.content(tag))

    def whole(self) -> bytes:
        """The next element, whatever it is, with tag and length."""
        begin = self._at
        self._at = self._next()[2]
        return bytes(self._data[begin : self._at])

    def integer(self) -> int:
        """The next element, an INTEGER of at most 8 bytes that is not negative."""
        content = self.content(INTEGER)
        if not 1 <= len(content) <= 8 or content[0] & 0x80:
            raise MalformedError("not DER", "an integer that is negative or absurd")
        if len(content) > 1 and content[0] == 0 and not content[1] & 0x80:
            raise MalformedError("not DER", "an integer that is not minimal")
        return int.from_bytes(content)

    def end(self) -> None:
        """Nothing may follow."""
        if self._at != len(self._data):
            raise MalformedError("data behind the end", f"{len(self._data) - self._at} bytes")

    def _next(self) -> tuple[int, int, int]:
        """Tag, and where its content starts and ends."""
        data, at = self._data, self._at
        if at + 2 > len(data):
            raise MalformedError("not DER", "cut short")
        tag, length, start = data[at], data[at + 1], at + 2
        if tag & 0x1F == 0x1F:
            raise MalformedError("not DER", "a long tag")
        if length >= 0x80:
            count = length & 0x7F
            if not 1 <= count <= _MAX_LENGTH_BYTES:
                raise MalformedError("not DER", "an indefinite or absurd length")
            start += count
            length = int.from_bytes(data[at + 2 : start])
            if length < 0x80 or length >> 8 * (count - 1) == 0:
                raise MalformedError("not DER", "a length that is not minimal")
        if start + length > len(data):
            raise MalformedError("not DER", "cut short")
        return tag, start, start + length
