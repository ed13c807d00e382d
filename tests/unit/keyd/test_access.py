"""Who may ask keyd for what."""

import os

import pytest

from ioflt.keyd.access import Access
from ioflt.transport.unix import Peer
from ioflt.wire.keyd import messages as m

USE = m.GetStatus()
ADMINISTER = [
    m.AddPolicy(b""),
    m.RemovePolicy("Gold"),
    m.Lock("refuse"),
    m.Unlock(None, None),
    m.Reload(),
    m.Stop(),
]


def peer(uid, *groups):
    return Peer(1, uid, uid, frozenset({uid, *groups}))


@pytest.mark.parametrize(
    ("access", "who", "use", "administer"),
    [
        (Access(1000, None), peer(1000), True, True),
        (Access(1000, None), peer(1001), False, False),
        (Access(1000, None), peer(0), True, True),
        (Access(0, None), peer(0), True, True),
        (Access(0, None), peer(1000), False, False),
        (Access(0, 77), peer(1000, 77), True, False),
        (Access(0, 77), peer(1000, 78), False, False),
        (Access(0, 77), peer(0), True, True),
    ],
)
def test_who_may_what(access, who, use, administer):
    assert access.may_connect(who) is use
    for request, may in [(USE, use), *((request, administer) for request in ADMINISTER)]:
        assert (access.may_connect(who) and access.may_ask(who, request)) is may


def test_user_mode_has_no_group():
    assert Access.of_this_process(system=False) == Access(os.geteuid(), None)
