"""Manifests of backups as keyd signs them: for whom, about which VM, and which event tells of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioflt.audit import attestation
from ioflt.crypto import signing
from ioflt.errors import DeniedError
from ioflt.keys.client import KeyClient
from ioflt.wire.keyd import access as wire
from ioflt.wire.keyd.values import Signing
from tests.daemons import end_keyd
from tests.operations.keyd.test_enforcement import Site, record_of
from tests.operations.keyd.test_events import events

KEEPER = "service:backup"
BACKUP = "VirtualMachine.Interact.Backup"
DIGEST = bytes(range(32))


@pytest.fixture
def site(where, tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    made.root.change_access(wire.CreateService("backup", None))
    try:
        yield made
    finally:
        made.close()


def about(site: Site, name: str = "web") -> Signing:
    volume = site.clear if name == "plain" else site.ds
    return Signing(record_of(volume, name).home_id, name, f"/srv/kept/{name}/20260101T000000Z")


def refused(keys: KeyClient, asked: Signing, name: str) -> None:
    for ask in (lambda: keys.may_sign(asked), lambda: keys.sign_manifest(DIGEST, asked)):
        with pytest.raises(DeniedError, match=rf"VirtualMachine\.Interact\.Backup on {name}"):
            ask()


@pytest.mark.parametrize("name", ["web", "plain"])
def test_who_may_back_up_the_vm_has_its_manifests_signed(site: Site, where, name: str) -> None:
    keys, asked = site.client("backup run", KEEPER), about(site, name)
    refused(keys, asked, name)
    denied = [event for event in events(where) if event.outcome == "denied"]
    assert (denied[-1].object.shown, denied[-1].privilege) == (name, BACKUP)
    assert not [event for event in events(where) if event.operation == "backup sign"]
    site.grant(KEEPER, site.clear if name == "plain" else site.ds, BACKUP)  # no privilege for keys
    keys.may_sign(asked)
    stated, signature, key = keys.sign_manifest(DIGEST, asked)
    assert signing.verify(key, signature, attestation.signed(stated, attestation.BACKUP_PREFIX))
    said = attestation.manifest_statement(stated)
    assert (said.manifest, said.home, said.by.as_principal) == (DIGEST.hex(), asked.home_id, KEEPER)
    (event,) = [event for event in events(where) if event.operation == "backup sign"]
    assert (event.object.shown, event.object.id, event.privilege) == (name, asked.home_id, BACKUP)
    assert event.by.as_principal == KEEPER
    assert not event.reported
    assert {change.path: change.after for change in event.changes} == {
        "backup": asked.place,
        "backup.manifest": DIGEST.hex(),
    }


def test_who_may_back_up_one_vm_gets_nothing_signed_of_another(site: Site) -> None:
    keys = site.client("backup run", KEEPER)
    site.grant(KEEPER, site.ds.home("db"), BACKUP)
    refused(keys, about(site), "web")
    refused(keys, Signing("0f0e0d0c-0b0a-4908-8706-050403020100", "nobody's", ""), "nobody's")


def test_what_keyd_stated_before_tells_where_a_vm_was(site: Site, where) -> None:
    """As the VM may be gone when its backups are pruned; what somebody else stated tells nothing."""
    site.grant(KEEPER, site.ds, BACKUP)
    asked = about(site)
    stated, signature, _ = site.client("backup run", KEEPER).sign_manifest(DIGEST, asked)
    end_keyd()
    keys = site.client("backup prune", KEEPER)  # of a keyd to which nobody has shown a record
    refused(keys, asked, "web")
    said = json.loads(stated)
    other = json.dumps(said | {"datastore": record_of(site.clear, "plain").datastore_id}).encode()
    refused(keys, Signing(asked.home_id, "web", asked.place, other, signature), "web")
    keys.sign_manifest(DIGEST, Signing(asked.home_id, "web", asked.place, stated, signature))
    db = about(site, "db")
    end_keyd()
    keys = site.client("backup prune", KEEPER)
    refused(keys, Signing(db.home_id, "db", asked.place, stated, signature), "db")
