"""What QEMU's monitor says, cut anywhere, and what it must not say."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ioflt.wire.frame import CLOSED, NEED_DATA, CutShort, RemoteProtocolError
from ioflt.wire.qmp.connection import MAX_LINE, ReceiveBuffer, write_command
from ioflt.wire.qmp.messages import Answer, Event, Greeting, Refusal

GREETING = {
    "QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}
}
SAID = {
    json.dumps(GREETING): Greeting((7, 2, 22)),
    '{"return": {}, "id": 1}': Answer(1, {}),
    '{"return": [{"a": null}]}': Answer(None, [{"a": None}]),
    '{"id": 2, "error": {"class": "GenericError", "desc": "no"}}': Refusal(2, "GenericError", "no"),
    '{"timestamp": {"seconds": 1}, "event": "STOP"}': Event("STOP", {}),
    '{"event": "DEVICE_DELETED", "data": {"device": "d"}}': Event("DEVICE_DELETED", {"device": "d"}),
}
WRONG = (
    b"[]",
    b"{}",
    b"QEMU 7.2.22 monitor - type 'help' for more information",
    b'{"return": {}, "id": "1"}',
    b'{"return": {}, "id": true}',
    b'{"return": NaN}',
    b'{"QMP": {}}',
    b'{"QMP": {"version": {"qemu": {"micro": "22", "minor": 2, "major": 7}}}}',
    b'{"error": {}}',
    b'{"error": {"class": 1, "desc": "no"}}',
    b'{"event": "STOP", "data": []}',
    b'{"event": 1}',
    b'{"return": "\xff"}',
    b'{"return": ' + b"[" * 5000,
)


def taken(buffer, data, size):
    found = []
    for start in range(0, len(data), size):
        buffer.receive_data(data[start : start + size])
        while (message := buffer.next_event()) is not NEED_DATA:
            found.append(message)
    return found


@pytest.mark.parametrize("size", [2**20, 7, 1])
@pytest.mark.parametrize("end", ["\r\n", "\n", "\n\n"])
def test_messages_arrive(size, end):
    buffer = ReceiveBuffer()
    assert taken(buffer, (end.join(SAID) + end).encode(), size) == list(SAID.values())
    buffer.receive_data(b"")
    assert buffer.next_event() is CLOSED


@pytest.mark.parametrize("line", WRONG)
def test_a_line_that_is_no_message(line):
    buffer = ReceiveBuffer()
    buffer.receive_data(line + b"\n")
    for _ in range(2):  # and it stays in error
        with pytest.raises(RemoteProtocolError):
            buffer.next_event()
        buffer.receive_data(b'{"return": {}}\n')


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_has_a_limit(end):
    buffer = ReceiveBuffer()
    buffer.receive_data(b" " * (MAX_LINE + 1) + end)
    with pytest.raises(RemoteProtocolError, match="a line of more than 4194304 bytes"):
        buffer.next_event()


def test_the_end_inside_a_line():
    buffer = ReceiveBuffer()
    buffer.receive_data(b'{"return"')
    buffer.receive_data(b"")
    with pytest.raises(CutShort):
        buffer.next_event()


def test_a_long_refusal_is_cut():
    buffer = ReceiveBuffer()
    buffer.receive_data(json.dumps({"error": {"class": "x" * 5000, "desc": "y" * 5000}}).encode() + b"\n")
    assert buffer.next_event() == Refusal(None, "x" * 1000, "y" * 1000)


@pytest.mark.parametrize("size", [2**20, 1])
def test_an_agent_is_heard_from_its_delimiter_on(size):
    said = b'cut off"}\n{"return": 5}\n\xff{"return": 1}\n{"return": 2}\nrest\xff{"return": 3}\n'
    assert taken(ReceiveBuffer(delimited=True), said, size) == [Answer(None, number) for number in (1, 2, 3)]


def test_a_command():
    assert write_command("stop", {}, 1) == b'{"execute":"stop","id":1}\n'
    assert (
        write_command("qom-list", {"path": "/\n"}) == b'{"execute":"qom-list","arguments":{"path":"/\\n"}}\n'
    )


@given(
    st.lists(st.binary(max_size=60) | st.sampled_from(sorted(SAID)).map(lambda line: line.encode() + b"\n"))
)
@example([b'{"return": {}}\n', b"\xff"])
def test_any_bytes_give_messages_or_an_error_of_the_peer(pieces):
    buffer = ReceiveBuffer()
    try:
        for piece in pieces:
            buffer.receive_data(piece)
            while buffer.next_event() not in (NEED_DATA, CLOSED):
                pass
    except RemoteProtocolError:
        pass
