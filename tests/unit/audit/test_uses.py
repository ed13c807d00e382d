"""Who had data keys of a VM, by the events."""

from datetime import UTC, datetime, timedelta

import msgspec

from ioflt.audit.event import Actor, Event, Thing, modified
from ioflt.audit.uses import Use, UsesOfVms

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
WEB, DB = Thing("vm", "web-id", "web"), Thing("vm", "db-id", "db")


def at(minute):
    return BEGIN + timedelta(minutes=minute)


def event(minute, who, operation, thing, **more):
    return Event(at(minute), Actor(f"user:{who}", 1000, 7), operation, thing, **more)


def key(name):
    return Thing("key", name, name)


def key_id(name):
    provider, _, found = name.partition(":")
    return {"keyId": found, "providerId": {"id": provider}}


def rekeyed(minute, who, vm, before, after):
    return event(minute, who, "vm recrypt", vm, changes=(modified("config.keyId", before, after),))


def uses(*events):
    made = UsesOfVms({"vm export"})
    for each in events:
        made.note(each)
    return made


def test_who_was_given_data_keys_under_its_keys():
    found = uses(
        event(1, "alice", "key use", key("corp:1")),
        event(2, "bob", "key use", key("corp:2")),
        event(3, "alice", "key use", key("corp:1")),
        event(4, "carol", "key new", key("corp:1")),
    )
    assert found.of("web-id", ["corp:1"]) == [Use("user:alice", None, None, 2, at(1), at(3))]
    assert found.of("web-id", []) == []


def test_under_keys_that_it_had_before():
    found = uses(
        event(1, "alice", "key use", key("corp:1")),
        rekeyed(2, "bob", WEB, key_id("corp:1"), key_id("corp:2")),
        rekeyed(3, "bob", DB, None, [key_id("corp:3"), key_id("corp:4")]),
        event(4, "carol", "key use", key("corp:4")),
    )
    assert [use.who for use in found.of("web-id", ["corp:2"])] == ["user:alice"]
    assert [use.who for use in found.of("db-id", [])] == ["user:carol"]


def test_for_work_that_hands_them_out_and_is_done():
    denied = {"outcome": "denied", "privilege": "Cryptographer.Access"}
    acting = event(4, "root", "vm export", WEB)
    found = uses(
        event(1, "alice", "vm export", WEB),
        event(2, "bob", "vm export", WEB, **denied),
        event(3, "carol", "vm mark", WEB),
        msgspec.structs.replace(acting, by=Actor("user:root", 0, 7, as_principal="user:dave")),
        event(5, "alice", "key use", key("corp:1")),
    )
    assert found.of("web-id", ["corp:1"]) == [
        Use("user:alice", None, None, 2, at(1), at(5)),
        Use("user:root", "user:dave", None, 1, at(4), at(4)),
    ]


def test_for_whom_a_mount_opened_its_files():
    found = uses(
        event(1, "root", "file open", WEB, reported=True, served_uid=1000),
        event(2, "root", "file create", WEB, reported=True, served_uid=1000),
        event(3, "root", "file remove", WEB, reported=True, served_uid=1001),
        event(4, "root", "file open", DB, reported=True, served_uid=1001),
    )
    assert found.of("web-id", []) == [Use("user:root", None, 1000, 2, at(1), at(2))]


def test_what_is_no_key_in_a_change_is_passed_over():
    found = uses(
        rekeyed(1, "alice", WEB, "corp:1", {"keyId": 1}), event(2, "alice", "key use", key("corp:1"))
    )
    assert found.of("web-id", []) == []
