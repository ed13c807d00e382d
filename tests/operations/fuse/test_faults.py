"""I/O errors under open files: the errno arrives at the caller, and nobody else notices."""

from __future__ import annotations

import errno
import os

import pyfuse3
import pytest

from ioflt.datastore import container, files
from ioflt.filters.backing import Backing
from ioflt.filters.base import Link
from ioflt.filters.fault import Fault, Plan
from ioflt.filters.written import Written
from tests.operations.fuse.client import ROOT, Client, fails

SIZE = 64 << 10
ALLOCATE, PUNCH, ZERO = 0, 3, 0x10

pytestmark = pytest.mark.allow_log("the datastore's file system|could not be written back|closing|vm/|plain/")


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Every file that is opened has a filter at its bottom that fails by this plan."""
    made = Plan()

    def faulty(fd: int, start: int, written: Written | None) -> Link:
        return Fault(Backing(fd, start, written), made)

    monkeypatch.setattr(container, "Backing", faulty)
    monkeypatch.setattr(files, "Backing", faulty)
    return made


@pytest.fixture(params=["vm", "plain"])
def home(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


async def made(client: Client, home: str, name: str) -> int:
    """An open file of `SIZE` bytes."""
    top = (await client.lookup(ROOT, home)).st_ino
    handle, _ = await client.create(top, name)
    await client.write(handle, b"a" * SIZE)
    await client.operations.fsync(handle, datasync=False)
    return handle


def inode(client: Client, handle: int) -> int:
    return client.operations.handles.files[handle].node.number


OPERATIONS = {
    "read": ("read", lambda client, handle: client.read(handle, 0, 5000)),
    "write": ("write", lambda client, handle: client.write(handle, b"b" * 4096, 4096)),
    "write part of a sector": ("read", lambda client, handle: client.write(handle, b"b", 5)),
    "append": ("write", lambda client, handle: client.write(handle, b"b" * 10, SIZE)),
    "extend": (
        "resize",
        lambda client, handle: client.setattr(inode(client, handle), handle, st_size=1 << 20),
    ),
    "cut": ("resize", lambda client, handle: client.setattr(inode(client, handle), handle, st_size=8192)),
    "allocate": ("allocate", lambda client, handle: client.operations.fallocate(handle, ALLOCATE, 0, SIZE)),
    "punch": ("punch", lambda client, handle: client.operations.fallocate(handle, PUNCH, 0, 8192)),
    "zero": ("zero", lambda client, handle: client.operations.fallocate(handle, ZERO, 0, 8192)),
    "seek data": ("seek_data", lambda client, handle: client.operations.lseek(handle, 0, os.SEEK_DATA)),
    "seek hole": ("seek_hole", lambda client, handle: client.operations.lseek(handle, 0, os.SEEK_HOLE)),
    "fsync": ("sync", lambda client, handle: client.operations.fsync(handle, datasync=False)),
    "fdatasync": ("sync", lambda client, handle: client.operations.fsync(handle, datasync=True)),
}


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_the_errno_arrives_and_the_other_file_is_served(
    client: Client, plan: Plan, home: str, operation: str, number: int
) -> None:
    other = await made(client, home, "other")
    handle = await made(client, home, "faulty")
    call, attempt = OPERATIONS[operation]
    if (home, operation) == ("plain", "write part of a sector"):
        call = "write"  # nothing is merged
    plan.calls.clear()
    plan.errors[call] = {1: number}
    with fails(number):
        await attempt(client, handle)
    assert await client.read(other) == b"a" * SIZE
    await client.write(other, b"c", 7)
    await client.operations.fsync(other, datasync=False)
    await client.close(other)


@pytest.mark.parametrize("operation", ["write", "append", "write part of a sector"])
async def test_a_write_that_failed_changed_nothing(
    client: Client, plan: Plan, home: str, operation: str
) -> None:
    handle = await made(client, home, "faulty")
    plan.calls.clear()
    plan.errors["write"] = {1: errno.ENOSPC}
    with fails(errno.ENOSPC):
        await OPERATIONS[operation][1](client, handle)
    assert await client.read(handle) == b"a" * SIZE
    await OPERATIONS[operation][1](client, handle)  # there is room again
    await client.operations.fsync(handle, datasync=False)
    await client.close(handle)


async def test_a_failed_fsync_is_final(client: Client, plan: Plan) -> None:
    """The kernel drops the pages that it could not write: a second fsync would lie."""
    handle = await made(client, "vm", "faulty")
    await client.write(handle, b"b", 0)
    plan.calls.clear()
    plan.errors["sync"] = {1: errno.EIO}
    for _ in range(2):
        with fails(errno.EIO):
            await client.operations.fsync(handle, datasync=False)
    with fails(errno.EIO):
        await client.write(handle, b"b", 0)
    assert plan.calls["sync"] == 1


async def test_wherever_a_session_is_cut_only_errnos_leave_it(client: Client, plan: Plan, home: str) -> None:
    """Each call of each operation of the bottom fails once."""

    errnos = set()

    async def session(name: str) -> None:
        for attempt in (
            lambda _client, _handle: made(client, home, name),
            *(attempt for _, attempt in OPERATIONS.values()),
            lambda _client, handle: client.close(handle),
        ):
            handle = client.open_handles[-1] if client.open_handles else 0
            try:
                await attempt(client, handle)
            except pyfuse3.FUSEError as error:
                errnos.add(error.errno)
        await client.end()

    await session("counts")
    assert errnos <= {errno.ENXIO}  # after the cut there is only a hole
    numbers = dict(plan.calls)
    assert set(numbers) == {call for call, _ in OPERATIONS.values()}
    for call, count in numbers.items():
        for position in range(1, count + 1):
            plan.calls.clear()
            plan.errors = {call: {position: errno.EIO}}
            await session(f"{call} {position}")
    assert errnos == {errno.EIO, errno.ENXIO}
    plan.errors.clear()
    top = (await client.lookup(ROOT, home)).st_ino
    for name in await client.names(top):
        if name not in (".", ".."):
            handle = await client.open((await client.lookup(top, name)).st_ino, os.O_RDONLY)
            await client.read(handle)
            await client.close(handle)
    await client.end()
    assert [node.number for node in client.operations.nodes.all()] == [ROOT]


async def test_a_file_whose_close_failed_is_opened_anew(
    client: Client, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """close(2) on a network file system tells of writes that it could not do; the descriptor is gone then,
    and its number is the next file's."""
    handle = await made(client, home, "faulty")
    number = inode(client, handle)
    file = client.operations.handles.files[handle].node.file
    assert file is not None
    really = file.close

    def close() -> None:
        really()
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(file, "close", close)
    await client.close(handle)
    top = (await client.lookup(ROOT, home)).st_ino
    other, _ = await client.create(top, "other")
    await client.write(other, b"other" * 1000)
    assert await client.read(await client.open(number)) == b"a" * SIZE
    await client.end()
    assert [node.number for node in client.operations.nodes.all()] == [ROOT]
