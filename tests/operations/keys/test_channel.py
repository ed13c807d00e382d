"""The connection to keyd, to a mount, to an HSM's process: what the other side may do with it."""

import socket

import pytest

from ioflt.errors import PeerError
from ioflt.keys import channel
from ioflt.keys.channel import Channel
from ioflt.wire.frame import NEED_DATA


class Dripping:
    """Takes what comes and has the other side send one more byte; the clock goes on by a second each time."""

    def __init__(self, theirs):
        self._theirs = theirs
        self.now = 0.0

    def next_event(self):
        self._theirs.send(b"x")
        return NEED_DATA

    def receive_data(self, data):
        assert len(data) == 1
        self.now += 1


def test_an_answer_that_drips_is_given_up_in_time(monkeypatch):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        dripping = Dripping(theirs)
        monkeypatch.setattr(channel, "monotonic", lambda: dripping.now)
        with pytest.raises(PeerError, match="the mount does not answer"):
            Channel(ours, "the mount").exchange(bytearray(b"frame"), dripping, 60.0)
    assert dripping.now == 60
