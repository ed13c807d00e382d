"""The file of keys that several VMs share, and what is held in memory of them."""

from __future__ import annotations

import errno
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from ioflt.access.principals import Principal, user
from ioflt.crypto.rng import new_uuid
from ioflt.errors import MalformedError, StorageError, UsageError
from ioflt.format.record.record import HomeRecord
from ioflt.keyd import shared_keys
from ioflt.keyd.holdings import Holdings
from ioflt.keyd.shared_keys import MAX_OWNERS, Owner, SharedKeys
from ioflt.keys import files
from ioflt.types import HomeState, KeyRef

KEY = KeyRef("local", "a.b")
DATASTORE = "11111111-2222-4333-8444-555555555555"
HOME = HomeRecord(
    "0f0e0d0c-0b0a-4908-8706-050403020100", DATASTORE, HomeState.ENCRYPTED, (KEY,), (), "", False, None
)
WEB, DATA = Owner(HOME.home_id, DATASTORE), Owner(None, DATASTORE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shared-keys.json"


def holdings(path: Path) -> Holdings:
    return Holdings(SharedKeys(path))


def kept(path: Path) -> frozenset[Owner]:
    """As a keyd knows them that starts now."""
    return holdings(path).owners(KEY)


def test_it_is_read_as_it_was_written(path: Path) -> None:
    shared = SharedKeys(path)
    owners = {WEB.ident: (7, WEB), DATA.ident: (1, DATA)}
    shared.note(KEY, owners, None)
    shared.save()
    assert SharedKeys(path).of(KEY) == owners
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"format":1', b'"format":2'),
        (b'"generation":7', b'"generation":-1'),
        (b'"generation":7', b'"generation":9223372036854775808'),
        (b'"generation":7', b'"generation":7,"more":1'),
        (b'"generation":7', b'"generation":7,"by":""'),
        (b'"key_id":"a.b"', b'"key_id":""'),
        (b'"vm":"', b'"vm":"x'),
        (f'"vm":"{HOME.home_id}"'.encode(), b'"vm":null'),  # then one of its owners is there twice
        (b"]}]}", b"]}]}\0"),
    ],
)
def test_what_is_not_as_it_is_written_is_not_read(path: Path, old: bytes, new: bytes) -> None:
    shared = SharedKeys(path)
    shared.note(KEY, {WEB.ident: (7, WEB), DATA.ident: (1, DATA)}, None)
    shared.save()
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    with pytest.raises(MalformedError, match="does not say which VMs share a key"):
        SharedKeys(path)


def test_records_of_format_1_have_no_generation(path: Path) -> None:
    there = holdings(path)
    for ident in (HOME.home_id, new_uuid()):
        there.learn(replace(HOME, home_id=ident, generation=0), HOME.keys, "web", vouched=True)
    assert len(kept(path)) == 2


def test_a_key_of_one_vm_is_not_kept(path: Path) -> None:
    holdings(path).learn(HOME, HOME.keys, "web", vouched=True)
    assert not path.exists()


def test_the_newest_place_of_a_vm_is_kept(path: Path) -> None:
    moved = replace(HOME, datastore_id=new_uuid(), generation=5)
    before = holdings(path)
    before.learn(HOME, HOME.keys, "web", vouched=True)
    before.learn(moved, moved.keys, "web", vouched=True)
    there = holdings(path)
    there.learn(replace(HOME, generation=4), HOME.keys, "web", vouched=True)
    assert there.owners(KEY) == {Owner(HOME.home_id, moved.datastore_id)}


def test_others_that_are_learned_do_not_push_it_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ioflt.keyd.holdings.MAX_KNOWN", 10)
    there = holdings(path)
    twin = replace(HOME, home_id=new_uuid())
    for record in (HOME, twin):
        there.learn(record, record.keys, "", vouched=False)
    for number in range(20):
        keys = (KeyRef("local", str(number)),)
        there.learn(replace(HOME, home_id=new_uuid(), keys=keys), keys, "", vouched=False)
    there.learn(HOME, HOME.keys, "", vouched=False)
    assert there.owners(KEY) == {WEB, Owner(twin.home_id, DATASTORE)}


def test_what_cannot_be_written_is_tried_again_before_anything_is_answered(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = holdings(path)
    twin = replace(HOME, home_id=new_uuid())
    there.learn(HOME, HOME.keys, "web", vouched=True)

    def full(path: Path, data: bytes) -> None:
        raise StorageError("cannot write", errno.ENOSPC, file=path)

    with monkeypatch.context() as broken:
        broken.setattr(files, "replace", full)
        for _ in range(2):
            with pytest.raises(StorageError):
                there.learn(twin, twin.keys, "twin", vouched=True)
        assert len(there.owners(KEY)) == 2  # also meanwhile
    there.learn(twin, twin.keys, "twin", vouched=True)
    assert kept(path) == there.owners(KEY)


def test_one_owner_too_many_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = holdings(path)
    for _ in range(MAX_OWNERS):
        there.learn(replace(HOME, home_id=new_uuid()), HOME.keys, "", vouched=False)
    with pytest.raises(UsageError, match="cannot share a key"):
        there.learn(HOME, HOME.keys, "", vouched=False)
    assert len(kept(path)) == MAX_OWNERS
    monkeypatch.setattr(shared_keys, "MAX_SIZE", len(path.read_bytes()))
    other = KeyRef("local", "other")
    there.learn(replace(HOME, home_id=new_uuid(), keys=(other,)), (other,), "", vouched=False)
    with pytest.raises(UsageError, match="no more VMs can share keys"):
        there.learn(replace(HOME, home_id=new_uuid(), keys=(other,)), (other,), "", vouched=False)
    assert len(there.owners(other)) == 1


def test_nobody_takes_the_room_that_others_need(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also not after a restart; what is known may change."""
    monkeypatch.setattr(shared_keys, "MAX_EACH", 4)
    mallory, alice = user("mallory"), user("alice")

    def tell(there: Holdings, who: Principal | None, home_id: str, key: str, generation: int = 1) -> None:
        keys = (KeyRef("local", key),)
        told = replace(HOME, home_id=home_id, keys=keys, generation=generation)
        there.learn(told, keys, "", vouched=False, who=who)

    first, there = new_uuid(), holdings(path)
    for key in ("one", "two"):
        for home in (first, new_uuid()):
            tell(there, mallory, home, key)
    tell(there, mallory, first, "three")
    there = holdings(path)
    tell(there, mallory, first, "one", generation=2)
    for ident in (first, new_uuid()):
        with suppress(UsageError):
            tell(there, mallory, ident, "three")
    with pytest.raises(UsageError, match="user:mallory has told of too many VMs"):
        tell(there, mallory, new_uuid(), "one")
    for who in (alice, None):
        tell(there, who, new_uuid(), "one")
    assert [len(holdings(path).owners(KeyRef("local", key))) for key in ("one", "two", "three")] == [4, 2, 0]


def test_a_provider_is_used_by_whose_newest_record_names_a_key_of_it(path: Path) -> None:
    found = holdings(path)
    found.learn(HOME, HOME.keys, "web", vouched=True)
    assert found.users(KEY.provider) == ["web"]
    assert found.users("another") == []
    moved = replace(HOME, generation=HOME.generation + 1, keys=(KeyRef("another", "key"),))
    found.learn(moved, moved.keys, "web", vouched=True, after=HOME.keys)
    assert (found.users(KEY.provider), found.users("another")) == ([], ["web"])


def test_a_key_that_could_not_be_had_is_used_by_who_names_it(path: Path) -> None:
    found, away = holdings(path), KeyRef("corp", "key")
    found.learn(replace(HOME, keys=(KEY, away), generation=2), (KEY,), "web", vouched=True)
    assert found.users("corp") == ["web"]
    assert found.others(away, DATASTORE) == ["web"]
    assert found.others(away, HOME.home_id) == []
    assert found.owners(away) == frozenset()
