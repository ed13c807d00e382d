"""Slots that need nothing but the host: added, removed, their passphrase changed; and what is refused."""

import os

import pytest

from ioflt.crypto.secret import Secret
from ioflt.errors import (
    ExistsError,
    KeyNotUsable,
    NotFoundError,
    ProviderLocked,
    ProviderUnavailable,
    StorageError,
    UsageError,
)
from ioflt.keys import files
from ioflt.keys.cache import KeyCache
from ioflt.keys.native import credentials, slot_admin
from ioflt.keys.native.provider import NativeProvider
from ioflt.keys.native.slot_admin import NewSlot
from ioflt.keys.native.store import NativeStore

OLD, NEW, WRONG = Secret(b"correct horse"), Secret(b"battery staple"), Secret(b"wrong")


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A provider `corp` with a passphrase, which was backed up."""
    monkeypatch.setattr(credentials, "works", lambda: False)
    made = NativeStore(tmp_path)
    made.create("corp", OLD)
    made.mark_backed_up("corp")
    return made


def opened(store, passphrase=None):
    provider = NativeProvider(store.load("corp"), store.path("corp"), KeyCache(4))
    provider.unlock(passphrase)
    return provider


def kinds(store):
    return [slot.kind for slot in slot_admin.listing(store, "corp")]


def test_a_slot_that_is_added_opens_to_the_same_keys(store):
    provider = opened(store, OLD)
    key_id = provider.create()
    slot_admin.add(store, "corp", NewSlot("keyfile"), OLD)
    assert kinds(store) == ["passphrase", "keyfile"]
    assert opened(store).get([key_id]) == provider.get([key_id])
    assert opened(store, OLD).get([key_id]) == provider.get([key_id])
    assert store.load("corp").backed_up


def test_a_slot_is_added_by_who_opens_the_provider_only(store):
    before = store.path("corp").read_bytes()
    with pytest.raises(ProviderLocked):
        slot_admin.add(store, "corp", NewSlot("keyfile"))
    with pytest.raises(KeyNotUsable, match="wrong passphrase"):
        slot_admin.add(store, "corp", NewSlot("keyfile"), WRONG)
    assert store.path("corp").read_bytes() == before
    assert not (store.directory / "corp.key").exists()


def test_one_slot_of_a_kind(store):
    with pytest.raises(ExistsError):
        slot_admin.add(store, "corp", NewSlot("passphrase", NEW), OLD)
    opened(store, OLD)


@pytest.mark.parametrize("secret", [None, Secret(b"")])
def test_no_passphrase(store, secret):
    slot_admin.add(store, "corp", NewSlot("keyfile"), OLD)
    slot_admin.remove(store, "corp", "passphrase")
    with pytest.raises(UsageError):
        slot_admin.add(store, "corp", NewSlot("passphrase", secret))
    assert kinds(store) == ["keyfile"]


def test_the_last_slot_stays(store):
    with pytest.raises(UsageError, match="last slot"):
        slot_admin.remove(store, "corp", "passphrase", OLD)
    with pytest.raises(NotFoundError):
        slot_admin.remove(store, "corp", "keyfile", OLD)
    opened(store, OLD)


def test_a_removed_slot_opens_no_more(store):
    slot_admin.add(store, "corp", NewSlot("keyfile"), OLD)
    slot_admin.remove(store, "corp", "keyfile", OLD)
    assert os.listdir(store.directory) == ["corp.json"]
    with pytest.raises(ProviderLocked):
        opened(store)


def test_what_stays_must_open(store):
    slot_admin.add(store, "corp", NewSlot("keyfile"), OLD)
    (store.directory / "corp.key").unlink()
    with pytest.raises(ProviderUnavailable):
        slot_admin.remove(store, "corp", "passphrase")
    with pytest.raises(KeyNotUsable, match="wrong passphrase"):
        slot_admin.remove(store, "corp", "keyfile", WRONG)
    assert {slot.kind: slot.state for slot in slot_admin.listing(store, "corp")} == {
        "passphrase": "waits",
        "keyfile": "fails",
    }
    slot_admin.remove(store, "corp", "keyfile", OLD)
    opened(store, OLD)


def test_another_passphrase(store):
    key_id = opened(store, OLD).create()
    before = opened(store, OLD).get([key_id])
    slot_admin.change_passphrase(store, "corp", NEW, OLD)
    with pytest.raises(KeyNotUsable, match="wrong passphrase"):
        opened(store, OLD)
    assert opened(store, NEW).get([key_id]) == before
    assert kinds(store) == ["passphrase"]


def test_a_passphrase_is_changed_by_who_opens_the_provider_only(store):
    before = store.path("corp").read_bytes()
    for own in (None, WRONG):
        with pytest.raises((ProviderLocked, KeyNotUsable)):
            slot_admin.change_passphrase(store, "corp", NEW, own)
    with pytest.raises(UsageError):
        slot_admin.change_passphrase(store, "corp", Secret(b""), OLD)
    assert store.path("corp").read_bytes() == before


def test_no_passphrase_to_change(store):
    store.create("other")
    with pytest.raises(NotFoundError, match="has no passphrase"):
        slot_admin.change_passphrase(store, "other", NEW)


def test_a_change_that_cannot_be_written_changes_nothing(store, monkeypatch):
    def fail(path, data):
        raise StorageError("cannot write", 28, file=path)

    monkeypatch.setattr(files, "replace", fail)
    with pytest.raises(StorageError):
        slot_admin.change_passphrase(store, "corp", NEW, OLD)
    opened(store, OLD)


def test_a_provider_that_was_not_backed_up_makes_no_keys(store):
    store.create("new")
    provider = NativeProvider(store.load("new"), store.path("new"), KeyCache(4))
    with pytest.raises(KeyNotUsable, match="the provider new makes no keys until it was backed up"):
        provider.create()
    store.create("local")
    NativeProvider(store.load("local"), store.path("local"), KeyCache(4)).create()
