"""Reads and writes that are answered in C: which ones, and how they and Python's keep apart."""

import errno
import itertools
import os
import random
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ioflt import paths
from ioflt.keys.mounts import MountControl
from tests.mounted.place import Place
from tests.waiting import eventually

pytestmark = pytest.mark.fuse

MIB = 1 << 20
EIO = os.strerror(errno.EIO)
SECTOR = 4096


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    fd = os.open(path, flags, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def asked(place: Place) -> Iterator[MountControl]:
    with MountControl(paths.find().control_socket(str(place.mountpoint))) as control:
        yield control


def in_c(place: Place) -> int:
    with asked(place) as control:
        return control.status.statistics["in_c"]


@pytest.mark.parametrize(
    ("name", "native"),
    [
        ("thin/disk", True),
        ("thick/disk", True),
        ("clear/disk", True),
        ("clear/vm.vmx", True),
        ("tagged/disk", False),
        ("thin/vm.vmx", False),
    ],
)
def test_whose_requests_are_answered_in_c(shared: Place, name: str, native: bool) -> None:
    data = random.Random(1).randbytes(MIB)
    path = shared.mountpoint / name
    path.write_bytes(data)
    before = in_c(shared)
    with opened(path, os.O_RDWR | os.O_DIRECT) as fd:
        for offset in range(0, MIB, MIB // 8):
            os.pwrite(fd, data[offset : offset + MIB // 8], offset)
        assert path.read_bytes() == data
    assert (in_c(shared) - before >= 8) is native


def test_files_that_grow(homes: Place) -> None:
    """Whole sectors need nothing but the write; after one that is not whole the length is on the medium."""
    wrote = {}
    for step in (SECTOR, 3 * SECTOR, 1000):
        path = homes.mountpoint / "thin" / f"disk{step}"
        wrote[path] = data = random.Random(step).randbytes(64 * step)
        before = in_c(homes)
        with opened(path) as fd:
            for offset in range(0, len(data), step):
                os.pwrite(fd, data[offset : offset + step], offset)
                assert os.fstat(fd).st_size == offset + step
        assert in_c(homes) - before >= 62
    for _ in range(2):
        for path, data in wrote.items():
            assert path.read_bytes() == data
        homes.remount()


def test_a_hole_and_then_data(homes: Place) -> None:
    """A write that begins behind the end is Python's: what lies between has to be zeros."""
    path = homes.mountpoint / "thin" / "disk"
    with opened(path) as fd:
        os.pwrite(fd, b"begin", 0)
        os.pwrite(fd, b"end", 10 * SECTOR + 7)
        os.pwrite(fd, b"more", 10 * SECTOR + 10)
    expected = b"begin".ljust(10 * SECTOR + 7, b"\0") + b"endmore"
    assert path.read_bytes() == expected
    homes.remount()
    assert path.read_bytes() == expected


@contextmanager
def small_datastore(place: Place) -> Iterator[Path]:
    """The datastore of `place`, made anew, not mounted, on a file system of 24 MiB; gives its directory."""
    small = place.base / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", small], check=True)
    try:
        place.datastore = small / "ds"
        place.ioflt("datastore", "init", place.datastore, "--encrypt")
        yield small
        place.umount()
    finally:
        place.end()
        subprocess.run(["umount", small], check=True)


@pytest.mark.root
@pytest.mark.parametrize("step", [MIB, 1000 * 1000])
def test_a_datastore_that_is_full(place: Place, step: int) -> None:
    """What was not acknowledged is no part of the file."""
    with small_datastore(place):
        (place.mount() / "vm").mkdir()
        data = random.Random(2).randbytes(step)
        written = 0
        with opened(place.mountpoint / "vm" / "disk") as fd:
            with suppress(OSError):
                while True:
                    written += os.pwrite(fd, data, written)
            with pytest.raises(OSError, match="No space left"):
                os.pwrite(fd, data, written)
            assert os.fstat(fd).st_size == written
        place.remount()
        with opened(place.mountpoint / "vm" / "disk") as fd:
            assert os.fstat(fd).st_size == written
            for offset in range(0, written, step):
                assert os.pread(fd, step, offset) == data[: written - offset]


@pytest.mark.root
def test_what_another_program_appended_to_a_clear_file_stays(place: Place) -> None:
    """Behind the end that the mount knows of; a write behind that fails for lack of space, in the middle."""
    with small_datastore(place) as small:
        (place.datastore / "vm").mkdir()
        place.ioflt("vm", "decrypt", place.datastore / "vm")
        data, appended = (random.Random(seed).randbytes(MIB) for seed in (2, 3))
        place.mount()
        stored = place.datastore / "vm" / "disk"
        with opened(place.mountpoint / "vm" / "disk") as fd:
            before = in_c(place)
            os.pwrite(fd, data, 0)
            assert in_c(place) > before
            with stored.open("ab") as other:
                other.write(appended)
            with (small / "rest").open("wb", buffering=0) as rest:
                with suppress(OSError):
                    while True:
                        rest.write(bytes(MIB))
                rest.truncate(rest.tell() - 4 * SECTOR)
            with pytest.raises(OSError, match="No space left"):
                os.pwrite(fd, data, 2 * MIB)
        assert stored.read_bytes() == data + appended


@pytest.mark.parametrize("home", ["thin", "tagged"])
def test_no_sector_is_half_old(shared: Place, home: str) -> None:
    """Many write parts of the same sectors while others read them: a part is what somebody wrote, whole."""
    path = shared.mountpoint / home / "parts"
    part, parts, rounds = 512, 64, 60
    path.write_bytes(bytes(part * parts))
    stop = threading.Event()

    def write(number: int) -> None:
        with opened(path, os.O_RDWR | os.O_DIRECT) as fd:
            for turn in range(1, rounds):
                for place in range(number, parts, 4):
                    os.pwrite(fd, bytes([turn]) * part, place * part)

    def read() -> None:
        with opened(path, os.O_RDONLY | os.O_DIRECT) as fd:
            while not stop.is_set():
                data = os.pread(fd, part * parts, 0)
                for offset in range(0, len(data), part):
                    assert len(set(data[offset : offset + part])) == 1

    with ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for writer in [pool.submit(write, number) for number in range(4)]:
            writer.result()
        stop.set()
        for reader in readers:
            reader.result()
    assert path.read_bytes() == bytes([rounds - 1]) * part * parts


def test_between_all_that_shuts_a_file(homes: Place) -> None:
    """Writers go on while the file is cut and synced, writes are held back, keys are locked and come back."""
    path = homes.mountpoint / "thin" / "disk"
    region, regions = 64 * SECTOR, 4
    with opened(path) as fd:
        os.ftruncate(fd, region * (regions + 1))
    stop = threading.Event()

    def write(number: int) -> bytes:
        draw = random.Random(number)
        mine = bytearray(region)
        with opened(path) as fd:
            while not stop.is_set():
                size = draw.choice((100, SECTOR, 5 * SECTOR))
                at = draw.randrange(region - size)
                mine[at : at + size] = data = draw.randbytes(size)
                os.pwrite(fd, data, number * region + at)
                assert os.pread(fd, size, number * region + at) == data
        return bytes(mine)

    with ThreadPoolExecutor(regions) as pool:
        writers = [pool.submit(write, number) for number in range(regions)]
        try:
            with opened(path) as fd:
                for _ in range(8):
                    os.ftruncate(fd, region * regions + 5)
                    os.fsync(fd)
                    os.ftruncate(fd, region * (regions + 2))
                    os.posix_fallocate(fd, region * (regions + 1), region)
                    with asked(homes) as control:  # until it goes
                        control.quiesce()
                    homes.ioflt("keyd", "lock", "--suspend")
                    homes.ioflt("keyd", "unlock")
        finally:
            stop.set()
        expected = b"".join(writer.result() for writer in writers)
    assert path.read_bytes()[: len(expected)] == expected
    homes.remount()
    assert path.read_bytes()[: len(expected)] == expected
    assert homes.complaints() == []


def test_more_requests_than_threads(shared: Place) -> None:
    """All threads may be busy: one more begins, up to a limit, and ends when nothing is left for it."""
    path = shared.mountpoint / "thin" / "threads"
    path.write_bytes(bytes(MIB))
    threads = Path(f"/proc/{shared.pid}/task")

    def read(number: int) -> None:
        with opened(path, os.O_RDONLY | os.O_DIRECT) as fd:
            for _ in range(50):
                assert os.pread(fd, MIB, 0) == bytes(MIB)

    with ThreadPoolExecutor(48) as pool:
        list(pool.map(read, range(48)))
    eventually(lambda: len(list(threads.iterdir())) < 24)


@pytest.mark.root
def test_who_reads_in_order_is_read_ahead_for(homes: Place) -> None:
    """In requests of up to 1 MiB, where 128 KiB are asked for: the kernel by itself makes 128 of 16 MiB."""
    data = random.Random(2).randbytes(16 * MIB)
    path = homes.mountpoint / "thin" / "disk"
    path.write_bytes(data)
    before = in_c(homes)
    with path.open("rb", buffering=128 << 10) as file:
        assert b"".join(iter(lambda: file.read(128 << 10), b"")) == data
    assert 16 <= in_c(homes) - before < 64


@pytest.mark.interop("strace")
@pytest.mark.parametrize("home", ["thin", "thick"])
def test_a_sync_that_failed_is_final_in_c_too(homes: Place, home: str) -> None:
    """Writers are at it in C when the sync fails; what begins after that fails. Other files go on."""
    path, other = (homes.mountpoint / home / name for name in ("disk", "other"))
    for each in (path, other):
        each.write_bytes(bytes(4 * MIB))
    failed = threading.Event()

    def write(number: int) -> None:
        """Until one fails, which the first one does that begins after the sync did."""
        with opened(path, os.O_RDWR | os.O_DIRECT) as fd:
            for count in itertools.count(number):
                late = failed.is_set()
                os.pwrite(fd, bytes([count % 256]) * SECTOR, count % 1024 * SECTOR)
                if late:
                    return

    before = in_c(homes)
    with ThreadPoolExecutor(4) as pool, opened(path, os.O_RDWR | os.O_DIRECT) as fd:
        writers = [pool.submit(write, number) for number in range(4)]
        eventually(lambda: in_c(homes) > before + 100)
        traced = "-e", "inject=fsync,fdatasync:error=EIO", "-p", str(homes.pid)
        tracer = subprocess.Popen(
            ["strace", "-f", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", *traced],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert tracer.stderr is not None
            assert "attached" in tracer.stderr.readline()
            with pytest.raises(OSError, match=EIO):
                os.fsync(fd)
            failed.set()
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.communicate()
        for writer in writers:
            with pytest.raises(OSError, match=EIO):
                writer.result()
        for attempt in (lambda: os.pread(fd, SECTOR, 0), lambda: os.pwrite(fd, bytes(SECTOR), 0)):
            with pytest.raises(OSError, match=EIO):
                attempt()
        before = in_c(homes)
        with opened(other, os.O_RDWR | os.O_DIRECT) as sound:
            os.pwrite(sound, b"x" * SECTOR, 0)
            os.fsync(sound)
        assert in_c(homes) > before
    assert "the file is shut" in homes.log
