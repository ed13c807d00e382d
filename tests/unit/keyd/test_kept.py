"""Keys in keyd's memory: what came from a seal expires, what its provider gave does not."""

import pytest

from ioflt.crypto.secret import Secret
from ioflt.keyd.kept import Facts, KeptKeys
from ioflt.keys import cache
from ioflt.types import KeyRef
from tests.unit.keys.sealed.test_clock import Host

A, B = KeyRef("p", "a"), KeyRef("p", "b")
GIVEN = Facts("provider", 5)


@pytest.fixture
def host():
    return Host(wall=1000)


@pytest.fixture
def keys(host):
    return KeptKeys(host.clock())


def kek(number):
    return Secret(bytes([number]) * 32)


def test_sealed_ones_expire(keys, host):
    keys.put(A, kek(1), Facts("sealed", 5, 1010))
    keys.put(B, kek(2), GIVEN)
    host.passes(9)
    assert keys.get(A) == kek(1)
    host.passes(1)
    assert (keys.get(A), keys.facts(A), A in keys, len(keys)) == (None, None, False, 1)
    host.passes(10**9)
    assert keys.get(B) == kek(2)


def test_expired_ones_are_wiped_although_nobody_asks(keys, host):
    keys.put(A, kek(1), Facts("sealed", 5, 1010))
    host.passes(10)
    assert len(keys) == 1
    keys.drop_expired()
    assert len(keys) == 0


def test_what_the_provider_gave_stays(keys, host):
    keys.put(A, kek(1), Facts("sealed", 5, 1010))
    keys.put(A, kek(1), GIVEN)
    keys.put(A, kek(9), Facts("sealed", 5, 1010))
    host.passes(10)
    assert (keys.get(A), keys.facts(A)) == (kek(1), GIVEN)


def test_in_order(keys):
    for key in (B, KeyRef("a", "z"), A):
        keys.put(key, kek(1), GIVEN)
    assert [key for key, _ in keys.all()] == [KeyRef("a", "z"), A, B]


def test_what_gives_way_is_forgotten_whole(monkeypatch, host):
    monkeypatch.setattr(cache.KeyCache.__init__, "__defaults__", (2,))
    keys = KeptKeys(host.clock())
    for number in range(3):
        keys.put(KeyRef("p", str(number)), kek(number), GIVEN)
    assert [key.key_id for key, _ in keys.all()] == ["1", "2"]
    assert len(keys) == 2


def test_dropped(keys):
    keys.put(A, kek(1), GIVEN)
    keys.put(B, kek(1), GIVEN)
    keys.drop(A)
    keys.drop(A)
    assert [key for key, _ in keys.all()] == [B]
    keys.drop_if(lambda key: key == B)
    assert keys.all() == []
    keys.put(A, kek(1), GIVEN)
    keys.wipe()
    assert (keys.get(A), len(keys)) == (None, 0)
