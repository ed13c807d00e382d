"""The XML form: every item there and back, and all the spellings that are allowed."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.wire.kmip import ttlv, xml
from ioflt.wire.kmip.enumerations import ENUMERATIONS, MASKS, name_of, number_of
from ioflt.wire.kmip.tags import BY_NAME, TAGS, Tag
from ioflt.wire.kmip.ttlv import Item, Type


def read(text):
    return xml.decode(xml.parse(text.encode()))


_values = st.one_of(
    st.tuples(st.just(Type.INTEGER), st.integers(-(2**31), 2**31 - 1)),
    st.tuples(st.just(Type.LONG_INTEGER), st.integers(-(2**63), 2**63 - 1)),
    st.tuples(st.just(Type.BIG_INTEGER), st.binary(min_size=16, max_size=16)),
    st.tuples(st.just(Type.ENUMERATION), st.integers(0, 2**32 - 1) | st.integers(0, 60)),
    st.tuples(st.just(Type.BOOLEAN), st.booleans()),
    st.tuples(st.just(Type.TEXT_STRING), st.text(string.printable.replace("\x0b", "").replace("\x0c", ""))),
    st.tuples(st.just(Type.BYTE_STRING), st.binary(max_size=20)),
    st.tuples(st.just(Type.DATE_TIME), st.integers(-(2**63), 2**63 - 1) | st.integers(0, 2**33)),
    st.tuples(st.just(Type.INTERVAL), st.integers(0, 2**32 - 1)),
    st.tuples(st.just(Type.DATE_TIME_EXTENDED), st.integers(-(2**63), 2**63 - 1)),
)


@given(st.sampled_from(sorted(set(TAGS) - ttlv.SECRET_TAGS)) | st.integers(0x540000, 0x54FFFF), _values)
def test_there_and_back(tag, value):
    item = Item(Tag.ATTRIBUTE, Type.STRUCTURE, (Item(tag, *value),))
    assert read(xml.to_text(item)) == item


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('<Operation type="Enumeration" value="ReKey"/>', 4),
        ('<Operation type="Enumeration" value="0x00000004"/>', 4),
        ('<Operation type="Enumeration" value="0x80000004"/>', 0x80000004),
        ('<CryptographicAlgorithm type="Enumeration" value="3DES"/>', 2),
        ('<CryptographicAlgorithm type="Enumeration" value="DES3"/>', 2),
        ('<MaskGeneratorHashingAlgorithm type="Enumeration" value="SHA-256"/>', 6),
        ('<CryptographicUsageMask type="Integer" value="Encrypt Decrypt"/>', 12),
        ('<CryptographicUsageMask type="Integer" value="Decrypt|Encrypt"/>', 12),
        ('<CryptographicUsageMask type="Integer" value="12"/>', 12),
        ('<CryptographicUsageMask type="Integer" value="0x0000000c"/>', 12),
        ('<CryptographicUsageMask type="Integer" value=""/>', 0),
        ('<CryptographicUsageMask type="Integer" value="Encrypt   Decrypt"/>', 12),
        ('<CryptographicUsageMask type="Integer" value="Encrypt 0x10000000"/>', 0x10000004),
        ('<BatchCount type="Integer" value="0xffffffff"/>', -1),
        ('<TimeStamp type="DateTime" value="1970-01-01T01:00:00+01:00"/>', 0),
        ('<TimeStamp type="DateTime" value="1970-01-01T00:00:01Z"/>', 1),
        ('<TimeStamp type="DateTime" value="0x0000000000000001"/>', 1),
        ('<BatchOrderOption type="Boolean" value="TRUE"/>', True),
        ('<BatchOrderOption type="Boolean" value="1"/>', True),
        ('<BatchOrderOption type="Boolean" value="0x0000000000000000"/>', False),
        ('<Data type="ByteString" value=""/>', b""),
        ('<Data type="ByteString" value="0102 0a0B"/>', b"\1\2\n\x0b"),
        ('<LeaseTime type="Interval" value="0x00000e10"/>', 3600),
        ('<Modulus type="BigInteger" value="0080"/>', bytes(6) + b"\0\x80"),
        ('<Modulus type="BigInteger" value="80"/>', b"\xff" * 7 + b"\x80"),
        ('<AttributeReference type="Enumeration" value="CryptographicLength"/>', 0x42002A),
        ('<TTLV tag="0x540001" name="x" type="Integer" value="1"/>', 1),
    ],
)
def test_spellings(text, value):
    item = read(text)
    assert item.value == value
    assert type(item.value) is type(value)
    assert read(xml.to_text(item)) == item


def test_an_attribute_s_value_is_of_the_enumeration_that_its_name_says():
    item = read(
        "<Attribute>"
        '<AttributeName type="TextString" value="Cryptographic Algorithm"/>'
        '<AttributeValue type="Enumeration" value="AES"/>'
        "</Attribute>"
    )
    assert item.value[1].value == 3
    assert 'value="AES"' in xml.to_text(item)


def test_namespaces_are_dropped():
    item = read(
        '<k:Attribute xmlns:k="urn:oasis:tc:kmip:xmlns">'
        '<k:AttributeName type="TextString" value="State"/>'
        '<k:AttributeValue type="Enumeration" value="Active"/>'
        "</k:Attribute>"
    )
    assert [child.name for child in item.value] == ["AttributeName", "AttributeValue"]
    assert item.value[1].value == 2


@pytest.mark.parametrize(
    ("document", "reason", "detail"),
    [
        (b"", "not XML", "no element found"),
        (b"hello", "not XML", "line 1"),
        (b"<BatchItem>\n</Batch>", "not XML", "mismatched tag: line 2"),
        (b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>', "not XML", "entities"),
        (b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', "not XML", "entities"),
        (b'<?xml version="1.0" encoding="none"?><BatchItem/>', "not XML", "encoding"),
        (b"<A>" * 300_000 + b"</A>" * 300_000, "nested too deeply", ""),
        (b" " * (16 << 20) + b"<BatchItem/>", "too large", ""),
        (b'<BatchOrderOption type="Boolean" value="2"/>', "bad value", ""),
        (b'<Data type="ByteString" value="123"/>', "bad value", ""),
        (b'<BatchCount type="Integer" value="2147483648"/>', "bad value", ""),
        (b'<BatchCount type="Integer"/>', "bad value", "no value"),
        (
            b'<UniqueIdentifier type="Identifier" value="1"/>',
            "unknown type",
            "Identifier of UniqueIdentifier",
        ),
        (b"<Nothing/>", "unknown tag", "Nothing"),
        (b"<TTLV/>", "unknown tag", "without a number"),
    ],
    ids=lambda part: "" if isinstance(part, bytes) else None,
)
def test_bad_documents(document, reason, detail):
    with pytest.raises(ttlv.ProtocolError) as caught:
        xml.decode(xml.parse(document))
    assert caught.value.reason == reason
    assert detail in str(caught.value)


WHOLE = (
    b'<Attribute><AttributeName type="TextString" value="State"/><AttributeIndex type="Integer" value="0"/>'
    b'<AttributeValue type="Enumeration" value="Active"/><TTLV tag="0x540001" type="DateTime" value="0"/>'
    b'<Data type="ByteString" value="00ff"/><Fresh type="Boolean" value="true"/></Attribute>'
)


@given(st.integers(0, len(WHOLE)), st.integers(0, 12), st.binary(max_size=12) | st.text(max_size=8))
def test_any_document_gives_an_item_or_an_error(at, dropped, put):
    put = put.encode() if isinstance(put, str) else put
    try:
        item = xml.decode(xml.parse(WHOLE[:at] + put + WHOLE[at + dropped :]))
    except ttlv.ProtocolError:
        return
    assert ttlv.parse(ttlv.write(item)) == item


def test_tables_have_each_name_and_number_once():
    assert len(BY_NAME) == len(TAGS)
    for tag, table in (*ENUMERATIONS.items(), *MASKS.items()):
        for number, name in table.items():
            assert number_of(tag, name) == number, (tag, name)
    assert name_of("Operation", 10) == "Get"
    assert name_of("Operation", 10_000) is None
    for member in Tag:
        assert TAGS[member].lower() == member.name.replace("_", "").lower()
