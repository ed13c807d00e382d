"""What a worker may answer when the module in it has taken it over."""

import socket
import threading

import pytest

from ioflt.crypto.secret import Secret
from ioflt.errors import KeyCorrupt, ProviderUnavailable
from ioflt.keys.channel import Channel
from ioflt.keys.pkcs11 import messages
from ioflt.keys.pkcs11.token import PinRefused, Token, TokenLost
from ioflt.wire.failure import Failure
from ioflt.wire.frame import write_frame
from tests.unit.keys.pkcs11.test_file import FILE

ITEMS = [(bytes(60), b"a"), (bytes(60), b"b")]
KEK = bytearray(range(32))


@pytest.fixture
def answered():
    """A token whose worker answers the next request with these bytes, and then closes."""
    tokens, others = [], []

    def token(data):
        made = Token(FILE)
        tokens.append(made)
        made._channel.close()
        ours, theirs = socket.socketpair()
        made._channel = Channel(ours, str(made))

        def answer():
            with theirs:
                theirs.recv(1 << 16)
                theirs.sendall(data)

        others.append(threading.Thread(target=answer))
        others[-1].start()
        return made

    yield token
    for one in tokens:
        one.kill()
        one.close()
    for one in others:
        one.join()


def test_what_is_expected(answered):
    failed = Failure("KeyCorrupt", "no")
    good = write_frame(messages.Unwrapped((KEK, bytearray()), {1: failed}))
    one, two = answered(good).unwrap(ITEMS)
    assert one == Secret(KEK)
    assert isinstance(two, KeyCorrupt)
    assert two.message == "the token of corp: no"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\1\0\0\0\xc1",
        b"HTTP/1.1 200 OK\r\n\r\n",
        bytes(write_frame(messages.Said("done")))[:-1],
        write_frame(messages.Said("done")),
        write_frame(messages.Load("/a")),
        write_frame(messages.Unwrapped((), {})),
        write_frame(messages.Unwrapped((KEK,) * 3, {})),
        write_frame(messages.Unwrapped((KEK,) * 65, {})),
        write_frame(messages.Unwrapped((bytearray(33),) * 2, {})),
        write_frame(messages.Lost("it says so")),
    ],
)
def test_what_ends_the_session(answered, data):
    with pytest.raises(TokenLost, match=r"^the token of corp: "):
        answered(data).unwrap(ITEMS)


def test_what_is_no_key(answered):
    short = write_frame(messages.Unwrapped((bytearray(31), KEK), {7: Failure("KeyNotFound", "no")}))
    one, two = answered(short).unwrap(ITEMS)
    assert isinstance(one, KeyCorrupt)
    assert two == Secret(KEK)


def test_errors_of_other_kinds_are_none_of_ours(answered):
    with pytest.raises(ProviderUnavailable, match=r"^the token of corp: "):
        answered(write_frame(Failure("SystemExit", "0"))).find_key()
    with pytest.raises(PinRefused, match=r"^the token of corp: no$"):
        answered(write_frame(messages.Refused("no"))).load()
