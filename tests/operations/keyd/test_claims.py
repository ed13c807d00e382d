"""What somebody claims of VMs and datastores that are not his: generations and ids; and what he sees."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ioflt.errors import DeniedError, UnshownError, UsageError
from ioflt.format.record import record as form
from ioflt.format.record.record import DatastoreRecord, HomeRecord
from ioflt.types import HomeState
from ioflt.wire.keyd import access as wire
from tests.daemons import end_keyd
from tests.operations.keyd.test_enforcement import INVENTORY, Site, record_of, show, site

__all__ = ["site"]

EVERYTHING = wire.Object("everything", "", "everything")


def test_nobody_says_how_far_a_vm_came_that_is_not_his(site: Site, where) -> None:
    """Providers would tell other hosts, and these take the VM for one that was put back."""
    victim = record_of(site.ds, "web")
    site.grant("mallory", site.clear, f"{INVENTORY}.Create", "EncryptNew")
    end_keyd()
    (where.homes / victim.home_id).unlink()  # as only members changed it
    mallory = site.client("vm import", "mallory")
    own = mallory.new_key()
    there = site.clear.record.datastore_id
    claim = HomeRecord(victim.home_id, there, HomeState.ENCRYPTED, (own,), (), "", False, None)
    with pytest.raises(UsageError, match="does not follow"):
        mallory.seal_record((own,), None, form.encode(replace(claim, generation=2**62)))
    mallory.seal_record((own,), None, form.encode(replace(claim, generation=2**20)))
    mallory.note_generation([own], victim.home_id, 2**20)
    with pytest.raises(UnshownError):
        mallory.note_generation([own, *victim.keys], victim.home_id, 2**20)


def test_who_may_not_see_a_vm_has_no_provider_asked_for_it(site: Site) -> None:
    record = record_of(site.ds, "web")
    site.grant("alice", site.ds.home("web"), "System.Read")
    for who, sure in (("alice", True), ("mallory", False)):
        keys = site.client("mount", who)
        show(keys, site, "ds/web")
        assert keys.seen_generation(record.keys, record.home_id) == (0, sure)
    with pytest.raises(UnshownError):
        keys.note_generation(record.keys, record.home_id, record.generation)


def test_no_datastore_gets_the_id_of_another(site: Site) -> None:
    site.grant("mallory", site.clear, "RegisterHost", "Recrypt")
    site.root.change_access(wire.Grant("eve", "key-administrator", EVERYTHING))
    now, taken = site.clear.record, site.ds.record.datastore_id
    old = (site.top / "clear/.ioflt").read_bytes()
    claim = form.encode(replace(now, datastore_id=taken, generation=now.generation + 1))
    with pytest.raises(DeniedError, match="RegisterHost"):
        site.client("datastore register", "mallory").seal_record(now.keys, old, claim)
    eve = site.client("datastore init", "eve")
    own = eve.new_key()
    first = form.encode(DatastoreRecord(taken, HomeState.CLEAR, (own,), ""))
    for _ in range(2):
        with pytest.raises(UsageError, match="is another datastore's"):
            eve.seal_record((own,), None, first)
        with pytest.raises(UsageError, match="is another datastore's"):
            eve.seal_record(now.keys, old, claim)
        end_keyd()


def test_what_keyd_shows_of_itself(site: Site) -> None:
    site.root.change_access(wire.Grant("kim", "key-administrator", EVERYTHING))
    all_ = site.client("", "kim").status()
    some = site.client("", "mallory").status()
    assert (some.cached_keys, some.connections) == (None, None)
    assert some.state == "open"
    for seen, whole in zip(some.providers, all_.providers, strict=True):
        assert whole.slots
        assert (seen.name, seen.kind, seen.state) == (whole.name, whole.kind, whole.state)
        assert (seen.slots, seen.reason, seen.cache) == ((), "", None)
    assert all_.connections
