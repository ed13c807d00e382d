"""Home ids: nobody takes another VM's, and permissions stay with a VM that gets a new one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ioflt.crypto.rng import new_uuid
from ioflt.datastore import lifecycle
from ioflt.errors import DeniedError, UsageError
from ioflt.format.record import record as form
from ioflt.format.record.record import HomeRecord
from ioflt.types import HomeState
from ioflt.wire.keyd import access as wire
from tests.operations.keyd.test_enforcement import INVENTORY, Site, read, record_of, site, target

__all__ = ["site"]


def test_a_first_record_takes_no_other_vms_id(site: Site) -> None:
    site.grant("mallory", site.clear, f"{INVENTORY}.Create", "EncryptNew")
    keys = site.client("vm import", "mallory")
    own, taken = keys.new_key(), record_of(site.ds, "web").home_id
    there = site.clear.record.datastore_id
    claim = HomeRecord(taken, there, HomeState.ENCRYPTED, (own,), (), "", False, None)
    with pytest.raises(UsageError, match="is another VM"):
        keys.seal_record((own,), None, form.encode(claim))


def test_no_home_takes_another_vms_id_later(site: Site) -> None:
    site.grant(
        "mallory", site.clear, f"{INVENTORY}.Create", "EncryptNew", f"{INVENTORY}.Register", "RegisterVM"
    )
    keys = site.client("vm import", "mallory")
    own, taken = keys.new_key(), record_of(site.ds, "web").home_id
    mine = HomeRecord(
        new_uuid(), site.clear.record.datastore_id, HomeState.ENCRYPTED, (own,), (), "", False, None
    )
    old = form.seal(form.encode(mine), keys.seal_record((own,), None, form.encode(mine)))
    with pytest.raises(UsageError, match="is another VM"):
        keys.seal_record((own,), old, form.encode(replace(mine, home_id=taken, generation=2)))


def test_a_closer_permission_outlasts_a_decryption(site: Site) -> None:
    site.grant("alice", site.ds, "Access")
    site.grant("alice", site.ds.home("web"), "System.Read")
    lifecycle.decrypt(site.ds, "web")
    lifecycle.encrypt(site.ds, "web")
    with pytest.raises(DeniedError):
        read(site.as_("alice", "mount"), "web/disk.img")


def test_who_manages_keys_does_not_choose_one_of_a_vm_that_he_may_not_read(site: Site) -> None:
    """Not even for a VM of his own: after a restart keyd would know the key as that VM's alone."""
    everything = wire.Object("everything", "", "everything")
    site.root.change_access(wire.Grant("eve", "key-administrator", everything))
    site.root.change_access(wire.Grant("eve", "administrator", target(site.ds.home("db"))))
    web, db = record_of(site.ds, "web"), record_of(site.ds, "db")
    old = (site.top / "ds/db/.ioflt").read_bytes()
    eve = site.client("mount", "eve")
    claim = form.encode(replace(db, keys=web.keys, generation=db.generation + 1))
    with pytest.raises(DeniedError, match=r"Cryptographer\.Access"):
        eve.seal_record(web.keys, old, claim, "db")
