"""What the log of a folder has of an event: no name of a VM that is not the folder's."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ioflt.audit.event import Actor, Event, Thing, Value, modified
from ioflt.audit.excerpt import ELSEWHERE, excerpt

WEB = Thing("vm", "00000000-0000-0000-0000-000000000001", "web")
DS = Thing("datastore", "00000000-0000-0000-0000-000000000002", "/srv/ds")


def event(path: str, before: Value, after: Value, about: Thing = WEB, reason: str | None = None) -> Event:
    told = modified(path, before, after)
    who = Actor("user:alice", 1000, 7)
    return Event(datetime(2026, 3, 1, tzinfo=UTC), who, "x", about, DS, (told,), reason=reason)


@pytest.mark.parametrize(
    ("path", "value", "in_the_vm", "in_the_datastore"),
    [
        ("clone", "/srv/ds2/db", ELSEWHERE, ELSEWHERE),
        ("clone", "/srv/ds/db", ELSEWHERE, "/srv/ds/db"),
        ("path", "/srv/ds/web", "/srv/ds/web", "/srv/ds/web"),
        ("file", "web/web.vmdk", "web/web.vmdk", "web/web.vmdk"),
        ("file", "web.old/web.vmdk", ELSEWHERE, "web.old/web.vmdk"),
        ("replaced", "db/db.vmdk", ELSEWHERE, "db/db.vmdk"),
        ("export", "/backup/web.ova", "/backup/web.ova", "/backup/web.ova"),
        ("name", "web", "web", "web"),
        ("file", None, None, None),
    ],
)
def test_places(path: str, value: str | None, in_the_vm: str | None, in_the_datastore: str | None) -> None:
    for whole, told in ((False, in_the_vm), (True, in_the_datastore)):
        (change,) = excerpt(event(path, value, value), whole=whole).changes
        assert (change.before, change.after) == (told, told)


def test_a_reason_goes_with_what_it_may_name() -> None:
    failed = event("clone", None, "/srv/ds2/db", reason="/srv/ds2/db: it exists already")
    assert excerpt(failed, whole=False).reason == ELSEWHERE
    sound = event("export", None, "/backup/web.ova", reason="it exists already")
    assert excerpt(sound, whole=False) == sound


def test_of_a_datastore_everything_in_it_is_told() -> None:
    made = event("file", None, "db/db.vmdk", DS)
    assert excerpt(made, whole=True) == made
