"""What a mount's queue of events does when keyd takes them late, or not at all."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence

import pytest
import trio
import trio.testing

from ioflt.datastore.volume import Volume
from ioflt.errors import BusyError, IntegrityError, IofltError, StorageError
from ioflt.fuse.events import MAX_QUEUE
from ioflt.wire.keyd.replies import EventLogSettings
from ioflt.wire.keyd.requests import Report
from tests.operations.fuse.client import ROOT, Client, fails, operations_of


class Log:
    """Stands for keyd's log. `failure`: why it takes nothing now."""

    def __init__(self) -> None:
        self.taken: list[Report] = []
        self.required = True
        self.failure: IofltError | None = None

    def send(self, reports: Sequence[Report]) -> EventLogSettings:
        if self.failure is not None:
            raise self.failure
        self.taken += reports
        return EventLogSettings(self.required, "none")

    @property
    def told(self) -> list[str]:
        return [report.operation for report in self.taken]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def client(volume: Volume, log: Log) -> Iterator[Client]:
    made = Client(operations_of(volume, log.send))
    yield made
    made.operations.close()


async def test_names_and_first_opens_are_told_in_their_order(client: Client, log: Log) -> None:
    top = (await client.lookup(ROOT, "vm")).st_ino
    handle, entry = await client.create(top, "a")
    await client.close(handle)
    await client.close(await client.open(entry.st_ino))  # not the first time
    await client.operations.rename(top, b"a", top, b"b", 0, client.caller)
    await client.operations.unlink(top, b"b", client.caller)
    await client.operations.events.flush()
    assert log.told == ["file create", "file open", "file rename", "file remove"]
    (renamed,) = log.taken[2].changes
    assert (renamed.before, renamed.after) == ("vm/a", "vm/b")
    assert {report.served_uid for report in log.taken} == {client.caller.uid}


async def test_an_integrity_failure_names_the_vm_the_file_and_the_sectors(client: Client, log: Log) -> None:
    vm = await client.lookup(ROOT, "vm")
    handle, _ = await client.create(vm.st_ino, "a")
    await client.close(handle)
    found = IntegrityError("changed data", "not verify", file="vm/a", sectors=((3, 3), (9, 1)))
    client.operations.damaged(found)
    client.operations.damaged(found)  # once in a while
    client.operations.damaged(IntegrityError("no tags", file="gone/a"))
    await client.operations.events.flush()
    in_vm, elsewhere = (report for report in log.taken if report.operation == "integrity failure")
    home_id = client.operations.volume.home("vm").unverified().record.home_id
    assert (in_vm.object.kind, in_vm.object.id, in_vm.object.shown) == ("vm", home_id, "vm")
    assert [(each.path, each.after) for each in in_vm.changes] == [("file", "vm/a"), ("sectors", "3-5, 9")]
    assert (in_vm.outcome, in_vm.reason) == ("failed", "changed data: not verify")
    assert elsewhere.object == in_vm.datastore


@pytest.mark.allow_log("events are not logged|nothing is changed|are lost")
async def test_once_events_were_refused_nothing_is_changed_until_they_are_taken(
    client: Client, log: Log
) -> None:
    top = (await client.lookup(ROOT, "vm")).st_ino
    await client.create(top, "a")
    log.failure = StorageError("cannot write the event log", errno.ENOSPC)
    await client.operations.events.flush()
    with fails(errno.EIO):
        await client.create(top, "b")
    with fails(errno.EIO):
        await client.operations.unlink(top, b"a", client.caller)
    log.failure = None
    await client.operations.events.flush()
    await client.create(top, "b")
    await client.operations.events.flush()
    assert log.told == ["file create", "file open"] * 2


@pytest.mark.allow_log("are lost")
async def test_who_reports_too_much_waits(client: Client, log: Log) -> None:
    events = client.operations.events
    root = client.operations.nodes[ROOT]
    for index in range(MAX_QUEUE):
        events.linked(root, str(index), 0)
    log.failure = BusyError("too many")
    done = trio.Event()

    async def change() -> None:
        await events.room()
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        await trio.testing.wait_all_tasks_blocked()
        await events.flush()  # refused for now
        await trio.testing.wait_all_tasks_blocked()
        assert not done.is_set()
        log.failure = None
        await events.flush()
        await done.wait()
    assert len(log.taken) == MAX_QUEUE


@pytest.mark.allow_log("an event is lost|events are not logged|are lost")
async def test_events_that_are_not_required_stop_nothing(client: Client, log: Log) -> None:
    events = client.operations.events
    root = client.operations.nodes[ROOT]
    log.required = False
    events.linked(root, "a", 0)
    await events.flush()
    log.failure = StorageError("cannot write the event log", errno.ENOSPC)
    for index in range(MAX_QUEUE + 10):
        events.linked(root, str(index), 0)
    await events.flush()
    await events.room()
