"""An attribute as a person writes it, NAME=TEXT, as what it is in KMIP: to look for objects that have it."""

from __future__ import annotations

from typing import Final
from xml.etree.ElementTree import Element, SubElement  # nothing is parsed

from ioflt.errors import UsageError
from ioflt.wire.kmip import xml
from ioflt.wire.kmip.enumerations import ENUMERATIONS, MASKS, fold
from ioflt.wire.kmip.messages import Attribute
from ioflt.wire.kmip.tags import Tag
from ioflt.wire.kmip.ttlv import Item, ProtocolError, Type, type_name

#: Attributes of the standard (1.4, section 3) that are no texts; those of enumerations and masks are known.
_KINDS: Final = (
    dict.fromkeys(map(fold, ENUMERATIONS), Type.ENUMERATION)
    | dict.fromkeys(map(fold, MASKS), Type.INTEGER)
    | {"cryptographiclength": Type.INTEGER, "certificatelength": Type.INTEGER, "leasetime": Type.INTERVAL}
    | dict.fromkeys(("fresh", "keyvaluepresent", "sensitive", "alwayssensitive"), Type.BOOLEAN)
    | dict.fromkeys(("extractable", "neverextractable"), Type.BOOLEAN)
)


def criterion(name: str, text: str) -> Attribute:
    """The attribute. Raises UsageError for a text that is no value of it."""
    if name == "Name":
        parts = (
            Item(Tag.NAME_VALUE, Type.TEXT_STRING, text),
            Item(Tag.NAME_TYPE, Type.ENUMERATION, 1),  # an uninterpreted text
        )
        return Attribute.of(name, Type.STRUCTURE, parts)
    kind = Type.DATE_TIME if name.endswith(" Date") else _KINDS.get(fold(name), Type.TEXT_STRING)
    if name[:2] in ("x-", "y-"):  # clients' and servers' own
        kind = Type.TEXT_STRING
    whole = Element("Attribute")
    SubElement(whole, "AttributeName", type="TextString", value=name)
    SubElement(whole, "AttributeValue", type=type_name(kind), value=text)
    try:
        return Attribute.read(xml.decode(whole))
    except ProtocolError:
        raise UsageError(f"no {name}: {text[:80]!r}") from None
