"""Records by who has a key himself, as a tenant with key servers of his own does: he MACs what he likes.

mallory reads `db`, of which he has the key, and nothing else.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from ioflt import paths
from ioflt.audit import reader
from ioflt.crypto.kdf import hkdf
from ioflt.crypto.mac import tag
from ioflt.crypto.rng import new_uuid
from ioflt.datastore import move, recrypt
from ioflt.errors import DeniedError, UsageError
from ioflt.format.record import record as form
from ioflt.format.record.record import DatastoreRecord, HomeRecord, Move, Record, Recrypt
from ioflt.keys.cache import KeyCache
from ioflt.keys.client import KeyClient
from ioflt.keys.native.provider import NativeProvider
from ioflt.keys.native.store import NativeStore
from ioflt.paths import Paths
from ioflt.types import HomeState, KeyRef
from ioflt.wire.keyd import access as wire
from tests.daemons import end_keyd
from tests.operations.keyd.test_enforcement import (
    DISK,
    INVENTORY,
    Site,
    read,
    record_of,
    show,
    site,
    target,
    wrapped,
)

__all__ = ["site"]


def forged(where: Paths, record: Record, own: KeyRef) -> tuple[bytes, list[bytes]]:
    """Payload and MACs: right ones by his own key, others for its other keys; of a clear one, his."""
    store = NativeStore(where.providers)
    provider = NativeProvider(store.load(own.provider), store.path(own.provider), KeyCache(1))
    (kek,) = provider.get([own.key_id])
    payload = form.encode(record)
    with kek, hkdf(kek, f"mac/{form.label(record)}") as key:
        good = tag(key, payload)
    return payload, [good if key == own else bytes(32) for key in record.keys or (own,)]


def his(site: Site, *stolen: KeyRef) -> list[HomeRecord]:
    """Records of his own VM that name keys of others."""
    db = record_of(site.ds, "db")
    (own,) = db.keys
    changed = replace(db, operation=Recrypt(new_uuid(), stolen, (own,)), generation=db.generation + 1)
    return [replace(db, keys=(own, *stolen)), changed, replace(changed, keys=(own, *stolen))]


def refused(keys: KeyClient, site: Site, path: str) -> bool:
    (answer,) = keys.unwrap([wrapped(site, path)])
    return isinstance(answer, DeniedError)


@pytest.fixture
def stolen(site: Site) -> KeyRef:
    """The key of `web`; keyd has seen no record of it yet."""
    site.grant("mallory", site.ds.home("db"), "Access", "Recrypt", "Encrypt")
    site.grant("alice", site.ds.home("web"), "Access")
    (key,) = record_of(site.ds, "web").keys
    end_keyd()
    return key


@pytest.mark.parametrize("number", range(3))
def test_what_a_record_only_names_is_not_its(site: Site, where: Paths, stolen: KeyRef, number: int) -> None:
    record = his(site, stolen)[number]
    own = record.keys[0]
    payload, tags = forged(where, record, own)
    mallory = site.client("mount", "mallory")
    assert mallory.check_record(payload, tags, [own]) == [True]
    assert refused(mallory, site, "ds/web/disk.img")
    assert not refused(mallory, site, "ds/db/disk.img")
    assert read(site.as_("alice", "mount"), "web/disk.img") == DISK  # whose VM's key is not shared now


@pytest.mark.parametrize("number", range(3))
def test_no_record_is_sealed_by_what_the_one_before_only_named(
    site: Site, where: Paths, stolen: KeyRef, number: int
) -> None:
    record = his(site, stolen)[number]
    own = record.keys[0]
    payload, tags = forged(where, record, own)
    next_ = replace(his(site, stolen)[2], generation=record.generation + 1)
    mallory = site.client("vm recrypt", "mallory")
    with pytest.raises(DeniedError):
        mallory.seal_record(next_.keys, form.seal(payload, tags), form.encode(next_))
    assert refused(site.client("mount", "mallory"), site, "ds/web/disk.img")


def test_a_record_of_ones_own_becomes_that_of_no_other_vm(site: Site, where: Paths, stolen: KeyRef) -> None:
    web, db = record_of(site.ds, "web"), record_of(site.ds, "db")
    site.grant("mallory", site.ds.home("db"), "Access", "RegisterVM", f"{INVENTORY}.Register")
    end_keyd()
    (own,) = db.keys
    as_web = replace(db, home_id=web.home_id)
    mallory = site.client("vm register", "mallory")
    mallory.check_record(*forged(where, as_web, own), [own])
    next_ = form.encode(replace(as_web, generation=db.generation + 1))
    old = (site.top / "ds/db/.ioflt").read_bytes()
    with pytest.raises(UsageError, match="is another VM's"):
        mallory.seal_record([own], old, next_)


def test_a_move_to_a_vm_that_one_only_decrypted_takes_no_permission_there(site: Site) -> None:
    web, db = record_of(site.ds, "web"), record_of(site.ds, "db")
    site.grant("mallory", site.ds, "Decrypt")
    site.grant("mallory", site.ds.home("db"), "Access", "Migrate", f"{INVENTORY}.Move")
    clear = replace(
        web, home_id=new_uuid(), state=HomeState.CLEAR, keys=(), names=("web",), generation=web.generation + 1
    )
    mallory = site.client("vm decrypt", "mallory")
    for path in ("ds", "ds/web", "ds/db"):
        show(mallory, site, path)
    mallory.seal_record(site.ds.record.keys, (site.top / "ds/web/.ioflt").read_bytes(), form.encode(clear))
    moves = Move(new_uuid(), clear.home_id, clear.datastore_id)
    next_ = form.encode(replace(db, operation=moves, generation=db.generation + 1))
    mallory.seal_record(db.keys, (site.top / "ds/db/.ioflt").read_bytes(), next_)
    on = wire.Object("vm", clear.home_id, "web", clear.datastore_id)
    assert not site.root.explain_access("mallory", "Cryptographer.Access", on).allowed


def test_a_vm_is_not_made_by_a_record_that_says_that_it_is_there(site: Site, where: Paths) -> None:
    web, db = record_of(site.ds, "web"), record_of(site.ds, "db")
    site.grant("mallory", site.ds, f"{INVENTORY}.Create", "EncryptNew")
    site.grant(
        "mallory", site.ds.home("db"), "Access", "Migrate", f"{INVENTORY}.Move", "RegisterVM",
        f"{INVENTORY}.Register",
    )  # fmt: skip
    end_keyd()
    (own,) = db.keys
    as_web = replace(db, home_id=web.home_id)
    mallory = site.client("vm import", "mallory")
    show(mallory, site, "ds/db")
    mallory.check_record(*forged(where, as_web, own), [own])
    mallory.seal_record([own], None, form.encode(as_web))
    old, later = (site.top / "ds/db/.ioflt").read_bytes(), db.generation + 1
    moves = replace(db, operation=Move(new_uuid(), web.home_id, web.datastore_id), generation=later)
    mallory.seal_record([own], old, form.encode(moves))
    with pytest.raises(UsageError, match="is another VM's"):
        mallory.seal_record([own], old, form.encode(replace(as_web, generation=later)))
    on = wire.Object("vm", web.home_id, "web", web.datastore_id)
    assert not site.root.explain_access("mallory", "Cryptographer.Access", on).allowed


def heard(name: str) -> list[str]:
    """The operations that the log of that folder tells of."""
    told = reader.read(list(reader.on_disk(paths.find().folder_events(name))))
    return [each.event.operation for each in told]


def of_web_elsewhere(site: Site, state: HomeState) -> HomeRecord:
    """mallory's record of `web`, in a datastore of a folder of his."""
    for name, member in (("victim", site.ds), ("his", site.clear)):
        site.root.change_access(wire.CreateFolder(name, None, events=True))
        site.root.change_access(wire.AddMember(name, target(member)))
    web, db = record_of(site.ds, "web"), record_of(site.ds, "db")
    made = replace(
        web, datastore_id=site.clear.record.datastore_id, keys=db.keys, generation=web.generation + 7
    )
    return made if state is HomeState.ENCRYPTED else replace(made, state=state, keys=(), names=("web",))


@pytest.mark.parametrize("shows", ["mallory", None])
@pytest.mark.parametrize("state", HomeState)
def test_the_events_of_a_vm_go_where_its_own_keys_say(
    site: Site, where: Paths, state: HomeState, shows: str | None
) -> None:
    """Also when root looks at what mallory put into a datastore."""
    record = of_web_elsewhere(site, state)
    (own,) = record_of(site.ds, "db").keys
    forger = site.client("vm list", shows)
    assert forger.check_record(*forged(where, record, own), [own]) == [True]
    before = [heard(name) for name in ("victim", "his")]
    site.root.change_access(wire.Grant("alice", "read-only", target(site.ds.home("web"))))
    after = [heard(name) for name in ("victim", "his")]
    assert after == [[*before[0], "permission grant"], before[1]]


def test_a_record_sealed_after_a_forged_one_does_not_say_where_a_vm_is(site: Site, where: Paths) -> None:
    record = of_web_elsewhere(site, HomeState.ENCRYPTED)
    (own,) = record.keys
    site.grant("mallory", site.clear, "Access", "Recrypt", f"{INVENTORY}.Register", "RegisterVM")
    site.grant("mallory", site.ds.home("db"), "Access")
    mallory = site.client("vm register", "mallory")
    show(mallory, site, "ds/db")
    payload, tags = forged(where, record, own)
    assert mallory.check_record(payload, tags, [own]) == [True]
    next_ = replace(record, policy="another", generation=record.generation + 1)
    with suppress(DeniedError):
        mallory.seal_record([own], form.seal(payload, tags), form.encode(next_))
    before = heard("his")
    site.root.change_access(wire.Grant("alice", "read-only", target(site.ds.home("web"))))
    assert heard("his") == before


def test_the_events_of_a_vm_follow_it_to_other_keys_and_datastores(site: Site) -> None:
    of_web_elsewhere(site, HomeState.ENCRYPTED)
    recrypt.recrypt(site.ds, "web")
    move.move(site.ds, "web", site.clear, "web")
    before = heard("victim")
    site.root.change_access(wire.Grant("alice", "read-only", target(site.clear.home("web"))))
    assert heard("victim") == before
    assert heard("his")[-1] == "permission grant"


def test_who_may_register_a_vm_says_what_its_keys_are(site: Site, where: Paths) -> None:
    """It was recrypted and moved on another host."""
    record = of_web_elsewhere(site, HomeState.ENCRYPTED)
    (own,) = record.keys
    site.grant("mallory", site.clear, "Access", "RegisterVM", f"{INVENTORY}.Register")
    site.grant("alice", site.ds, "RegisterVM", f"{INVENTORY}.Register")
    grants = [wire.Grant(who, "read-only", target(site.ds.home("web"))) for who in ("kim", "bob")]
    for who, change, there in (("mallory", grants[0], "victim"), ("alice", grants[1], "his")):
        site.client("vm register", who).check_record(*forged(where, record, own), [own])
        site.root.change_access(change)
        assert heard(there)[-1] == "permission grant"


@pytest.fixture
def forgotten(site: Site, where: Paths) -> HomeRecord:
    """That of `web`: no command of root saw it, no permission names it, and keyd was not shown it."""
    web = record_of(site.ds, "web")
    (where.homes / web.home_id).unlink(missing_ok=True)
    site.grant("mallory", site.ds, f"{INVENTORY}.Create", "EncryptNew")
    site.grant(
        "mallory", site.ds.home("db"), "Access", "Migrate", f"{INVENTORY}.Move", "RegisterVM",
        f"{INVENTORY}.Register", "Recrypt",
    )  # fmt: skip
    end_keyd()
    return web


def test_no_vm_takes_an_id_that_the_keyd_before_knew(site: Site, forgotten: HomeRecord) -> None:
    mallory = site.client("vm register", "mallory")
    db = show(mallory, site, "ds/db")
    next_ = form.encode(replace(db, home_id=forgotten.home_id, generation=db.generation + 1))
    with pytest.raises(UsageError, match="is another VM's"):
        mallory.seal_record(db.keys, (site.top / "ds/db/.ioflt").read_bytes(), next_)


def test_no_vm_is_made_that_the_keyd_before_knew(site: Site, forgotten: HomeRecord) -> None:
    """What was not answered may be asked again, but no permission passes to it."""
    mallory = site.client("vm import", "mallory")
    db = show(mallory, site, "ds/db")
    mallory.seal_record(db.keys, None, form.encode(replace(db, home_id=forgotten.home_id)))
    moves = Move(new_uuid(), forgotten.home_id, forgotten.datastore_id)
    next_ = form.encode(replace(db, operation=moves, generation=db.generation + 1))
    mallory.seal_record(db.keys, (site.top / "ds/db/.ioflt").read_bytes(), next_)
    on = wire.Object("vm", forgotten.home_id, "web", forgotten.datastore_id)
    assert not site.root.explain_access("mallory", "Cryptographer.Access", on).allowed


def test_a_datastore_is_not_what_a_record_under_other_keys_says(
    site: Site, where: Paths, stolen: KeyRef
) -> None:
    site.grant("mallory", site.ds, f"{INVENTORY}.Create")
    real = site.ds.record
    (own,) = record_of(site.ds, "db").keys
    made = DatastoreRecord(real.datastore_id, HomeState.CLEAR, (own,), "", None, real.generation + 1)
    mallory = site.client("vm import", "mallory")
    show(mallory, site, "ds")
    mallory.check_record(*forged(where, made, own), [own])
    clear = HomeRecord(new_uuid(), real.datastore_id, HomeState.CLEAR, (), ("new",), "", False, None)
    with pytest.raises(DeniedError, match=r"Cryptographer\.Decrypt"):
        mallory.seal_record(real.keys, None, form.encode(clear))


def test_who_may_register_a_datastore_says_what_its_keys_are(
    site: Site, where: Paths, stolen: KeyRef
) -> None:
    """Where others were shown before: it was recrypted on another host, or these were forged."""
    site.grant("alice", site.ds, f"{INVENTORY}.Create", "RegisterHost", "Decrypt")
    site.grant("bob", site.ds, f"{INVENTORY}.Create", "Decrypt")
    real = site.ds.record
    (own,) = record_of(site.ds, "db").keys
    made = DatastoreRecord(real.datastore_id, HomeState.CLEAR, (own,), "", None, real.generation)
    site.client("", "mallory").check_record(*forged(where, made, own), [own])
    clear = HomeRecord(new_uuid(), real.datastore_id, HomeState.CLEAR, (), ("new",), "", False, None)
    bob = site.client("vm import", "bob")
    show(bob, site, "ds")
    with pytest.raises(UsageError, match="keys of its datastore"):
        bob.seal_record(real.keys, None, form.encode(clear))
    show(site.client("", "alice"), site, "ds")
    assert len(bob.seal_record(real.keys, None, form.encode(clear))) == len(real.keys)
