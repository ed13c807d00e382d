"""Shares of a KDK: any k bring it back, and whatever else is given is told apart."""

from __future__ import annotations

import dataclasses
from itertools import combinations

import pytest

from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, KeyNotFound, UsageError
from ioflt.format.share import text
from ioflt.keys.cache import KeyCache
from ioflt.keys.native import credentials, shares
from ioflt.keys.native.backup import Identity
from ioflt.keys.native.provider import NativeProvider
from ioflt.keys.native.store import NativeStore

WHO = Identity("corp", "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0", "00112233-4455-6677-8899-aabbccddeeff", "host")
KDK = Secret(bytes(range(32)))


def typed_in(made):
    return [text.parse(text.write(share)) for share in made]


@pytest.mark.parametrize(("threshold", "count"), [(2, 2), (2, 3), (3, 5), (5, 5)])
def test_any_k_are_enough(threshold, count):
    made = typed_in(shares.split(WHO, KDK, threshold, count))
    assert [share.index for share in made] == list(range(1, count + 1))
    for some in combinations(made, threshold):
        assert shares.combine(some) == (WHO, KDK)
    assert shares.combine(made[::-1]) == (WHO, KDK)


def test_many():
    made = shares.split(WHO, KDK, 40, 64)
    assert shares.combine(made[20:60]) == (WHO, KDK)


@pytest.mark.parametrize(("threshold", "count"), [(1, 1), (1, 5), (0, 5), (3, 2), (2, 65), (-1, -1)])
def test_what_cannot_be_split(threshold, count):
    with pytest.raises(UsageError):
        shares.split(WHO, KDK, threshold, count)


def test_too_few():
    made = shares.split(WHO, KDK, 3, 5)
    with pytest.raises(UsageError, match="too few shares: 2 given, 3 are needed"):
        shares.combine(made[:2])


def test_the_same_one_twice():
    made = shares.split(WHO, KDK, 3, 5)
    with pytest.raises(UsageError, match="share number 2 is given twice"):
        shares.combine([made[1], made[0], made[1]])


def test_of_another_splitting_or_provider():
    made, later = shares.split(WHO, KDK, 2, 3), shares.split(WHO, KDK, 2, 3)
    other = shares.split(dataclasses.replace(WHO, name="other"), KDK, 2, 3)
    for foreign in (later, other):
        with pytest.raises(UsageError, match="mixed shares: number 1 is of set"):
            shares.combine([made[0], foreign[1]])


@pytest.mark.parametrize("at", [0, 15, 16, 31, 32, 47])
def test_a_wrong_share(at):
    made = shares.split(WHO, KDK, 2, 3)
    made[1].data.buffer()[at] ^= 1
    with pytest.raises(AuthenticationError, match="wrong share"):
        shares.combine(made[:2])
    assert shares.combine([made[0], made[2]]) == (WHO, KDK)


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "other"},
        {"uuid": WHO.kdk_id},
        {"kdk_id": WHO.uuid},
        {"protection": "passphrase"},
        {"set_id": "00000000"},
        {"count": 4},
    ],
)
def test_lines_that_were_changed_in_all_of_them(changed):
    made = [dataclasses.replace(share, **changed) for share in shares.split(WHO, KDK, 2, 3)]
    with pytest.raises(AuthenticationError, match="wrong share"):
        shares.combine(made)


def test_a_lower_threshold_gives_no_key():
    made = [dataclasses.replace(share, threshold=2) for share in shares.split(WHO, KDK, 3, 5)]
    with pytest.raises(AuthenticationError):
        shares.combine(made[:2])


def test_nothing_of_the_key_is_in_a_share():
    """Two splittings of one key have nothing in common but their names."""
    one, two = shares.split(WHO, KDK, 2, 2), shares.split(WHO, KDK, 2, 2)
    parts = [bytes(share.data.view()) for share in (*one, *two)]
    blocks = {part[start : start + 16] for part in parts for start in (0, 16, 32)}
    assert len(blocks) == 12
    assert not any(bytes(KDK.view())[start : start + 16] in blocks for start in (0, 16))


@pytest.mark.parametrize("passphrase", [None, Secret(b"correct horse")])
def test_a_provider_comes_back_on_another_host(tmp_path, monkeypatch, passphrase):
    monkeypatch.setattr(credentials, "works", lambda: False)
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    here, there = NativeStore(tmp_path / "here"), NativeStore(tmp_path / "there")
    here.create("corp", passphrase)
    here.mark_backed_up("corp")
    file = here.load("corp")
    before = NativeProvider(file, here.path("corp"), KeyCache(4))
    before.unlock(passphrase)
    key_id = before.create()
    with here.open(file, passphrase) as kdk:
        made = typed_in(shares.split(Identity.of(file), kdk, 2, 3))
    identity, kdk = shares.combine(made[1:])
    new = None if passphrase is None else Secret(b"battery staple")
    after = NativeProvider(there.install(identity, kdk, new), there.path("corp"), KeyCache(4))
    after.unlock(new)
    assert after.get([key_id]) == before.get([key_id])
    assert isinstance(after.get(["other"])[0], KeyNotFound)
