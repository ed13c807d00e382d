"""The codec: any bytes give an item or ProtocolError, and what was written is what is read."""

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.crypto.secret import Secret
from ioflt.testing import vectors
from ioflt.wire.frame import LocalProtocolError
from ioflt.wire.kmip import messages, ttlv, xml
from ioflt.wire.kmip.tags import TAGS, Tag
from ioflt.wire.kmip.ttlv import MAX_DEPTH, MAX_SIZE, SECRET_TAGS, Item, ProtocolError, Type

VECTORS = Path(__file__).parents[3] / "vectors" / "kmip"
SPEC = Path(ttlv.__file__).with_name("SPEC.md")

_tags = st.sampled_from(sorted(set(TAGS) - SECRET_TAGS)) | st.integers(0x540000, 0x54FFFF)


def _of(kind, values):
    return st.builds(Item, _tags, st.just(kind), values)


_leaves = st.one_of(
    _of(Type.INTEGER, st.integers(-(2**31), 2**31 - 1)),
    _of(Type.LONG_INTEGER, st.integers(-(2**63), 2**63 - 1)),
    _of(Type.BIG_INTEGER, st.integers(1, 4).flatmap(lambda n: st.binary(min_size=8 * n, max_size=8 * n))),
    _of(Type.ENUMERATION, st.integers(0, 2**32 - 1)),
    _of(Type.BOOLEAN, st.booleans()),
    _of(Type.TEXT_STRING, st.text(max_size=20)),
    _of(Type.BYTE_STRING, st.binary(max_size=20)),
    _of(Type.DATE_TIME, st.integers(-(2**63), 2**63 - 1)),
    _of(Type.INTERVAL, st.integers(0, 2**32 - 1)),
    _of(Type.DATE_TIME_EXTENDED, st.integers(-(2**63), 2**63 - 1)),
    st.builds(
        Item,
        st.sampled_from(sorted(SECRET_TAGS)),
        st.just(Type.BYTE_STRING),
        st.binary(max_size=20).map(Secret),
    ),
)
ITEMS = st.recursive(
    _leaves, lambda inner: _of(Type.STRUCTURE, st.lists(inner, max_size=4).map(tuple)), max_leaves=12
)


@given(ITEMS)
def test_what_is_written_is_read(item):
    data = ttlv.write(item)
    assert len(data) % 8 == 0
    assert ttlv.parse(data) == item
    assert ttlv.write(ttlv.parse(bytes(data))) == data


@given(st.binary(max_size=200))
def test_any_bytes_give_an_item_or_protocol_error(data):
    try:
        item = ttlv.parse(data)
    except ProtocolError:
        return
    assert ttlv.write(item) == data


@given(ITEMS, st.data())
def test_a_changed_byte_gives_an_item_or_protocol_error(item, data):
    raw = ttlv.write(item)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        changed = ttlv.parse(raw)
    except ProtocolError:
        return
    assert ttlv.write(changed) == raw
    with contextlib.suppress(ProtocolError):
        messages.read(changed)


@given(ITEMS, st.data())
def test_bytes_cut_short_are_an_error(item, data):
    raw = ttlv.write(item)
    with pytest.raises(ProtocolError):
        ttlv.parse(raw[: data.draw(st.integers(0, len(raw) - 1))])


@pytest.mark.parametrize("vector", vectors.read(VECTORS / "malformed"), ids=lambda vector: vector.name)
def test_malformed(vector):
    read = {
        "ttlv": ttlv.parse,
        "message": lambda body: messages.read(ttlv.parse(body)),
        "xml": lambda body: xml.decode(xml.parse(body)),
    }[vector.headers["kind"]]
    with pytest.raises(ProtocolError) as caught:
        read(vector.body)
    assert caught.value.reason == vector.expect


def _nested(depth):
    item = Item(Tag.ATTRIBUTE, Type.STRUCTURE, ())
    for _ in range(depth):
        item = Item(Tag.ATTRIBUTE, Type.STRUCTURE, (item,))
    return item


@pytest.mark.parametrize(
    "item",
    [
        Item(Tag.BATCH_COUNT, Type.INTEGER, 2**31),
        Item(Tag.BATCH_COUNT, Type.INTEGER, "1"),
        Item(Tag.BATCH_ORDER_OPTION, Type.BOOLEAN, 2),
        Item(Tag.UNIQUE_IDENTIFIER, Type.TEXT_STRING, b"bytes"),
        Item(Tag.UNIQUE_IDENTIFIER, Type.TEXT_STRING, "\udc80"),
        Item(Tag.UNIQUE_BATCH_ITEM_ID, Type.BYTE_STRING, "text"),
        Item(Tag.ATTRIBUTE, Type.STRUCTURE, 1),
        Item(Tag.ATTRIBUTE, Type.STRUCTURE, (1,)),
        Item(Tag.ATTRIBUTE, Type.BIG_INTEGER, bytes(12)),
        Item(0x430000, Type.INTEGER, 1),
        Item(Tag.BATCH_COUNT, 12, 1),
        Item(Tag.UNIQUE_BATCH_ITEM_ID, Type.BYTE_STRING, bytes(MAX_SIZE)),
        _nested(MAX_DEPTH + 1),
    ],
    ids=repr,
)
def test_what_does_not_fit_is_not_written(item):
    with pytest.raises(LocalProtocolError):
        ttlv.write(item)


def test_the_limits_themselves_are_legal():
    deepest = _nested(MAX_DEPTH)
    assert ttlv.parse(ttlv.write(deepest)) == deepest
    longest = Item(Tag.UNIQUE_BATCH_ITEM_ID, Type.BYTE_STRING, bytes(MAX_SIZE - 8))
    assert ttlv.parse(ttlv.write(longest)) == longest


def test_neither_repr_nor_error_shows_a_key():
    key = b"\xc0\xffee this is a key"
    material = Item(Tag.KEY_MATERIAL, Type.BYTE_STRING, Secret(key))
    value = Item(Tag.KEY_VALUE, Type.STRUCTURE, (material,))
    assert "key" not in repr(value)
    parsed = ttlv.parse(ttlv.write(value))
    assert isinstance(parsed.value[0].value, Secret)
    data = ttlv.write(value)
    data[-1] = 1
    with pytest.raises(ProtocolError) as caught:
        ttlv.parse(data)
    assert "ee this" not in str(caught.value) + repr(caught.value)


def _worked():
    pattern = r"^(\w[^\n]*):\n\n```xml\n(.*?)```\n\n```\n(.*?)```"
    for title, xml_text, hexa in re.findall(pattern, SPEC.read_text(), re.MULTILINE | re.DOTALL):
        yield pytest.param(xml_text, bytes.fromhex(hexa), id=title)


def test_the_worked_bytes_of_the_spec():
    examples = list(_worked())
    assert len(examples) >= 2
    for example in examples:
        text, data = example.values
        item = xml.decode(xml.parse(text.encode()))
        assert ttlv.write(item) == data
        assert messages.read(ttlv.parse(data)).write() == item
