"""A folder's own event log: what happens in the folder, and nothing of another tenant's."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioflt import paths
from ioflt.audit import log as log_module
from ioflt.audit import reader
from ioflt.audit.event import Event, Thing
from ioflt.audit.reader import LogFile
from ioflt.datastore import recrypt
from ioflt.errors import DeniedError, NotFoundError, StorageError, UsageError
from ioflt.keyd.recorder import Recorder, event
from ioflt.wire.keyd import access as wire
from ioflt.wire.keyd.requests import Report, ReportedChange, ReportedThing
from tests.daemons import end_keyd
from tests.machine import Machine, User
from tests.operations.keyd.test_enforcement import Site, read, record_of, target

ALICE, BOB = User("alice", 61001), User("bob", 61002)


@pytest.fixture
def site(where, tmp_path: Path) -> Iterator[Site]:
    """The folder `red` lists the VM web, `blue` the VM db and the datastore `clear`; both have logs."""
    made = Site(tmp_path)
    for name, members in (("red", (made.ds.home("web"),)), ("blue", (made.ds.home("db"), made.clear))):
        made.root.change_access(wire.CreateFolder(name, None, events=True))
        for member in members:
            made.root.change_access(wire.AddMember(name, target(member)))
    made.root.change_access(wire.CreateRole("auditor", ("Global.Diagnostics",)))
    made.root.change_access(wire.Grant("alice", "auditor", wire.Object("folder", "red", "folder:red")))
    try:
        yield made
    finally:
        made.close()


def told(folder: str | None = None) -> list[Event]:
    """The events of a log whose chain holds."""
    directory = paths.find().events if folder is None else paths.find().folder_events(folder)
    files = list(reader.on_disk(directory))
    assert reader.verify(files).findings == ()
    return [each.event for each in reader.read(files)]


def text(files: Iterator[LogFile]) -> bytes:
    return b"".join(file.data for file in files)


def folder(name: str) -> wire.Object:
    return wire.Object("folder", name, f"folder:{name}")


def test_each_tenant_hears_of_what_is_his(site: Site) -> None:
    for name in ("web", "db"):
        recrypt.recrypt(site.as_("root", "vm recrypt"), name)
        assert read(site.as_("root", "mount"), f"{name}/disk.img")
    plain = target(site.clear.home("plain"))
    site.root.change_access(wire.Grant("bob", "read-only", plain))  # by its datastore
    got = text(site.client("events", "alice").event_files("red"))
    names = {"web": target(site.ds.home("web")), "db": target(site.ds.home("db"))}
    keys = {name: record_of(site.ds, name).keys[0].key_id.encode() for name in names}
    for what, others in (("red", "db"), ("blue", "web")):
        log = text(reader.on_disk(paths.find().folder_events(what)))
        own = "web" if others == "db" else "db"
        assert names[own].id.encode() in log
        assert keys[own] in log
        for foreign in (names[others].id.encode(), keys[others], b'"%s"' % others.encode()):
            assert foreign not in log
    assert plain.id.encode() in log
    assert got == text(reader.on_disk(paths.find().folder_events("red")))
    assert {"folder create", "folder add", "permission grant", "key use", "vm recrypt"} <= {
        each.operation for each in told("red")
    }
    everything = told()
    for each in told("red"):
        assert each in everything


def test_a_copy_to_another_tenant_is_elsewhere(site: Site) -> None:
    """Only the one who has the source hears of it, and not what the copy is called."""
    web, around = target(site.ds.home("web")), target(site.ds)
    thing = ReportedThing("vm", web.id, "web")
    datastore = ReportedThing("datastore", around.id, around.shown)
    to = str(site.top / "clear/secret")
    report = Report(
        "vm clone", thing, datastore, (ReportedChange("clone", None, to),), "failed", f"{to}: it is"
    )
    site.client("vm clone", None).note_events([report])
    assert (told()[-1].changes[0].after, told()[-1].reason) == (to, f"{to}: it is")
    last = told("red")[-1]
    assert (last.operation, last.changes[0].after, last.reason) == ("vm clone", "(elsewhere)", "(elsewhere)")
    assert b"secret" not in text(reader.on_disk(paths.find().folder_events("red")))
    assert "vm clone" not in [each.operation for each in told("blue")]


def test_who_may_read_it(site: Site) -> None:
    alice = site.client("events", "alice")
    for _ in range(2):  # what was allowed once of one folder is not of another, nor of everything
        assert list(alice.event_files("red"))
        with pytest.raises(DeniedError, match=r"permission denied: Global\.Diagnostics on folder:blue"):
            list(alice.event_files("blue"))
        with pytest.raises(DeniedError, match=r"permission denied: Global\.Diagnostics on everything"):
            list(alice.event_files())
        with pytest.raises(DeniedError, match=r"permission denied: Global\.Diagnostics on folder:nosuch"):
            list(alice.event_files("nosuch"))
    assert [each.outcome for each in told("blue") if each.object == Thing("folder", "blue", "folder:blue")][
        -1
    ] == "denied"
    with pytest.raises(NotFoundError, match="no event log of a folder: nosuch"):
        list(site.root.event_files("nosuch"))
    for bad in ("../red", "..", "red/", "Red"):
        with pytest.raises(UsageError, match="not a name of a folder"):
            list(site.root.event_files(bad))


def test_it_goes_on_in_the_next_keyd(site: Site, where) -> None:
    before = told("red")
    path = where.folder_events("red") / "0001.jsonl"
    end_keyd()
    with path.open("ab") as file:
        file.write(b'{"seq":')
    site.root.change_access(wire.Grant("bob", "read-only", target(site.ds.home("web"))))
    after = told("red")
    assert after[: len(before)] == before
    assert [each.operation for each in after[len(before) :]] == ["events repair", "permission grant"]
    assert reader.set_aside(path.parent) == []
    assert reader.set_aside(where.events) == []
    assert "events repair" not in [each.operation for each in told()]


def test_its_provider_and_its_events_are_set_apart(site: Site) -> None:
    for change, provider, has in (
        (wire.SetFolder("red", "corp"), "corp", True),
        (wire.SetFolder("red", events=False), "corp", False),
        (wire.SetFolder("red", None), None, False),
        (wire.SetFolder("red", "corp", events=True), "corp", True),
    ):
        site.root.change_access(change)
        now = site.root.access().folder("red")
        assert (now.provider, now.events) == (provider, has)
    # It ends and begins with who said so, and has nothing of the time between.
    operations = [each.changes[0].path for each in told("red") if each.operation == "folder set"]
    ends = 'access.folder("red").events'
    assert operations == ['access.folder("red").provider', ends, 'access.folder("red").provider']
    assert [change.path for change in told("red")[-1].changes][-1] == ends


def test_a_deleted_folders_log_stays_and_is_no_later_ones(site: Site, where) -> None:
    site.root.change_access(wire.RemoveFolder("red"))
    last = told("red")[-1]
    assert (last.operation, last.object) == ("folder delete", Thing("folder", "red", "folder:red"))
    kept = text(site.root.event_files("red"))
    with pytest.raises(DeniedError, match=r"permission denied: Global\.Diagnostics on folder:red"):
        list(site.client("events", "alice").event_files("red"))
    site.root.change_access(wire.CreateFolder("red", None, events=True))
    assert [each.operation for each in told("red")] == ["folder create"]
    (former,) = where.events.glob("former-red-*")
    assert text(reader.on_disk(former)) == kept


class Disk:
    """The disk of a log is full, when that is told of its directory."""

    full: Path | None = None


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    found = Disk()

    def pwrite(fd: int, data: bytes, offset: int, real=os.pwrite) -> int:
        if found.full is not None and Path(os.readlink(f"/proc/self/fd/{fd}")).parent == found.full:
            raise OSError(errno.ENOSPC, "")
        return real(fd, data, offset)

    monkeypatch.setattr(log_module.os, "pwrite", pwrite)
    return found


@pytest.fixture
def recorder(where) -> Iterator[Recorder]:
    """One of a keyd in which everything is about the folder `red`."""
    made = Recorder(where)
    made.tell_folders(lambda each: {"red": each})
    yield made
    made.close()


def test_what_a_folder_cannot_be_told_does_not_happen(recorder: Recorder, disk: Disk, where) -> None:
    recorder.record(event("one"))
    disk.full = where.folder_events("red")
    for record in (recorder.record, recorder.record_soon):
        with pytest.raises(StorageError):
            record(event("two"))
    disk.full = where.events  # the folder has heard of it, and hears that it was not done
    with pytest.raises(StorageError):
        recorder.record(event("three"))
    disk.full = None
    recorder.record(event("four"))
    recorder.close()
    assert [(each.operation, each.outcome) for each in told()] == [("one", "done"), ("four", "done")]
    assert [(each.operation, each.outcome) for each in told("red")] == [
        ("one", "done"),
        ("three", "done"),
        ("three", "failed"),
        ("four", "done"),
    ]


def test_where_events_are_not_required_the_log_of_all_has_them(
    recorder: Recorder, disk: Disk, where, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.record(event("one"))
    recorder.change(required=False, sink=None)
    disk.full = where.folder_events("red")
    with caplog.at_level("CRITICAL"):
        recorder.record(event("two"))
    disk.full = None
    recorder.close()
    assert [each.operation for each in told()] == ["one", "events set", "two"]
    assert [each.operation for each in told("red")] == ["one", "events set"]


@pytest.mark.root
@pytest.mark.interop("unshare", "setpriv", "nsenter")
def test_a_delegated_administrator_reads_his_folders_events() -> None:
    with Machine([ALICE, BOB]) as machine:
        machine.root("role", "create", "auditor", "--privilege", "Global.Diagnostics")
        for name, who in (("red", "alice"), ("blue", "bob")):
            machine.root("folder", "create", name, "--events")
            machine.root("permission", "grant", who, "auditor", f"folder:{name}")
        for user, own, other in ((ALICE, "red", "blue"), (BOB, "blue", "red")):
            found = machine.ioflt(user, "events", "--folder", own, "--json")
            assert {each["object"]["id"] for each in json.loads(found.stdout)} == {own}
            assert "sound" in machine.ioflt(user, "events", "verify", "--folder", own, "--json").stdout
            for arguments, place in (
                (("events", "--folder", other), f"folder:{other}"),
                (("events", "verify", "--folder", other), f"folder:{other}"),
                (("events",), "everything"),
            ):
                done = machine.ioflt(user, *arguments)
                denied = f"ioflt: permission denied: Global.Diagnostics on {place}\n"
                assert (done.returncode, done.stderr.splitlines(keepends=True)[0]) == (3, denied)
