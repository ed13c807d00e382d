"""TTLV: tag, type, length, value, padding. Bytes ↔ `Item`, strict both ways.

Invariants that the tests hold: any bytes give an Item or ProtocolError, never anything else;
`write(parse(x)) == x`.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, TypeAlias

import msgspec

from ioflt.crypto.secret import Secret
from ioflt.wire.frame import LocalProtocolError, RemoteProtocolError
from ioflt.wire.kmip.tags import TAGS, Tag

#: Longest item, header included. A batch of 64 keys is below 32 KiB.
MAX_SIZE: Final = 1 << 20

#: Structures around an item.
MAX_DEPTH: Final = 32

HEADER_SIZE: Final = 8

#: Byte strings with these tags become a `Secret`: wiped when dropped, never shown.
SECRET_TAGS: Final = frozenset((Tag.KEY, Tag.KEY_MATERIAL, Tag.KEY_VALUE))


class Type(IntEnum):
    """Item types. A BIG_INTEGER stays bytes: two's complement, big endian, of a length that is kept."""

    STRUCTURE = 1
    INTEGER = 2
    LONG_INTEGER = 3
    BIG_INTEGER = 4
    ENUMERATION = 5
    BOOLEAN = 6
    TEXT_STRING = 7
    BYTE_STRING = 8
    DATE_TIME = 9
    INTERVAL = 10
    DATE_TIME_EXTENDED = 11


Value: TypeAlias = "tuple[Item, ...] | int | bool | str | bytes | Secret"


class ProtocolError(RemoteProtocolError):
    """What came is not KMIP. `reason` is short and stable: test vectors name it. No value is quoted."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"not KMIP: {reason} ({detail})" if detail else f"not KMIP: {reason}")
        self.reason = reason


class Item(msgspec.Struct, frozen=True, eq=True, gc=False):
    """One item. Its repr names tag and type only: a value may be a key.

    `gc=False`: what cannot change makes no cycles, and the collector's looks took a fifth of the time.
    """

    tag: int
    type: int
    value: Value

    @property
    def name(self) -> str:
        """The tag's name, or its number."""
        return tag_name(self.tag)

    def __repr__(self) -> str:
        if isinstance(self.value, tuple):
            return f"<{self.name} {list(self.value)!r}>"
        return f"<{self.name} {type_name(self.type)}>"


def tag_name(tag: int) -> str:
    """The name of a tag, hexadecimal where there is none."""
    return TAGS.get(tag) or f"0x{tag:06x}"


def type_name(kind: int) -> str:
    """TEXT_STRING → TextString."""
    return _TYPE_NAMES.get(kind) or f"type {kind}"


_TYPE_NAMES: Final = {int(kind): "".join(word.capitalize() for word in kind.name.split("_")) for kind in Type}


_HEADER = struct.Struct(">II")  # tag and type as one word, length
_NUMBERS: Final = {
    Type.INTEGER: struct.Struct(">i4x"),
    Type.LONG_INTEGER: struct.Struct(">q"),
    Type.ENUMERATION: struct.Struct(">I4x"),
    Type.BOOLEAN: struct.Struct(">Q"),
    Type.DATE_TIME: struct.Struct(">q"),
    Type.INTERVAL: struct.Struct(">I4x"),
    Type.DATE_TIME_EXTENDED: struct.Struct(">q"),
}
_LENGTHS: Final = {
    Type.INTEGER: 4,
    Type.LONG_INTEGER: 8,
    Type.ENUMERATION: 4,
    Type.BOOLEAN: 8,
    Type.DATE_TIME: 8,
    Type.INTERVAL: 4,
    Type.DATE_TIME_EXTENDED: 8,
}
#: By type, for the speed of a list: the format of the padded value, and the length that the header must say.
_FIXED: Final = [(_NUMBERS.get(Type(n)), _LENGTHS.get(Type(n), -1)) if n else (None, -1) for n in range(12)]
#: The same: looking up members of the enumeration took a fifth of the time.
_STRUCTURE, _BIG_INTEGER, _BOOLEAN, _TEXT_STRING = map(
    int, (Type.STRUCTURE, Type.BIG_INTEGER, Type.BOOLEAN, Type.TEXT_STRING)
)
_PADDINGS: Final = [bytes(n) for n in range(8)]
_RANGES: Final = (0x42, 0x54)  # the first byte of the standard's tags, and of extensions


def parse(data: bytes | bytearray | memoryview) -> Item:
    """The one item that `data` is. Raises ProtocolError."""
    if len(data) > MAX_SIZE:
        raise ProtocolError("too large", f"{len(data)} bytes")
    with memoryview(data) as view:
        items, end = _items(view, 0, len(view), 0, one=True)
        if not items:
            raise ProtocolError("cut short", "nothing")
        if end != len(view):
            raise ProtocolError("trailing bytes", str(len(view) - end))
        return items[0]


def _items(view: memoryview, at: int, end: int, depth: int, *, one: bool = False) -> tuple[list[Item], int]:
    if depth > MAX_DEPTH and at < end:
        raise ProtocolError("nested too deeply")
    found: list[Item] = []
    while at < end:
        start = at + HEADER_SIZE
        if start > end:
            raise ProtocolError("cut short", "in a header")
        word, length = _HEADER.unpack_from(view, at)
        tag, kind = word >> 8, word & 0xFF
        if word >> 24 not in _RANGES:
            raise ProtocolError("reserved tag", f"0x{tag:06x}")
        if not 0 < kind < 12:
            raise ProtocolError("unknown type", f"{kind} of {tag_name(tag)}")
        at = start + (length + 7 & ~7)
        if at > end:
            raise ProtocolError("cut short", f"in {tag_name(tag)}")
        number, fixed = _FIXED[kind]
        value: Value
        if number is not None:
            if length != fixed:
                raise ProtocolError("wrong length", f"{length} of {tag_name(tag)}")
            (value,) = number.unpack_from(view, start)
            if kind == _BOOLEAN:
                if value not in (0, 1):
                    raise ProtocolError("bad boolean", tag_name(tag))
                value = bool(value)
        elif kind == _STRUCTURE:
            if length & 7:
                raise ProtocolError("wrong length", f"{length} of {tag_name(tag)}")
            value = tuple(_items(view, start, at, depth + 1)[0])
        else:
            value = _string(view[start : start + length], tag, kind)
        # An integer's padding is the last half of its eight bytes.
        if length & 7 and any(view[start + length : at]):
            raise ProtocolError("padding not zero", tag_name(tag))
        found.append(Item(tag, kind, value))
        if one:
            break
    return found, at


def _string(part: memoryview, tag: int, kind: int) -> Value:
    if kind == _TEXT_STRING:
        try:
            return str(part, "utf-8")
        except UnicodeDecodeError:
            raise ProtocolError("not UTF-8", tag_name(tag)) from None
    if kind == _BIG_INTEGER:
        if len(part) == 0 or len(part) & 7:
            raise ProtocolError("wrong length", f"{len(part)} of {tag_name(tag)}")
        return bytes(part)
    return Secret(part) if tag in SECRET_TAGS else bytes(part)


def write(item: Item) -> bytearray:
    """The bytes of an item, in a buffer that the sender can wipe. Raises LocalProtocolError."""
    out = bytearray()
    try:
        _write(item, out, 0)
    except (struct.error, TypeError, AttributeError, UnicodeEncodeError):
        out[:] = bytes(len(out))
        raise LocalProtocolError(f"a value that does not fit its type in {item.name}") from None
    if len(out) > MAX_SIZE:
        size = len(out)
        out[:] = bytes(size)
        raise LocalProtocolError(f"a message of {size} bytes, {MAX_SIZE} are allowed")
    return out


def _write(item: Item, out: bytearray, depth: int) -> None:
    tag, kind, value = item.tag, item.type, item.value
    if tag >> 16 not in _RANGES or not 0 < kind < 12 or depth > MAX_DEPTH:
        raise LocalProtocolError(f"tag 0x{tag:06x}, type {kind}, depth {depth}")
    number, length = _FIXED[kind]
    if number is not None:
        out += _HEADER.pack(tag << 8 | kind, length)
        if kind == _BOOLEAN and value not in (0, 1):
            raise LocalProtocolError(f"a boolean of another value in {item.name}")
        out += number.pack(value)
        return
    if kind == _STRUCTURE:
        at = len(out)
        out += bytes(HEADER_SIZE)
        for child in value:  # type: ignore[union-attr]  # another type is a TypeError, told by `write`
            _write(child, out, depth + 1)  # type: ignore[arg-type]  # the same
        _HEADER.pack_into(out, at, tag << 8 | kind, len(out) - at - HEADER_SIZE)
        return
    if kind == _TEXT_STRING:
        raw: bytes | memoryview = value.encode()  # type: ignore[union-attr]  # the same
    elif isinstance(value, Secret):
        raw = value.view()
    elif isinstance(value, bytes):
        raw = value
    else:
        raise TypeError
    if kind == _BIG_INTEGER and (not raw or len(raw) & 7):
        raise LocalProtocolError(f"a big integer of {len(raw)} bytes in {item.name}")
    out += _HEADER.pack(tag << 8 | kind, len(raw))
    out += raw
    out += _PADDINGS[-len(raw) & 7]
