"""`ioflt keyd lock` and the mounts: what is refused, what waits, what is written, what memory holds."""

import errno
import itertools
import mmap
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ioflt import paths
from ioflt.datastore.datakeys import unwrap
from ioflt.datastore.header import read_header
from ioflt.format.record import record as form
from ioflt.keyd.registry import Registry
from ioflt.keys.client import KeyClient
from ioflt.keys.native.store import NativeStore
from ioflt.transport.unix import NotListening
from tests.daemons import end_keyd
from tests.mounted.place import Place
from tests.mounted.second import second_mount
from tests.process_memory import core_holds, memory_holds
from tests.waiting import PATIENCE_S, await_end, eventually

pytestmark = [pytest.mark.fuse, pytest.mark.root]

gcore = pytest.mark.interop("gcore")

#: What is long for a read that is served, and short for a test.
A_WHILE = 0.3

TEXT = b"what the guest wrote " * 1000


@pytest.fixture
def top(place: Place) -> Iterator[Path]:
    """An encrypted home, mounted; unlocked at the end, so that nothing waits for ever."""
    top = place.mount() / "vm"
    top.mkdir()
    (top / "disk-flat.vmdk").write_bytes(TEXT)
    try:
        yield top
    finally:
        with KeyClient.connect() as keys:
            keys.unlock()


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, flags, 0o600)
    try:
        yield fd
    finally:
        with suppress(OSError):
            os.close(fd)


@contextmanager
def in_thread() -> Iterator[ThreadPoolExecutor]:
    """Calls that wait for an unlock; its end is inside that of the lock."""
    pool = ThreadPoolExecutor()
    try:
        yield pool
    finally:
        with KeyClient.connect() as keys:
            keys.unlock()
        pool.shutdown()


def lock(mode: str) -> object:
    with KeyClient.connect() as keys:
        return keys.lock(mode)


def unlock() -> None:
    with KeyClient.connect() as keys:
        keys.unlock()


def denied(call: Callable[[], object]) -> None:
    with pytest.raises(OSError, match=re.escape(os.strerror(errno.ENOKEY))) as caught:
        call()
    assert caught.value.errno == errno.ENOKEY


# Without options


def test_refused_while_files_are_open_and_they_are_named(place, top):
    with opened(top / "disk-flat.vmdk") as fd:
        refused = place.ioflt("keyd", "lock", check=False)
        assert refused.returncode == 6
        assert "vm/disk-flat.vmdk" in refused.stderr
        assert os.pread(fd, 100, 0) == TEXT[:100]
    assert (top / "disk-flat.vmdk").read_bytes() == TEXT


def test_pages_of_closed_files_are_dropped_and_unlock_brings_all_back(place, top):
    disk = top / "disk-flat.vmdk"
    (top / "vm.vmx").write_text('displayName = "vm"\n')
    assert disk.read_bytes() == TEXT  # it is in the page cache now
    assert "locked" in place.ioflt("keyd", "lock").stderr
    denied(disk.read_bytes)
    denied((top / "vm.vmx").read_bytes)
    denied(lambda: (top / "new").write_bytes(b"new"))
    denied(lambda: os.truncate(disk, 5))
    denied(lambda: (place.mountpoint / "other").mkdir())
    assert sorted(os.listdir(top)) == ["disk-flat.vmdk", "vm.vmx"]
    assert disk.stat().st_size == len(TEXT)
    assert os.listdir(place.mountpoint) == ["vm"]
    place.ioflt("keyd", "unlock")
    assert disk.read_bytes() == TEXT
    assert (top / "vm.vmx").read_text() == 'displayName = "vm"\n'
    (top / "new").write_bytes(b"new")


def test_clear_homes_need_no_key(place, top):
    clear = place.datastore / "clear"
    clear.mkdir()
    place.ioflt("vm", "decrypt", clear)
    seen = place.mountpoint / "clear" / "iso"
    seen.write_bytes(TEXT)
    lock("refuse")
    assert seen.read_bytes() == TEXT
    seen.write_bytes(b"new")
    assert seen.read_bytes() == b"new"


def test_locked_mounts_are_unmounted_and_a_new_one_is_locked(place, top):
    lock("refuse")
    place.umount()
    said = place.ioflt("mount", place.datastore, place.mountpoint).stderr
    assert "keyd is locked" in said
    assert "ioflt keyd unlock" in said
    denied((top / "disk-flat.vmdk").read_bytes)
    unlock()
    assert (top / "disk-flat.vmdk").read_bytes() == TEXT


def test_a_busy_mount_keeps_all_others_open(place, top):
    with second_mount(place) as other:
        with opened(other / "vm" / "disk-flat.vmdk"):
            assert place.ioflt("keyd", "lock", check=False).returncode == 6
            assert (top / "disk-flat.vmdk").read_bytes() == TEXT
            (top / "more").write_bytes(b"more")
        lock("refuse")
        denied((other / "vm" / "disk-flat.vmdk").read_bytes)
        denied((top / "disk-flat.vmdk").read_bytes)
        unlock()
        assert (other / "vm" / "disk-flat.vmdk").read_bytes() == TEXT


# --suspend


def test_io_waits_and_nothing_is_lost(place, top):
    disk = top / "disk-flat.vmdk"
    with opened(disk, os.O_RDWR) as fd, in_thread() as pool:
        os.pwrite(fd, b"unaligned end", len(TEXT))  # a length in memory only
        said = place.ioflt("keyd", "lock", "--suspend")
        assert re.search(r"vm/disk-flat.vmdk: open, its I/O waits", said.stderr)
        calls = [
            pool.submit(os.pread, fd, 100, 0),
            pool.submit(os.pwrite, fd, b"X" * 5000, 3),
            pool.submit(os.fsync, fd),
            pool.submit(os.truncate, fd, 2 * len(TEXT)),
        ]
        assert not wait(calls, A_WHILE).done
        denied(lambda: (top / "new").write_bytes(b""))
        unlock()
        wait(calls)
        assert [call.exception() for call in calls] == [None] * 4
        assert calls[0].result() in (TEXT[:100], TEXT[:3] + b"X" * 97)
    expected = TEXT[:3] + b"X" * 5000 + TEXT[5003:] + b"unaligned end"
    assert disk.read_bytes() == expected + bytes(2 * len(TEXT) - len(expected))
    place.remount()
    assert disk.read_bytes() == expected + bytes(2 * len(TEXT) - len(expected))


def test_dirty_pages_of_a_mapping_are_written_back_before(place, top):
    disk = top / "disk-flat.vmdk"
    with opened(disk, os.O_RDWR) as fd, in_thread() as pool, mmap.mmap(fd, len(TEXT)) as mapped:
        mapped[5:10] = b"DIRTY"
        lock("suspend")
        place.kill()  # what is on the datastore now is all that there is
        with pool:
            pass
    place.mount()
    assert disk.read_bytes() == TEXT[:5] + b"DIRTY" + TEXT[10:]


MAPPER = """
import mmap, sys
with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
    print("mapped", flush=True)
    sys.stdin.readline()
    mapped[:6] = b"MAPPED"
"""


def test_a_mapping_waits_too(top):
    command = [sys.executable, "-c", MAPPER, str(top / "disk-flat.vmdk")]
    with (
        in_thread() as pool,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child,
    ):
        assert child.stdout.readline() == "mapped\n"
        lock("suspend")
        ended = pool.submit(child.communicate, "go\n")
        assert not wait([ended], A_WHILE).done
        unlock()
        ended.result(PATIENCE_S)
        assert child.returncode == 0
    assert (top / "disk-flat.vmdk").read_bytes() == b"MAPPED" + TEXT[6:]


def test_an_unsaved_vmx_is_committed(place, top):
    vmx = top / "vm.vmx"
    with opened(vmx, os.O_RDWR | os.O_CREAT) as fd, in_thread() as pool:
        os.write(fd, b'memsize = "64"\n')  # in the mount's buffer only
        lock("suspend")
        place.kill()
        with pool:
            pass
    place.mount()
    assert vmx.read_bytes() == b'memsize = "64"\n'


def test_an_open_vmx_goes_on_after_the_unlock(top):
    vmx = top / "vm.vmx"
    with opened(vmx, os.O_RDWR | os.O_CREAT) as fd:
        os.write(fd, b'memsize = "64"\n')
        lock("suspend")
        unlock()
        os.write(fd, b'numvcpus = "1"\n')
        os.fsync(fd)
    assert vmx.read_bytes() == b'memsize = "64"\nnumvcpus = "1"\n'


def test_what_is_saved_can_be_closed_while_suspended(top):
    with opened(top / "disk-flat.vmdk", os.O_RDWR) as fd, in_thread() as pool:
        os.pwrite(fd, b"X", 0)
        lock("suspend")
        closing = pool.submit(os.close, fd)
        assert wait([closing], 5).done


def test_sigterm_ends_a_suspended_mount(place, top):
    fd = os.open(top / "disk-flat.vmdk", os.O_RDWR)
    with in_thread() as pool:
        os.pwrite(fd, b"XYZ", 0)
        lock("suspend")
        reading = pool.submit(os.pread, fd, 100, 0)
        assert not wait([reading], A_WHILE).done
        pidfd = os.pidfd_open(place.pid)
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        await_end(pidfd)
        os.close(pidfd)
        assert isinstance(reading.exception(10), OSError)
        with suppress(OSError):
            os.close(fd)
    unlock()
    place.mount()
    assert (top / "disk-flat.vmdk").read_bytes() == b"XYZ" + TEXT[3:]


# --force


def test_open_handles_fail_and_work_again_after_the_unlock(place, top):
    disk, vmx = top / "disk-flat.vmdk", top / "vm.vmx"
    vmx.write_text('memsize = "64"\n')
    with opened(disk, os.O_RDWR) as fd, opened(vmx) as vmx_fd:
        os.pwrite(fd, b"SAVED", 0)
        assert os.pread(fd, 4096, 0)
        said = place.ioflt("keyd", "lock", "--force").stderr
        assert "vm/disk-flat.vmdk: open, its I/O fails" in said
        denied(lambda: os.pread(fd, 100, 0))
        denied(lambda: os.pread(vmx_fd, 100, 0))
        denied(lambda: os.pwrite(fd, b"X", 0))
        denied(lambda: os.fsync(fd))
        denied(lambda: os.ftruncate(fd, 1))
        denied(lambda: os.lseek(fd, 0, os.SEEK_DATA))
        unlock()
        assert os.pread(fd, 100, 0) == b"SAVED" + TEXT[5:100]
        assert os.pread(vmx_fd, 100, 0) == b'memsize = "64"\n'
        os.pwrite(fd, b"AGAIN", 0)
        os.fsync(fd)
    assert disk.read_bytes() == b"AGAIN" + TEXT[5:]


def test_what_waits_by_suspend_fails_by_force(top):
    with opened(top / "disk-flat.vmdk") as fd, in_thread() as pool:
        lock("suspend")
        reading = pool.submit(os.pread, fd, 100, 0)
        assert not wait([reading], A_WHILE).done
        lock("force")
        error = reading.exception(10)
        assert isinstance(error, OSError)
        assert error.errno == errno.ENOKEY


# Memory


def dek_of(path: Path) -> bytes:
    with opened(path) as fd, KeyClient.connect() as keys, unwrap(read_header(fd), keys) as dek:
        return bytes(dek.view())


def config_key_of(path: Path) -> bytes:
    with KeyClient.connect() as keys, keys.config_key(path.read_bytes()) as key:
        return bytes(key.view())


def kek_of(home: Path) -> bytes:
    (ref,) = form.parse_home((home / ".ioflt").read_bytes()).record.keys
    (kek,) = Registry(NativeStore(paths.find().providers)).get(ref.provider).get([ref.key_id])
    with kek:
        return bytes(kek.view())


@gcore
@pytest.mark.parametrize("mode", ["suspend", "force"])
def test_after_the_lock_no_data_key_is_in_the_mounts_memory(place, top, mode):
    disk, vmx = top / "disk-flat.vmdk", top / "vm.vmx"
    vmx.write_text('memsize = "64"\n')
    stored = place.datastore / "vm"
    dek, config_key = dek_of(stored / "disk-flat.vmdk"), config_key_of(stored / "vm.vmx")
    needles = (dek, config_key, dek[:32], dek[32:])
    with opened(disk, os.O_RDWR) as fd, opened(vmx, os.O_RDWR) as vmx_fd:
        os.pwrite(fd, TEXT, 5000)
        os.fsync(fd)
        os.pwrite(vmx_fd, b"M", 0)
        os.fsync(vmx_fd)
        assert core_holds(place.pid, place.base, *needles)[:2] == [True] * 2
        lock(mode)
        assert core_holds(place.pid, place.base, *needles) == [False] * 4
        assert memory_holds(place.pid, *needles) == [False] * 4
        unlock()
        assert os.pread(fd, 10, 5000) == TEXT[:10]


@gcore
def test_closed_files_leave_no_data_key_behind(place, top):
    dek = dek_of(place.datastore / "vm" / "disk-flat.vmdk")
    with opened(top / "disk-flat.vmdk") as fd:
        assert os.pread(fd, len(TEXT), 0) == TEXT
        assert core_holds(place.pid, place.base, dek) == [True]
    lock("refuse")
    assert core_holds(place.pid, place.base, dek, dek[:32], dek[32:]) == [False] * 3


@gcore
def test_keyd_keeps_no_key_after_the_lock(place, top):
    """KEKs lie where no dump reaches; data keys pass through ordinary memory and are wiped."""
    home = place.datastore / "vm"
    dek, kek = dek_of(home / "disk-flat.vmdk"), kek_of(home)
    with KeyClient.connect() as keys:
        status = keys.status()
        assert status.memory == "memfd_secret"
        needles = (dek, dek[:32], dek[32:], kek)
        assert core_holds(status.pid, place.base, *needles) == [False] * 4
        keys.lock("refuse")
    assert core_holds(status.pid, place.base, *needles) == [False] * 4


@gcore
@pytest.mark.interop("setpriv", "prlimit")
def test_keyd_wipes_keys_that_lie_in_ordinary_memory(place):
    """Where it may lock none a dump has them before the lock, which shows that it would after it."""
    place.ioflt("keyd", "stop")
    bare = ["prlimit", "--memlock=0", "setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"]
    start = [*bare, sys.executable, "-m", "ioflt", "mount", place.datastore, place.mountpoint]
    subprocess.run(start, check=True, capture_output=True)
    (place.mountpoint / "vm").mkdir()
    (place.mountpoint / "vm" / "disk-flat.vmdk").write_bytes(TEXT)
    home = place.datastore / "vm"
    dek, kek = dek_of(home / "disk-flat.vmdk"), kek_of(home)
    with KeyClient.connect() as keys:
        status = keys.status()
        assert status.memory == "plain"
        assert core_holds(status.pid, place.base, kek) == [True]
        keys.lock("refuse")
        assert core_holds(status.pid, place.base, kek, dek, dek[:32], dek[32:]) == [False] * 4
        keys.unlock()


@pytest.mark.interop("setpriv")
def test_neither_process_can_be_dumped_or_traced(place):
    """The kernel gives the files in /proc of such a process to root; of others, to their user and group."""
    group = ["setpriv", "--regid", "65534", "--clear-groups", sys.executable, "-m", "ioflt"]
    place.ioflt("keyd", "stop")
    subprocess.run([*group, "mount", place.datastore, place.mountpoint], check=True, capture_output=True)
    with KeyClient.connect() as keys, subprocess.Popen([*group[:4], "sleep", "60"]) as other:
        guarded = (place.pid, keys.status().pid)
        eventually(lambda: Path(f"/proc/{other.pid}/mem").stat().st_gid == 65534)
        other.kill()
    for pid in guarded:
        assert Path(f"/proc/{pid}/mem").stat().st_gid == 0
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)


# keyd dies


def test_killed_keyd_open_files_go_on_and_new_ones_get_a_new_keyd(top):
    with opened(top / "disk-flat.vmdk", os.O_RDWR) as fd:
        end_keyd()
        os.pwrite(fd, b"GOES ON", 0)
        os.fsync(fd)
        assert os.pread(fd, 100, 0) == b"GOES ON" + TEXT[7:100]
        assert not keyd_runs()
        (top / "new").write_bytes(b"new")
        assert (top / "new").read_bytes() == b"new"
        assert keyd_runs()


def test_a_keyd_that_came_after_the_lock_unlocks_what_another_locked(place, top):
    with opened(top / "disk-flat.vmdk") as fd, in_thread() as pool:
        lock("suspend")
        end_keyd()
        reading = pool.submit(os.pread, fd, 100, 0)
        assert not wait([reading], A_WHILE).done
        place.ioflt("keyd", "unlock")
        assert reading.result(PATIENCE_S) == TEXT[:100]


def keyd_runs() -> bool:
    try:
        with KeyClient(start=False) as keys:
            return keys.status().pid > 0
    except NotListening:
        return False


# Under load


def test_locks_while_many_write(place, top):
    disk = top / "busy-flat.vmdk"
    begun, stop = threading.Barrier(5, timeout=60), threading.Event()
    span = 1 << 20

    def write(number: int) -> bytes:
        with opened(disk, os.O_RDWR | os.O_CREAT) as fd:
            begun.wait()
            for turn in itertools.count():
                data = bytes([number * 16 + turn % 16]) * (span - 1000 * number)
                for start in range(0, len(data), 100_000):
                    os.pwrite(fd, data[start : start + 100_000], number * span + start)
                if turn % 3 == 0:
                    os.fsync(fd)
                assert os.pread(fd, 5000, number * span) == data[:5000]
                if stop.is_set():
                    return data
        raise AssertionError

    with in_thread() as pool:
        writers = [pool.submit(write, number) for number in range(4)]
        try:
            begun.wait()
            for _ in range(5):
                lock("suspend")
                assert not wait(writers, 0.05).done
                unlock()
                assert not wait(writers, 0.05).done
        finally:
            stop.set()
        written = [writer.result(60) for writer in writers]
    place.remount()
    content = disk.read_bytes()
    assert [content[n * span : n * span + len(data)] for n, data in enumerate(written)] == written
    assert place.complaints() == []


def test_a_thick_file_is_filled_on_after_the_unlock(place):
    home = place.datastore / "thick"
    home.mkdir()
    place.ioflt("vm", "decrypt", home)
    place.ioflt("vm", "encrypt", "--thick", home)
    seen = place.mount() / "thick" / "disk-flat.vmdk"
    with opened(seen, os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, 200 << 20)
        os.pwrite(fd, TEXT, 50 << 20)
        for mode in ("suspend", "force", "suspend", "force"):
            lock(mode)
            unlock()
        eventually(lambda: _hole_of(home / "disk-flat.vmdk") == (home / "disk-flat.vmdk").stat().st_size)
        assert os.pread(fd, len(TEXT), 50 << 20) == TEXT
        assert os.pread(fd, 100, 0) == bytes(100)
    assert all("the key cache is locked" in line for line in place.complaints())


def _hole_of(path: Path) -> int:
    """Where the first hole of the stored body begins."""
    with opened(path) as fd:
        return os.lseek(fd, 1 << 20, os.SEEK_HOLE)
