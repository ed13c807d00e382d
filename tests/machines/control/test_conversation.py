"""A mount's control messages, both ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.wire.control import messages as m
from ioflt.wire.control.connection import replies, requests, write
from ioflt.wire.failure import Failure
from ioflt.wire.frame import NEED_DATA, CutShort, RemoteProtocolError
from ioflt.wire.keyd.values import Key

HOME = m.Home(2**32, 2**64 - 1, "0f0e0d0c-0b0a-4908-8706-050403020100")

REQUESTS = [
    m.Hello(1),
    m.Lock("refuse"),
    m.Unlock(),
    m.AddKeyslot("web/web.vmdk", bytearray(b"secret")),
    m.RemoveKeyslot("web/web.vmdk", 2),
    m.RestoreHeader("web/web.vmdk", b"header"),
    m.Rewrap("web/web.vmx", (Key("local", "key-2"),), (Key("local", "key-1"),)),
    m.Quiesce(None),
    m.Quiesce(30),
    m.Quiesce(30, HOME),
    m.Resume(),
    m.Watch(HOME),
    m.TakeWritten(),
    m.Invalidate("web/web.vmdk"),
    m.TrackChanges("web/web.vmdk", True),
    m.TakeChangeId("web/web.vmdk", 2**32 - 1),
    m.ChangedAreas("web/web.vmdk", None, 2**63 - 1),
]
REPLIES = [
    m.Status("/ds", "/mnt", 17, False, False, 3, {"reads": 5}),
    m.Locked(("a",), ("b",)),
    m.Busy(("a",)),
    m.Keyslot(1),
    m.Tracked(True),
    m.ChangeIdTaken(bytes(16), 78),
    m.Areas(bytes(16), 1 << 20, ((0, 65536), (131072, 4096)), 1 << 20),
    m.WrittenAreas(((2**32, 2**63, 0, 2**63 - 1),), True),
    m.Done(),
    Failure("BusyError", "in use"),
]
WRONG = {
    "an unknown mode": m.Lock("gently"),
    "a keyslot out of range": m.RemoveKeyslot("a", 32),
    "an empty passphrase": m.AddKeyslot("a", bytearray()),
    "a path above the limit": m.Invalidate("a" * (m.MAX_PATH + 1)),
    "a backup above the limit": m.RestoreHeader("a", bytes(m.MAX_HEADER + 1)),
    "no key that opens the file": m.Rewrap("a", (), ()),
    "a sequence out of range": m.TakeChangeId("a", 2**32),
    "an offset out of range": m.ChangedAreas("a", 1, -1),
    "no time to hold writes back": m.Quiesce(0),
    "a VM of no id": m.Watch(m.Home(1, 2, "web")),
    "a directory of no number": m.Quiesce(1, m.Home(1, -2, HOME.id)),
    "a reply": m.Done(),
}


def test_every_message_is_here():
    assert {type(request) for request in REQUESTS} == set(m.RequestBody.__args__)
    assert {type(reply) for reply in REPLIES} == set(m.ReplyBody.__args__)


@pytest.mark.parametrize(("make", "sent"), [(requests, REQUESTS), (replies, REPLIES)])
@pytest.mark.parametrize("size", [2**20, 1])
def test_messages_arrive(make, sent, size):
    buffer = make()
    found = []
    stream = b"".join(write(message) for message in sent)
    for start in range(0, len(stream), size):
        buffer.receive_data(stream[start : start + size])
        while (event := buffer.next_event()) is not NEED_DATA:
            found.append(event)
    assert found == sent


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: type(r).__name__)
def test_cut_short(request_):
    data = write(request_)
    for end in range(1, len(data)):
        buffer = requests()
        buffer.receive_data(data[:end])
        buffer.receive_data(b"")
        with pytest.raises(CutShort):
            buffer.next_event()


@pytest.mark.parametrize("name", WRONG)
def test_what_a_mount_refuses(name):
    buffer = requests()
    buffer.receive_data(write(WRONG[name]))
    with pytest.raises(RemoteProtocolError):
        buffer.next_event()


@given(st.binary(max_size=200), st.sampled_from([requests, replies]))
def test_garbage(garbage, make):
    buffer = make()
    buffer.receive_data(len(garbage).to_bytes(4, "little") + garbage)
    try:
        event = buffer.next_event()
    except RemoteProtocolError:
        return
    assert isinstance(event, m.RequestBody | m.ReplyBody)


def test_no_message_shows_its_content():
    assert {repr(message) for message in REQUESTS} == {f"<{type(message).__name__}>" for message in REQUESTS}
