"""Every transport mode, through the contract: disks of all forms, and the same under trio."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from ioflt import backup
from ioflt.backup import aio
from ioflt.backup.disk import VirtualDisk
from ioflt.datastore import tree
from ioflt.errors import KeyUnavailableError, NotFoundError, UsageError
from ioflt.format.vmdk.compose import compose
from ioflt.format.vmdk.stream import StreamWriter
from ioflt.testing.check_transport import check_transport
from ioflt.types import Area, HomeState
from tests.unit.backup.disks import cowd, qcow2, sesparse, text
from tests.unit.datastore.stored import Stored

K64 = 64 << 10
NOISE = random.Random(1)
DATA = NOISE.randbytes(3 * K64)
#: 2 MiB and a sector, with data at both ends and in between.
SIZE = (2 << 20) + 512
CONTENT = DATA.ljust(1 << 20, b"\0") + DATA[:K64].ljust(1 << 20, b"\0") + DATA[:512]
HOLE = Area(4 * K64, 8 * K64)
SECTORS = SIZE // 512

Form = Callable[[Stored], str]


def stream() -> bytes:
    writer = StreamWriter(SIZE, compose("streamOptimized", capacity=SIZE, file_name="d.vmdk", cid=1))
    start = writer.start()
    grains = [writer.write(at, CONTENT[at : at + K64]) for at in range(0, SIZE, K64)]
    return b"".join((start, *grains, writer.finish()))


def pieces(unit: int) -> dict[int, bytes]:
    """The units of the disk that are not zeros."""
    units = {at // unit: CONTENT[at : at + unit].ljust(unit, b"\0") for at in range(0, SIZE, unit)}
    return {number: data for number, data in units.items() if any(data)}


def thin(stored: Stored, name: str) -> None:
    with tree.created(tree.HomeSide(stored.home), stored.home.fd, name) as file:
        file.truncate(SIZE)
        for number, data in pieces(512).items():
            file.write(number * 512, data)


def raw(stored: Stored) -> str:
    thin(stored, "disk.raw")
    return "disk.raw"


def flat(stored: Stored) -> str:
    thin(stored, "d-flat.vmdk")
    stored.put("d.vmdk", text(f'RW {SECTORS} VMFS "d-flat.vmdk"'))
    return "d.vmdk"


def several(stored: Stored) -> str:
    """Two flat extents, zeros between them."""
    first, last = 6 * K64, SIZE - (1 << 20)
    stored.put("a", CONTENT[:first])
    stored.put("b", b"x" * 512 + CONTENT[-last:])
    zeros = SIZE - first - last
    lines = (f'RW {first // 512} FLAT "a" 0', f"RW {zeros // 512} ZERO", f'RW {last // 512} FLAT "b" 1')
    stored.put("d.vmdk", text(*lines, kind="twoGbMaxExtentFlat"))
    return "d.vmdk"


def packed(stored: Stored) -> str:
    stored.put("d.vmdk", stream())
    return "d.vmdk"


def delta(stored: Stored) -> str:
    """A snapshot of another: half of the disk is in each."""
    grains = pieces(4096)
    end = SIZE // 4096 * 4096  # seSparse grains are whole, the disk's last one is not
    stored.put("base-delta.vmdk", cowd(SIZE, pieces(512)))
    stored.put("base.vmdk", text(f'RW {SECTORS} VMFSSPARSE "base-delta.vmdk"', kind="vmfsSparse", cid=5))
    over: dict[int, bytes | None] = {n: data for n, data in grains.items() if n % 2 and n * 4096 < end}
    stored.put("d-sesparse.vmdk", sesparse(SIZE, over))
    line = f'RW {SECTORS} SESPARSE "d-sesparse.vmdk"'
    stored.put("d.vmdk", text(line, kind="seSparse", parent=("base.vmdk", 5)))
    return "d.vmdk"


def increments(stored: Stored) -> str:
    stored.put("0.qcow2", qcow2(SIZE, (0, NOISE.randbytes(8 * K64))))
    units = pieces(K64)
    first = [(number * K64, units.get(number, bytes(K64))) for number in range(4)]
    stored.put("1.qcow2", qcow2(SIZE, *first, (4 * K64, bytes(4 * K64)), backing="0.qcow2"))
    later = [(number * K64, data[: SIZE - number * K64]) for number, data in units.items() if number > 3]
    stored.put("2.qcow2", qcow2(SIZE, *later, backing="1.qcow2"))
    return "2.qcow2"


FORMS: dict[str, Form] = {form.__name__: form for form in (raw, flat, several, packed, delta, increments)}
HAVE_HOLES = ("raw", "flat", "packed", "delta", "increments")


@pytest.fixture(params=[HomeState.ENCRYPTED, HomeState.CLEAR], ids=["encrypted", "clear"])
def stored(request: pytest.FixtureRequest, ioflt_home: Path, tmp_path: Path) -> Iterator[Stored]:
    made = Stored(tmp_path, request.param)
    yield made
    made.close()


def opener(stored: Stored, form: str, mode: str) -> Callable[[], VirtualDisk]:
    return partial(backup.open_disk, stored.volume, "web", FORMS[form](stored), mode)


@pytest.mark.parametrize("form", FORMS)
def test_file(stored: Stored, form: str) -> None:
    holes = (HOLE,) if form in HAVE_HOLES else ()
    check_transport(opener(stored, form, "file"), CONTENT, holes)


@pytest.mark.parametrize("form", FORMS)
def test_san(ioflt_home: Path, tmp_path: Path, form: str) -> None:
    stored = Stored(tmp_path, HomeState.CLEAR)
    try:
        check_transport(opener(stored, form, "san"), CONTENT, (HOLE,) if form in HAVE_HOLES else ())
    finally:
        stored.close()


# Under trio


@pytest.mark.parametrize("form", FORMS)
async def test_tasks_take_turns(stored: Stored, form: str) -> None:
    """Several tasks read one disk; areas and reads go side by side."""
    name = FORMS[form](stored)
    made = bytearray(SIZE)
    places = random.Random(2)

    async def read_somewhere(disk: aio.AsyncDisk) -> None:
        for _ in range(30):
            at = places.randrange(SIZE - 5000)
            assert await disk.read(at, 5000) == CONTENT[at : at + 5000]

    async with await aio.open_disk(stored.volume, "web", name) as disk, trio.open_nursery() as nursery:
        assert disk.capacity == SIZE
        for _ in range(3):
            nursery.start_soon(read_somewhere, disk)
        async for area in disk.areas():
            made[area.start : area.end] = await disk.read(area.start, area.length)
    assert made == CONTENT


class Slow:
    """A disk whose read waits until it is let go."""

    capacity = 512

    def __init__(self) -> None:
        self.begun = trio.Event()
        self.closed = self.reading = False
        self._token = trio.lowlevel.current_trio_token()
        self.let_go = threading.Event()

    def read(self, offset: int, length: int) -> memoryview:
        self.reading = True
        self._token.run_sync_soon(self.begun.set)
        assert self.let_go.wait(60)
        self.reading = False
        return memoryview(bytes(length))

    def areas(self, offset: int = 0, length: int | None = None) -> Iterator[Area]:
        yield Area(0, 512)

    def close(self) -> None:
        assert not self.reading
        self.closed = True

    def __enter__(self) -> Slow:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def test_a_disk_that_is_cancelled_is_closed_after_its_read() -> None:
    slow = Slow()
    with trio.CancelScope() as scope:
        async with aio.AsyncDisk(slow) as disk, trio.open_nursery() as nursery:
            nursery.start_soon(disk.read, 0, 512)
            await slow.begun.wait()
            scope.cancel()
            slow.let_go.set()
    assert scope.cancel_called
    assert slow.closed


async def test_errors_come_out_of_the_thread(stored: Stored) -> None:
    with pytest.raises(NotFoundError):
        await aio.open_disk(stored.volume, "web", "none.vmdk")
    async with await aio.open_disk(stored.volume, "web", raw(stored)) as disk:
        with pytest.raises(UsageError):
            await disk.read(SIZE, 1)


# Keys


def test_without_its_key_a_disk_is_not_opened(ioflt_home: Path, tmp_path: Path) -> None:
    stored = Stored(tmp_path)
    try:
        name = raw(stored)
        stored.keys.lock("refuse")
        with pytest.raises(KeyUnavailableError) as caught:
            backup.open_disk(stored.volume, "web", name)
        assert backup.number_of(caught.value) == ("VIX_E_CRYPTO_LOCKED", 17010)
    finally:
        stored.close()
