"""Frames: any bytes, cut anywhere, give messages or RemoteProtocolError."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.errors import UsageError
from ioflt.wire.frame import (
    CLOSED,
    MAX_BUFFER,
    MAX_FRAME,
    NEED_DATA,
    CutShort,
    LocalProtocolError,
    ReceiveBuffer,
    RemoteProtocolError,
    write_frame,
)


class Ping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str
    data: bytes = b""


def receiver():
    return ReceiveBuffer(msgspec.msgpack.Decoder(Ping))


def frame(payload):
    return len(payload).to_bytes(4, "little") + payload


def test_the_layout_is_length_and_msgpack():
    assert write_frame(Ping("a")) == bytes.fromhex("0f000000 82 a474657874 a161 a464617461 c400")


def test_a_text_that_is_no_text_is_not_written():
    with pytest.raises(UsageError, match="not UTF-8"):
        write_frame(Ping("\udcff"))


def test_a_message_above_the_limit_is_not_written():
    with pytest.raises(LocalProtocolError, match="5242880 are allowed"):
        write_frame(Ping("", bytes(MAX_FRAME)))


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", b"\x00", b"\x81\xa1x\xa1y", b"\x81\xa4text\xa1\xff", b"\x91" * 5000]
)
def test_a_frame_that_is_no_message(payload):
    buffer = receiver()
    buffer.receive_data(frame(payload))
    for _ in range(2):  # and it stays in error
        with pytest.raises(RemoteProtocolError):
            buffer.next_event()
        buffer.receive_data(write_frame(Ping("good")))


def test_trailing_bytes_in_a_frame():
    whole = bytes(write_frame(Ping("a")))[4:]
    buffer = receiver()
    buffer.receive_data(frame(whole + b"\x00"))
    with pytest.raises(RemoteProtocolError):
        buffer.next_event()


@pytest.mark.parametrize("size", [0, MAX_FRAME + 1, 2**32 - 1])
def test_a_length_out_of_range_is_refused_before_its_bytes_come(size):
    buffer = receiver()
    buffer.receive_data(size.to_bytes(4, "little"))
    with pytest.raises(RemoteProtocolError, match=f"a frame of {size} bytes"):
        buffer.next_event()


def test_unread_bytes_are_limited():
    buffer = receiver()
    buffer.receive_data(bytes(MAX_BUFFER + 1))
    with pytest.raises(RemoteProtocolError, match="more is sent than is read"):
        buffer.next_event()


def test_the_end_between_messages_and_inside_one():
    buffer = receiver()
    buffer.receive_data(write_frame(Ping("a")))
    buffer.receive_data(b"")
    assert buffer.next_event() == Ping("a")
    assert buffer.next_event() is CLOSED
    buffer = receiver()
    buffer.receive_data(write_frame(Ping("a"))[:-1])
    assert buffer.next_event() is NEED_DATA
    buffer.receive_data(b"")
    with pytest.raises(CutShort):
        buffer.next_event()


@given(st.lists(st.builds(Ping, st.text(), st.binary()), max_size=4), st.data())
def test_messages_come_back_however_they_are_cut(messages, data):
    stream = b"".join(write_frame(message) for message in messages)
    buffer = receiver()
    found = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        buffer.receive_data(stream[:size])
        stream = stream[size:]
        while (event := buffer.next_event()) is not NEED_DATA:
            found.append(event)
    assert found == messages


@given(st.lists(st.binary(max_size=64), max_size=4), st.booleans())
def test_any_bytes_give_messages_or_an_error(chunks, framed):
    buffer = receiver()
    for chunk in chunks:
        buffer.receive_data(frame(chunk) if framed else chunk)
    buffer.receive_data(b"")
    try:
        while (event := buffer.next_event()) is not CLOSED:
            assert isinstance(event, Ping)
    except RemoteProtocolError:
        pass
