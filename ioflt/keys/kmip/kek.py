"""A KEK as it is on a KMIP server: how it is asked for, which ones of others do, and where its bytes are."""

from __future__ import annotations

from typing import Final

from ioflt.crypto.secret import Secret
from ioflt.keys.provider import KEK_SIZE
from ioflt.wire.kmip.enumerations import (
    CryptographicAlgorithm,
    CryptographicUsageMask,
    KeyFormatType,
    ObjectType,
    State,
)
from ioflt.wire.kmip.messages import Attribute, Attributes, TemplateAttribute
from ioflt.wire.kmip.tags import Tag
from ioflt.wire.kmip.ttlv import Item, Type

_ALGORITHM: Final = "Cryptographic Algorithm"
_LENGTH: Final = "Cryptographic Length"
_USAGE: Final = "Cryptographic Usage Mask"
_FOR: Final = CryptographicUsageMask.ENCRYPT | CryptographicUsageMask.DECRYPT

#: A key as vSphere asks for it: no name, nothing but what it is for.
TEMPLATE: Final = TemplateAttribute(
    attributes=(
        Attribute.of(_ALGORITHM, Type.ENUMERATION, CryptographicAlgorithm.AES),
        Attribute.of(_LENGTH, Type.INTEGER, KEK_SIZE * 8),
        Attribute.of(_USAGE, Type.INTEGER, _FOR),
    )
)

#: The attributes that `unfit` judges. A server need not know all of them.
JUDGED: Final = ("State", "Object Type", _ALGORITHM, _LENGTH, _USAGE)


def unfit(told: Attributes) -> str:
    """Why a key may not be used for anything new; empty: nothing that the server tells speaks against it."""
    state, usage = told.find("State"), told.find(_USAGE)
    if isinstance(state, int) and state not in (State.PRE_ACTIVE, State.ACTIVE):
        named = State(state).name.replace("_", " ").title() if state in set(State) else f"state {state:#x}"
        return f"it is {named}"
    if told.find("Object Type") not in (None, ObjectType.SYMMETRIC_KEY):
        return "it is no symmetric key"
    if told.find(_ALGORITHM) not in (None, CryptographicAlgorithm.AES):
        return "it is no AES key"
    if told.find(_LENGTH) not in (None, KEK_SIZE * 8):
        return f"it has not {KEK_SIZE * 8} bits"
    if isinstance(usage, int) and usage & _FOR != _FOR:
        return "its usage mask has not both Encrypt and Decrypt"
    return ""


def material(form: int, value: tuple[Item, ...]) -> Secret | None:
    """The key in a KeyValue."""
    for item in value:
        if item.tag == Tag.KEY_MATERIAL:
            wanted = item.value
            if form in (KeyFormatType.RAW, KeyFormatType.OPAQUE) and isinstance(wanted, Secret):
                return wanted
            if form == KeyFormatType.TRANSPARENT_SYMMETRIC_KEY and isinstance(wanted, tuple):
                keys = [part.value for part in wanted if part.tag == Tag.KEY]
                return keys[0] if keys and isinstance(keys[0], Secret) else None
    return None
