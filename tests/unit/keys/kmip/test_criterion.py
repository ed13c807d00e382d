"""Attributes as people write them."""

import pytest

from ioflt.errors import UsageError
from ioflt.keys.kmip.criterion import criterion
from ioflt.wire.kmip.ttlv import Type


@pytest.mark.parametrize(
    ("name", "text", "kind", "value"),
    [
        ("State", "pre-active", Type.ENUMERATION, 1),
        ("State", "PreActive", Type.ENUMERATION, 1),
        ("State", "Destroyed Compromised", Type.ENUMERATION, 6),
        ("Cryptographic Algorithm", "AES", Type.ENUMERATION, 3),
        ("Cryptographic Algorithm", "0x80000001", Type.ENUMERATION, 0x80000001),
        ("Cryptographic Length", "256", Type.INTEGER, 256),
        ("Cryptographic Usage Mask", "Encrypt|Decrypt", Type.INTEGER, 12),
        ("Activation Date", "2026-01-02T03:04:05Z", Type.DATE_TIME, 1767323045),
        ("Sensitive", "true", Type.BOOLEAN, True),
        ("Object Group", "vms", Type.TEXT_STRING, "vms"),
        ("x-State", "what they like", Type.TEXT_STRING, "what they like"),
        ("x-Date", "", Type.TEXT_STRING, ""),
    ],
)
def test_what_it_is_in_kmip(name, text, kind, value):
    attribute = criterion(name, text)
    assert (attribute.name, attribute.value.type, attribute.value.value) == (name, kind, value)


def test_a_name_is_a_structure():
    assert [item.value for item in criterion("Name", "web").value.value] == ["web", 1]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("State", "asleep"),
        ("State", ""),
        ("Cryptographic Algorithm", "ROT13"),
        ("Cryptographic Length", "long"),
        ("Cryptographic Length", "4294967296"),
        ("Cryptographic Usage Mask", "Encrypt Sleep"),
        ("Activation Date", "tomorrow"),
        ("Fresh", "yes"),
    ],
)
def test_what_is_no_value_of_it(name, text):
    with pytest.raises(UsageError, match=f"no {name}: "):
        criterion(name, text)
