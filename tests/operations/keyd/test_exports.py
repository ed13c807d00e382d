"""Exports of disks as keyd knows them: who may begin one, what ends it, and which events tell of it."""

from __future__ import annotations

import select
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ioflt.errors import BusyError, DeniedError, NotFoundError, ProviderLocked, UsageError
from ioflt.keys.client import KeyClient
from ioflt.keys.export_requests import BegunExport
from ioflt.keys.link import Link
from ioflt.wire.keyd import access as wire
from ioflt.wire.keyd import replies, requests
from ioflt.wire.keyd.values import MAX_EXPORT_PAGE, Key
from tests.operations.keyd.test_enforcement import Site, record_of, target
from tests.operations.keyd.test_events import events
from tests.waiting import PATIENCE_S, eventually

BACKUP = "service:backup"


@pytest.fixture
def site(where, tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    made.root.change_access(wire.CreateService("backup", None))
    try:
        yield made
    finally:
        made.close()


def begin(site: Site, keys: KeyClient, name: str = "web") -> BegunExport:
    """What a process begins that has opened the VM."""
    volume = site.volume(keys, "clear" if name == "plain" else "ds")
    record = record_of(volume, name)
    key = record.keys[0] if record.keys else None
    return keys.begin_export(
        record.home_id, record.datastore_id, name, "disk.img", "nbdssl", key=key, ticket="abcd", until=7
    )


def ends(export: BegunExport) -> Exception:
    assert select.select([export], [], [], PATIENCE_S)[0]
    return export.why()


def told(where, operation: str) -> list:
    return [event for event in events(where) if event.operation == operation]


def test_who_may_read_the_vm_exports_it(site: Site, where) -> None:
    keys = site.client("backup export", BACKUP)
    with pytest.raises(DeniedError, match=r"Cryptographer\.Access on web"):
        begin(site, keys)
    site.grant(BACKUP, site.ds.home("web"), "Access")
    with begin(site, keys) as export:
        assert not select.select([export], [], [], 0)[0]
        keys.end_export(export, "its ticket was used")
    eventually(lambda: told(where, "export end"))
    begun, ended = told(where, "backup export")[-1], told(where, "export end")[-1]
    assert begun.by.as_principal == ended.by.as_principal == BACKUP
    assert (begun.object.shown, begun.privilege) == ("web", "Cryptographer.Access")
    assert begun.changes[0].after == {
        "disk": "disk.img", "transport": "nbdssl", "ticket": "abcd", "until": 7,
    }  # fmt: skip
    assert ended.reason == "its ticket was used"


def test_it_ends_when_he_may_not_any_more_and_no_other_does(site: Site, where) -> None:
    site.grant(BACKUP, site.ds.home("web"), "Access")
    others = site.client("backup export", None)
    with begin(site, site.client("backup export", BACKUP)) as export, begin(site, others) as other:
        site.root.change_access(wire.CreateRole("unrelated", ()))
        assert not select.select([export, other], [], [], 0)[0]
        site.root.change_access(wire.Revoke(BACKUP, target(site.ds.home("web"))))
        error = ends(export)
        assert isinstance(error, DeniedError)
        assert not select.select([other], [], [], 0)[0]
    eventually(lambda: len(told(where, "export end")) == 2)
    assert [event.reason for event in told(where, "export end")] == [str(error), "its process is gone"]


def test_who_sees_which_exports(site: Site) -> None:
    """His own, and those of VMs whose events he reads."""
    site.root.change_access(wire.CreateService("auditor", None))
    for name in ("web", "db"):
        site.grant(BACKUP, site.ds.home(name), "Access")
    keys, root = site.client("backup export", BACKUP), site.client("backup export", None)
    auditor = site.client("backup exports", "service:auditor")
    with begin(site, keys) as web, begin(site, root, "db") as db:
        assert [(one.id, one.vm, one.disk, one.principal) for one in keys.exports()] == [
            (web.ident, "web", "disk.img", BACKUP)
        ]
        assert (keys.exports()[0].transport, keys.exports()[0].until) == ("nbdssl", 7)
        assert {one.id for one in root.exports()} == {web.ident, db.ident}
        assert auditor.exports() == []
        site.grant("service:auditor", site.ds.home("db"), "Global.Diagnostics")
        assert [one.id for one in auditor.exports()] == [db.ident]
    eventually(lambda: root.exports() == [])


def test_more_exports_than_a_page(site: Site) -> None:
    with ExitStack() as open_:
        begun = [
            open_.enter_context(begin(site, site.client("backup export", None)))
            for _ in range(MAX_EXPORT_PAGE + 1)
        ]
        assert [one.id for one in site.root.exports()] == sorted(one.ident for one in begun)


def test_a_lock_waits_for_exports_to_be_gone(site: Site) -> None:
    with begin(site, site.client("backup export", None)) as export:
        locking = threading.Thread(target=site.root.lock, args=("refuse",))
        locking.start()
        assert isinstance(ends(export), ProviderLocked)
        assert site.root.status().state == "open"  # while there is one
    locking.join(PATIENCE_S)
    assert site.root.status().state == "locked"
    site.root.unlock()


def test_a_clear_vm_is_exported_by_anybody(site: Site) -> None:
    keys = site.client("backup export", BACKUP)
    with begin(site, keys, "plain"):
        pass
    site.grant(BACKUP, site.ds.home("web"), "Access")
    record = record_of(site.volume(keys), "web")
    with pytest.raises(UsageError, match="encrypted"):  # but not one that is said to be clear
        keys.begin_export(record.home_id, record.datastore_id, "web", "disk.img", "nbd", key=None)


def test_what_makes_no_sense(site: Site, where) -> None:
    keys = site.client("backup export", None)
    record = record_of(site.ds, "web")
    with begin(site, keys) as export, site.client("backup export", None) as other:
        other.end_export(export, "of the same process")
        asked = requests.EndExport("0" * 32, "of none")
        with pytest.raises(NotFoundError):
            keys._ask(asked, replies.Done)
    begun = requests.BeginExport(record.home_id, record.datastore_id, "web", "disk.img", "nbd")
    link, _ = keys._ask_alone(
        requests.BeginExport(record.home_id, record.datastore_id, "web", "d", "nbd", Key.of(record.keys[0])),
        replies.ExportBegun,
    )
    with link:
        assert link.call(begun).error == BusyError.__name__
    with Link.open(where.keyd_socket) as bare:
        assert bare.call(requests.AwaitExport()).error == UsageError.__name__
        bare.post(requests.AwaitExport())
        assert bare.collect().error == UsageError.__name__
