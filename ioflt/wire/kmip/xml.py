"""The XML form of TTLV (KMIP Profiles, "XML Profile"): elements ↔ `Item`.

`decode` takes every spelling of a value that the profile allows, `encode` writes one of them. Bad XML gives
ProtocolError, as bad TTLV does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, tostring  # defusedxml parses

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from ioflt.crypto.secret import Secret
from ioflt.wire.kmip.enumerations import MASKS, fold, name_of, number_of
from ioflt.wire.kmip.tags import BY_NAME, TAGS, Tag
from ioflt.wire.kmip.ttlv import MAX_DEPTH, SECRET_TAGS, Item, ProtocolError, Type, Value, type_name

#: Longest document, in bytes.
MAX_DOCUMENT: Final = 16 << 20

#: Elements in an element: a message has `MAX_DEPTH` structures, and a few more may be around it.
MAX_NESTING: Final = MAX_DEPTH + 8

_TYPES: Final = {type_name(kind): kind for kind in Type}
_RANGES: Final = {
    Type.INTEGER: (32, True),
    Type.LONG_INTEGER: (64, True),
    Type.ENUMERATION: (32, False),
    Type.BOOLEAN: (1, False),
    Type.INTERVAL: (32, False),
    Type.DATE_TIME: (64, True),
    Type.DATE_TIME_EXTENDED: (64, True),
}
_BOOLEANS: Final = {"true": True, "false": False}
_NUMBER: Final = re.compile(r"-?[0-9]{1,20}|0x[0-9A-Fa-f]{1,16}", re.ASCII)
_MASK: Final = re.compile(r"0x[0-9A-Fa-f]{1,8}", re.ASCII)
_TAG: Final = re.compile(r"0x[0-9A-Fa-f]{6}", re.ASCII)
_HEX: Final = re.compile(r"(?:[0-9A-Fa-f]{2})*", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)
_MICROSECOND: Final = timedelta(microseconds=1)
_DATES: Final = range(-62135596800, 253402300800)  # the years that have a date here, 1 to 9999


def parse(document: bytes) -> Element:
    """The root of an XML document; comments, namespaces and what stands between elements are dropped."""
    if len(document) > MAX_DOCUMENT:
        raise ProtocolError("too large", f"more than {MAX_DOCUMENT} bytes")
    parser = DefusedXMLParser(target=_Builder())
    try:
        parser.feed(document)
        root: Element = parser.close()
    except DefusedXmlException:
        raise ProtocolError("not XML", "it declares entities, which are not taken") from None
    except ParseError as error:
        raise ProtocolError("not XML", str(error)) from None
    except (ValueError, LookupError):
        raise ProtocolError("not XML", "its encoding is not known") from None
    return root


class _Builder(TreeBuilder):
    """Elements without their namespaces, and not too many in each other: Python copies them recursively."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def start(self, tag: str, attrs: dict[str, str]) -> Element:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise ProtocolError("nested too deeply")
        return super().start(tag.rpartition("}")[2], attrs)

    def end(self, tag: str) -> Element:
        self._depth -= 1
        return super().end(tag.rpartition("}")[2])


def decode(element: Element) -> Item:
    """The item of an element."""
    return _decode(element, "", 0)


def encode(item: Item) -> Element:
    """The element of an item."""
    return _encode(item, "")


def to_text(item: Item) -> str:
    """An item as XML text. It shows all values, keys too."""
    return tostring(encode(item), encoding="unicode")


def _decode(element: Element, attribute: str, depth: int) -> Item:
    """`attribute` names the attribute whose value this is: that tells which enumeration is meant."""
    if depth > MAX_DEPTH:
        raise ProtocolError("nested too deeply")
    tag = _tag_of(element)
    type_ = element.get("type")
    if type_ is None or type_ == "Structure":
        return Item(tag, Type.STRUCTURE, _children(element, depth))
    kind = _TYPES.get(type_)
    text = element.get("value")
    if kind is None:
        raise ProtocolError("unknown type", f"{type_[:80]} of {element.tag[:80]}")
    if text is None or len(element):
        raise ProtocolError("bad value", f"{element.tag[:80]} has no value, or has children")
    name = attribute if tag == Tag.ATTRIBUTE_VALUE else TAGS.get(tag, "")
    value = _value(kind, text, name, element.tag[:80])
    return Item(tag, kind, Secret(value) if tag in SECRET_TAGS and isinstance(value, bytes) else value)


def _children(element: Element, depth: int) -> tuple[Item, ...]:
    attribute = ""
    children = []
    for child in element:
        item = _decode(child, attribute, depth + 1)
        children.append(item)
        if item.tag == Tag.ATTRIBUTE_NAME and isinstance(item.value, str):
            attribute = item.value
    return tuple(children)


def _tag_of(element: Element) -> int:
    name = element.tag
    if name != "TTLV":
        found = BY_NAME.get(name) or _FOLDED.get(fold(name))
        if found is None:
            raise ProtocolError("unknown tag", name[:80])
        return found
    text = element.get("tag", "")
    if not _TAG.fullmatch(text):
        raise ProtocolError("unknown tag", "TTLV without a number")
    return int(text, 16)


_FOLDED: Final = {fold(name): number for name, number in BY_NAME.items()}


def _value(kind: int, text: str, name: str, where: str) -> Value:
    bad = ProtocolError("bad value", where)
    if kind == Type.TEXT_STRING:
        return text
    if kind in (Type.BYTE_STRING, Type.BIG_INTEGER):
        digits = "".join(text.split()).removeprefix("0x")
        if not _HEX.fullmatch(digits):
            raise bad
        raw = bytes.fromhex(digits)
        return _stretched(raw) if kind == Type.BIG_INTEGER else raw
    text = text.strip()
    if kind == Type.BOOLEAN and text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    number = _number(kind, text, name)
    if number is None:
        raise bad
    bits, signed = _RANGES[Type(kind)]
    if text.startswith("0x") and signed and number >> bits - 1 == 1:
        number -= 1 << bits
    low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)
    if not low <= number < high:
        raise bad
    return number == 1 if kind == Type.BOOLEAN else number


def _number(kind: int, text: str, name: str) -> int | None:
    if _NUMBER.fullmatch(text):
        return int(text, 0 if text.startswith("0x") else 10)
    if kind == Type.ENUMERATION:
        found = number_of(name, text)
        # From 2.0 on an enumeration may name a tag (AttributeReference).
        return found if found is not None else _FOLDED.get(fold(text))
    if kind == Type.INTEGER:
        bits = [_bit(name, word) for word in re.split(r"[\s|]+", text) if word]
        return None if None in bits else _union(bit for bit in bits if bit is not None)
    if kind in (Type.DATE_TIME, Type.DATE_TIME_EXTENDED):
        return _moment(text, _SECOND if kind == Type.DATE_TIME else _MICROSECOND)
    return None


def _bit(name: str, word: str) -> int | None:
    """A bit of a mask: by its name, or as a number where it has none (an extension)."""
    return int(word, 16) if _MASK.fullmatch(word) else number_of(name, word)


def _union(bits: Iterable[int]) -> int:
    whole = 0
    for bit in bits:
        whole |= bit
    return whole


def _moment(text: str, unit: timedelta) -> int | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // unit


def _stretched(raw: bytes) -> bytes:
    """Two's complement in a multiple of eight bytes, at least eight."""
    missing = -len(raw) % 8 if raw else 8
    return (b"\xff" if raw and raw[0] & 0x80 else b"\0") * missing + raw


def _encode(item: Item, attribute: str) -> Element:
    name = TAGS.get(item.tag)
    element = Element(name) if name else Element("TTLV", {"tag": item.name})
    if isinstance(item.value, tuple):
        attribute = ""
        for child in item.value:
            element.append(_encode(child, attribute))
            if child.tag == Tag.ATTRIBUTE_NAME and isinstance(child.value, str):
                attribute = child.value.replace(" ", "")
        return element
    element.set("type", type_name(item.type))
    table = attribute if item.tag == Tag.ATTRIBUTE_VALUE else name or ""
    element.set("value", _text(item.type, item.value, table))
    return element


def _text(kind: int, value: Value, table: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Secret):
        return value.view().hex()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, int):
        if kind == Type.ENUMERATION:
            return name_of(table, value) or f"0x{value:08x}"
        if kind == Type.INTEGER and table in MASKS and value:
            return _mask(value, table)
        if kind == Type.DATE_TIME:
            return _date(value)
        if kind == Type.DATE_TIME_EXTENDED:
            return f"0x{value & (1 << 64) - 1:016x}"
    return str(value)


def _mask(value: int, table: str) -> str:
    names = [name for bit, name in MASKS[table].items() if value & bit]
    whole = value & ~_union(bit for bit in MASKS[table] if value & bit) == 0
    return " ".join(names) if whole else str(value)


def _date(value: int) -> str:
    if value not in _DATES:
        return f"0x{value & (1 << 64) - 1:016x}"
    return (_EPOCH + value * _SECOND).isoformat()
