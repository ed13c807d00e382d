"""Both sides of a KMIP connection, joined by nothing but bytes."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.crypto.secret import Secret
from ioflt.wire.frame import CLOSED, NEED_DATA, CutShort, LocalProtocolError, RemoteProtocolError
from ioflt.wire.kmip import messages as m
from ioflt.wire.kmip import ttlv
from ioflt.wire.kmip.connection import VERSIONS, Answer, ClientConnection, ServerConnection, State, agreed
from ioflt.wire.kmip.enumerations import (
    KeyFormatType,
    ObjectType,
    Operation,
    ResultReason,
    ResultStatus,
    RevocationReasonCode,
)
from ioflt.wire.kmip.tags import Tag
from ioflt.wire.kmip.ttlv import Item, ProtocolError, Type

V14 = m.Version(major=1, minor=4)
AES = m.TemplateAttribute(
    attributes=(
        m.Attribute.of("Cryptographic Algorithm", Type.ENUMERATION, 3),
        m.Attribute.of("Cryptographic Length", Type.INTEGER, 256),
        m.Attribute.of("Cryptographic Usage Mask", Type.INTEGER, 12),
    )
)
TAG = m.Attribute.of("x-Vendor", Type.TEXT_STRING, "ioflt")


def key(material):
    value = Item(Tag.KEY_VALUE, Type.STRUCTURE, (Item(Tag.KEY_MATERIAL, Type.BYTE_STRING, Secret(material)),))
    block = m.KeyBlock(format=KeyFormatType.RAW, value=value, algorithm=3, length=256)
    return m.SymmetricKey(block=block)


def wrapped(data):
    wrapping = m.KeyWrappingData(method=1, encryption_key=m.KeyInformation(id="transport"), encoding=1)
    value = Item(Tag.KEY_VALUE, Type.BYTE_STRING, Secret(data))
    return m.SymmetricKey(block=m.KeyBlock(format=KeyFormatType.RAW, value=value, wrapping=wrapping))


HOW = m.KeyWrappingSpecification(method=1, encryption_key=m.KeyInformation(id="transport"), encoding=1)

EXCHANGES = [
    (Operation.DISCOVER_VERSIONS, m.DiscoverVersions(versions=VERSIONS), m.DiscoverVersions(versions=(V14,))),
    (Operation.QUERY, m.Query(functions=(1, 3)), m.Queried(operations=(1, 10), vendor="ü")),
    (
        Operation.CREATE,
        m.Create(object_type=ObjectType.SYMMETRIC_KEY, template=AES),
        m.Created(object_type=ObjectType.SYMMETRIC_KEY, id="id-1"),
    ),
    (Operation.ACTIVATE, m.Named(id="id-1"), m.Named(id="id-1")),
    (Operation.GET, m.Get(id="id-1"), m.Got(object_type=2, id="id-1", key=key(bytes(32)))),
    (Operation.GET, m.Get(id="id-1", wrapping=HOW), m.Got(object_type=2, id="id-1", key=wrapped(bytes(40)))),
    (
        Operation.GET_ATTRIBUTES,
        m.GetAttributes(id="id-1", names=("x-Vendor",)),
        m.Attributes(id="id-1", attributes=(TAG,)),
    ),
    (
        Operation.ADD_ATTRIBUTE,
        m.AddAttribute(id="id-1", attribute=TAG),
        m.AddAttribute(id="id-1", attribute=TAG),
    ),
    (
        Operation.MODIFY_ATTRIBUTE,
        m.ModifyAttribute(id="id-1", attribute=TAG),
        m.ModifyAttribute(id="id-1", attribute=TAG),
    ),
    (Operation.LOCATE, m.Locate(maximum=2, attributes=(TAG,)), m.Located(ids=("id-1", "id-2"))),
    (
        Operation.REVOKE,
        m.Revoke(id="id-1", reason=m.RevocationReason(code=RevocationReasonCode.KEY_COMPROMISE), occurred=6),
        m.Named(id="id-1"),
    ),
    (Operation.RE_KEY, m.ReKey(id="id-1", offset=0), m.ReKeyed(id="id-2")),
    (Operation.DESTROY, m.Named(id="id-1"), m.Named(id="id-1")),
]


def done(item, payload):
    return m.ResponseItem(operation=item.operation, id=item.id, status=ResultStatus.SUCCESS, payload=payload)


def failed(reason, operation=None, id=None):
    return m.ResponseItem(
        operation=operation, id=id, status=ResultStatus.OPERATION_FAILED, reason=reason, message="no"
    )


def response(*items):
    return m.ResponseMessage(m.ResponseHeader(version=V14, time=0, count=len(items)), items)


def feed(connection, data, size=2**20):
    """Give bytes in pieces; the one event that they make."""
    events = []
    for start in range(0, len(data), size):
        connection.receive_data(data[start : start + size])
        event = connection.next_event() if not events else NEED_DATA
        if event is not NEED_DATA:
            events.append(event)
    (event,) = events
    return event


@pytest.mark.parametrize("size", [2**20, 1, 7])
def test_a_whole_conversation(size):
    client, server = ClientConnection(), ServerConnection()
    for operation, asked, told in EXCHANGES:
        request = feed(server, client.send(m.request(V14, [(operation, asked)])), size)
        assert request.items[0].payload == asked
        answer = feed(client, server.send(response(done(request.items[0], told))), size)
        assert answer.items[0].payload == told
    for side in (client, server):
        side.receive_data(b"")
        assert side.next_event() is CLOSED


def test_every_typed_payload_is_in_the_conversation():
    assert {operation for operation, _, _ in EXCHANGES} == set(m.PAYLOADS)


def test_cut_short_at_every_byte():
    for operation, asked, told in EXCHANGES:
        data = ClientConnection().send(m.request(V14, [(operation, asked)]))
        for end in range(1, len(data)):
            server = ServerConnection()
            server.receive_data(data[:end])
            assert server.next_event() is NEED_DATA
            server.receive_data(b"")
            with pytest.raises(CutShort):
                server.next_event()
            assert server.state is State.ERROR
        item = m.RequestItem(operation=operation, payload=asked)
        data = ttlv.write(response(done(item, told)).write())
        for end in range(1, len(data)):
            client = ClientConnection()
            client.send(m.request(V14, [(operation, asked)]))
            client.receive_data(data[:end])
            assert client.next_event() is NEED_DATA
            client.receive_data(b"")
            with pytest.raises(CutShort):
                client.next_event()


@given(st.binary(max_size=200), st.booleans())
def test_garbage_ends_the_conversation_and_nothing_else(garbage, framed):
    client, server = ClientConnection(), ServerConnection()
    client.discover()
    for side, tag in ((client, Tag.RESPONSE_MESSAGE), (server, Tag.REQUEST_MESSAGE)):
        head = (int(tag) << 8 | 1).to_bytes(4, "big") + len(garbage).to_bytes(4, "big") if framed else b""
        side.receive_data(head + garbage)
        side.receive_data(b"")
        try:
            event = side.next_event()
        except RemoteProtocolError:
            assert side.state is State.ERROR
            with pytest.raises(RemoteProtocolError):
                side.next_event()
        else:
            assert event is CLOSED


@given(st.data())
def test_a_changed_byte_gives_a_message_or_an_error(data):
    operation, asked, told = data.draw(st.sampled_from(EXCHANGES))
    client, server = ClientConnection(), ServerConnection()
    raw = client.send(m.request(V14, [(operation, asked)]))
    answer = ttlv.write(response(done(m.RequestItem(operation=operation, payload=asked), told)).write())
    for side, buffer, kind in ((server, raw, m.RequestMessage), (client, answer, Answer)):
        buffer[data.draw(st.integers(0, len(buffer) - 1))] ^= data.draw(st.integers(1, 255))
        side.receive_data(buffer)
        try:
            event = side.next_event()
        except RemoteProtocolError:
            continue
        assert event is NEED_DATA or isinstance(event, kind)


def test_a_length_above_the_limit_is_refused_before_it_comes():
    client = ClientConnection()
    client.discover()
    client.receive_data(bytes.fromhex("42007b01 7ffffff8"))
    with pytest.raises(ProtocolError) as caught:
        client.next_event()
    assert caught.value.reason == "too large"


def test_no_two_requests_at_once():
    client, server = ClientConnection(), ServerConnection()
    data = client.discover()
    with pytest.raises(LocalProtocolError):
        client.discover()
    with pytest.raises(LocalProtocolError):
        server.send(response())
    server.receive_data(data * 2)
    server.next_event()
    with pytest.raises(LocalProtocolError):
        server.next_event()


def test_an_answer_that_was_not_asked_for():
    client = ClientConnection()
    client.receive_data(ttlv.write(response(failed(1)).write()))
    with pytest.raises(ProtocolError, match="not asked for"):
        client.next_event()


def asked_for(*ids):
    client = ClientConnection()
    request = m.request(V14, [(Operation.GET, m.Get(id=one)) for one in ids])
    client.send(request)
    return client, request.items


def answers(client, *items):
    client.receive_data(ttlv.write(response(*items).write()))
    return client.next_event().items


def got(item):
    return done(item, m.Got(object_type=2, id=item.payload.id, key=key(bytes(32))))


def test_answers_are_told_apart_by_their_ids():
    client, (a, b, c) = asked_for("a", "b", "c")
    found = answers(client, got(c), failed(1, Operation.GET, a.id), got(b))
    assert [item.reason or item.payload.id for item in found] == [1, "b", "c"]


def test_answers_without_ids_are_in_order():
    client, items = asked_for("a", "b")
    without = [msgspec.structs.replace(got(item), id=None) for item in items]
    assert [item.payload.id for item in answers(client, *without)] == ["a", "b"]


def test_one_failure_without_operation_is_that_of_the_whole_message():
    client, _ = asked_for("a", "b", "c")
    found = answers(client, failed(ResultReason.INVALID_MESSAGE))
    assert [item.reason for item in found] == [ResultReason.INVALID_MESSAGE] * 3


def test_a_server_may_stop_at_a_failure():
    client, (a, b, _c) = asked_for("a", "b", "c")
    assert answers(client, got(a), failed(1, Operation.GET, b.id))[2] is None


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda a, b: (got(a),), "an answer is missing"),
        (lambda a, b: (got(a), got(a)), "an answer that was not asked for"),
        (lambda a, b: (got(a), got(b), got(b)), "an answer that was not asked for"),
        (
            lambda a, b: (msgspec.structs.replace(got(a), id=b"zz"), got(b)),
            "an answer that was not asked for",
        ),
        (lambda a, b: (got(a), failed(1, Operation.DESTROY, b.id)), "an answer to another operation"),
        (lambda a, b: (got(a), done(b, None)), "missing field"),
        (lambda a, b: (got(a), msgspec.structs.replace(done(b, None), operation=None)), "missing field"),
    ],
)
def test_answers_that_answer_nothing(make, reason):
    client, items = asked_for("a", "b")
    with pytest.raises(ProtocolError) as caught:
        answers(client, *make(*items))
    assert caught.value.reason == reason
    assert client.state is State.ERROR


def discovered(*items):
    client = ClientConnection()
    client.discover()
    client.receive_data(ttlv.write(response(*items).write()))
    return agreed(client.next_event())


def offers(*minors, major=1):
    versions = tuple(m.Version(major=major, minor=minor) for minor in minors)
    return m.ResponseItem(
        operation=Operation.DISCOVER_VERSIONS,
        status=ResultStatus.SUCCESS,
        payload=m.DiscoverVersions(versions=versions),
    )


def test_the_highest_common_version_is_spoken():
    assert str(discovered(offers(0, 1, 2))) == "1.2"
    assert str(discovered(offers(1, 4, 0))) == "1.4"


@pytest.mark.parametrize("reason", [ResultReason.OPERATION_NOT_SUPPORTED, ResultReason.INVALID_MESSAGE])
def test_a_server_that_knows_no_versions_is_of_the_first(reason):
    assert str(discovered(failed(reason))) == "1.0"


@pytest.mark.parametrize("item", [offers(), offers(0, 1, major=2), failed(ResultReason.PERMISSION_DENIED)])
def test_no_common_version(item):
    with pytest.raises(ProtocolError):
        discovered(item)


def test_fields_in_another_order_are_taken_and_written_as_they_came():
    told = m.Attributes(id="id-1", attributes=(TAG, TAG), more=(Item(0x540001, Type.INTEGER, 1),))
    item = m.RequestItem(operation=Operation.GET_ATTRIBUTES, payload=m.GetAttributes(id="id-1"))
    header, batch = response(done(item, told)).write().value

    def turned(part):
        """With its children in reverse; the header stays first of the message."""
        if not isinstance(part.value, tuple):
            return part
        return msgspec.structs.replace(part, value=tuple(map(turned, part.value[::-1])))

    message = Item(Tag.RESPONSE_MESSAGE, Type.STRUCTURE, (turned(header), turned(batch)))
    found = m.read(message)
    assert found.write() == message
    payload = found.items[0].payload
    assert payload.id == "id-1"
    assert [attribute.name for attribute in payload.attributes] == ["x-Vendor"] * 2


def test_a_request_that_lacks_something_is_for_the_server_to_refuse():
    payload = Item(Tag.REQUEST_PAYLOAD, Type.STRUCTURE, ())
    data = ClientConnection().send(m.request(V14, [(Operation.REVOKE, payload)]))
    server = ServerConnection()
    server.receive_data(data)
    assert server.next_event().items[0].payload == payload


def test_a_key_is_shown_nowhere():
    material = b"\xc0\xffee: this is a key material..."[:32]
    told = m.Got(object_type=2, id="id-1", key=key(material))
    request = m.request(V14, [(Operation.GET, m.Get(id="id-1"))])
    client = ClientConnection()
    client.send(request)
    client.receive_data(ttlv.write(response(done(request.items[0], told)).write()))
    answer = client.next_event()
    assert "this is a key" not in repr(answer)
    assert not any(client._buffer._data)
