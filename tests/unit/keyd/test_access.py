"""Who may connect to keyd, and act for others."""

import os

import pytest

from ioflt.keyd.access import Access
from ioflt.transport.unix import Peer


def peer(uid, *groups):
    return Peer(1, uid, uid, frozenset({uid, *groups}))


@pytest.mark.parametrize(
    ("access", "who", "connects", "owns"),
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
def test_who_may_what(access, who, connects, owns):
    assert access.may_connect(who) is connects
    assert access.owns(who) is owns


def test_user_mode_has_no_group():
    assert Access.of_this_process(system=False) == Access(os.geteuid(), None)
