"""Two mounts of one datastore, and how a mount is come by and got rid of."""

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from ioflt import paths
from ioflt.backup.writers import named
from ioflt.cli import mount_helper
from ioflt.datastore.volume import Volume
from ioflt.errors import BusyError, IofltError, NotFoundError
from ioflt.fuse.opening import LOCK_WAIT_S
from ioflt.fuse.starter import is_mounted
from ioflt.keys.channel import ConnectionLost
from ioflt.keys.client import KeyClient
from ioflt.keys.mounts import MountControl
from ioflt.transport.unix import NotListening
from tests.mounted.second import second_mount
from tests.waiting import PATIENCE_S, await_end, eventually

pytestmark = [pytest.mark.fuse, pytest.mark.root]

A_WHILE = 0.3
TEXT = b"what the guest wrote " * 1000


@pytest.fixture
def one(place):
    """The home of the first mount."""
    home = place.mount() / "vm"
    home.mkdir()
    (home / "disk").write_bytes(TEXT)
    return home


@pytest.fixture
def two(place, one):
    """The same home in the second mount."""
    with second_mount(place) as top:
        yield top / "vm"


@contextmanager
def opened(path, flags=os.O_RDWR):
    fd = os.open(path, flags, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def reads(path):
    """The content, or None for the moment in which the name has to be looked up again."""
    try:
        return path.read_bytes()
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return None


def vm(stored):
    """What a mount is told of that home."""
    with KeyClient() as keys, Volume.open(stored.parent, keys) as volume:
        return named(volume.home(stored.name))


def control(mountpoint):
    return MountControl(paths.find().control_socket(str(mountpoint)))


# Writers and readers


def test_a_second_writer_is_refused_after_a_bounded_wait(place, one, two):
    with opened(one / "disk"):
        start = time.monotonic()
        with pytest.raises(OSError, match=os.strerror(errno.EBUSY)) as caught:
            os.open(two / "disk", os.O_RDWR)
        assert caught.value.errno == errno.EBUSY
        assert LOCK_WAIT_S <= time.monotonic() - start < LOCK_WAIT_S + 5
    assert sum("open for writing in another mount" in line for line in place.complaints()) == 1


def test_a_second_writer_gets_in_when_the_first_closes_in_time(one, two):
    with ThreadPoolExecutor() as pool:
        with opened(one / "disk") as fd:
            second = pool.submit(os.open, two / "disk", os.O_RDWR)
            assert not wait([second], A_WHILE).done
            os.pwrite(fd, b"the first", 0)
        late = second.result(LOCK_WAIT_S)
    try:
        assert os.pread(late, 9, 0) == b"the first"
    finally:
        os.close(late)


def test_readers_beside_a_writer(one, two):
    with opened(one / "disk") as writer, opened(two / "disk", os.O_RDONLY) as reader:
        assert os.pread(reader, 100, 0) == TEXT[:100]
        os.pwrite(writer, b"new", 0)
        with opened(two / "disk", os.O_RDONLY) as later:
            assert os.pread(later, 3, 0) == b"new"


@pytest.mark.parametrize("settle", ["fsync", "close"])
def test_the_length_is_seen_after(one, two, settle):
    with opened(two / "disk", os.O_RDONLY) as early:
        assert os.fstat(early).st_size == len(TEXT)
        fd = os.open(one / "disk", os.O_RDWR | os.O_APPEND)
        os.write(fd, b"tail")
        if settle == "fsync":
            os.fsync(fd)
        else:
            os.close(fd)
        with opened(two / "disk", os.O_RDONLY) as reader:
            assert os.pread(reader, 100, len(TEXT)) == b"tail"
        eventually(lambda: (two / "disk").stat().st_size == len(TEXT) + 4)
        if settle == "fsync":
            os.close(fd)


# What the kernel keeps of names and attributes is for stat alone


@pytest.mark.parametrize("name", ["disk", "vm.vmx"])
@pytest.mark.parametrize("length", [len(TEXT) + 5000, 100])
def test_an_append_goes_to_the_end_that_the_other_mount_made(one, two, name, length):
    (one / name).write_bytes(TEXT)
    assert (two / name).stat().st_size == len(TEXT)
    os.truncate(one / name, length)
    with opened(two / name, os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"tail")
    expected = TEXT.ljust(length, b"\0")[:length] + b"tail"
    assert (two / name).read_bytes() == expected
    eventually(lambda: (one / name).read_bytes() == expected)


@pytest.mark.parametrize("name", ["disk", "vm.vmx"])
def test_an_open_by_a_known_name_meets_what_took_it_over(one, two, name):
    (one / name).write_bytes(TEXT)
    for number in range(4):
        assert (two / name).stat().st_mode
        (one / f"new-{name}").write_bytes(b"%d" % number)
        (one / f"new-{name}").rename(one / name)
        assert (two / name).read_bytes() == b"%d" % number
    assert (two / name).stat().st_size == 1
    (one / name).unlink()
    with pytest.raises(FileNotFoundError):
        (two / name).read_bytes()


def test_what_is_known_by_an_old_name_is_not_taken_for_the_new_one(one, two):
    for name in "ab":
        (one / name).write_bytes(name.encode())
    for _ in range(6):
        content = {name: (two / name).read_bytes() for name in "ab"}
        (one / "a").rename(one / "c")
        (one / "b").rename(one / "a")
        (one / "c").rename(one / "b")
        (two / "a").rename(two / "c")  # which the kernel takes for the other file
        assert (two / "c").read_bytes() == content["b"]
        (two / "c").rename(two / "a")
        assert {name: (two / name).read_bytes() for name in "ba"} == {"a": content["b"], "b": content["a"]}
        assert {name: (one / name).read_bytes() for name in "ba"} == {"a": content["b"], "b": content["a"]}


def test_a_known_name_is_not_linked_nor_cut_once_it_is_another_files(one, two):
    (one / "spare").write_bytes(b"the new one")
    assert (two / "disk").stat().st_size == len(TEXT)
    (one / "disk").rename(one / "kept")
    (one / "spare").rename(one / "disk")
    os.link(two / "disk", two / "linked")
    assert (two / "linked").read_bytes() == b"the new one"
    (one / "disk").rename(one / "spare")
    (one / "kept").rename(one / "disk")
    os.truncate(two / "disk", 5)
    assert (two / "spare").read_bytes() == b"the new one"
    assert (two / "disk").read_bytes() == TEXT[:5]


def test_another_link_of_a_known_file_goes_to_another_file(one, two):
    os.link(one / "disk", one / "second")
    for name in ("disk", "second"):
        assert (two / name).read_bytes() == TEXT
    (one / "new").write_bytes(b"new")
    (one / "new").rename(one / "disk")
    assert (two / "second").read_bytes() == TEXT
    assert (two / "disk").read_bytes() == b"new"


def test_a_descriptor_opens_what_it_is_of_though_its_name_is_anothers(one, two):
    with opened(two / "disk", os.O_RDONLY) as fd:
        (one / "new").write_bytes(b"new")
        (one / "new").rename(one / "disk")
        assert Path(f"/proc/self/fd/{fd}").read_bytes() == TEXT
        os.fchmod(fd, 0o640)
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o640


def test_a_reader_that_stays_open_reads_what_another_mount_appended(one, two):
    with opened(two / "disk", os.O_RDONLY) as reader:
        assert os.pread(reader, 1 << 20, 0) == TEXT
        for number in range(3):
            with (one / "disk").open("ab") as file:
                file.write(TEXT)
            length = len(TEXT) * (number + 2)
            eventually(lambda length=length: os.fstat(reader).st_size == length)
            assert os.pread(reader, 1 << 20, 0) == TEXT * (number + 2)


def test_the_length_of_a_closed_file_is_seen(one, two):
    assert (two / "disk").stat().st_size == len(TEXT)
    with (one / "disk").open("ab") as file:
        file.write(b"tail")
    eventually(lambda: (two / "disk").stat().st_size == len(TEXT) + 4)
    assert (two / "disk").read_bytes() == TEXT + b"tail"


def test_a_vmx_that_the_other_mount_replaced(one, two):
    (one / "vm.vmx").write_text('memsize = "64"\n')
    assert (two / "vm.vmx").read_text() == 'memsize = "64"\n'
    (one / "vm.vmx").write_text('memsize = "128"\n')

    eventually(lambda: reads(two / "vm.vmx") == b'memsize = "128"\n')
    (two / "vm.vmx").write_text('memsize = "256"\n')
    eventually(lambda: reads(one / "vm.vmx") == b'memsize = "256"\n')


def test_names_are_seen(one, two):
    (one / "new").write_bytes(b"1")
    eventually((two / "new").exists)
    (two / "new").rename(two / "old")
    eventually(lambda: not (one / "new").exists())
    assert (one / "old").read_bytes() == b"1"


def test_a_file_that_is_written_in_both_by_turns(one, two):
    content = bytearray(TEXT)
    for number in range(10):
        for home in (one, two):
            data = bytes([number + 65]) * 3000
            with opened(home / "disk", os.O_RDWR | os.O_APPEND) as fd:
                os.write(fd, data)
            content += data
    assert (one / "disk").read_bytes() == content
    assert (two / "disk").read_bytes() == content


# Conversions


@pytest.mark.parametrize("busy", ["mnt", "mnt2"])
def test_a_home_in_use_is_not_converted(place, one, two, busy):
    for flags in (os.O_RDONLY, os.O_RDWR):
        with opened(place.base / busy / "vm" / "disk", flags):
            refused = place.ioflt("vm", "decrypt", place.datastore / "vm", check=False)
            assert refused.returncode == 6, refused.stderr
            assert "in use" in refused.stderr
    place.ioflt("vm", "decrypt", place.datastore / "vm")
    assert (place.datastore / "vm" / "disk").read_bytes() == TEXT
    eventually(lambda: reads(one / "disk") == TEXT)
    with opened(place.base / busy / "vm" / "disk"):
        refused = place.ioflt("vm", "encrypt", place.datastore / "vm", check=False)
        assert refused.returncode == 6, refused.stderr
    place.ioflt("vm", "encrypt", place.datastore / "vm")
    eventually(lambda: reads(two / "disk") == TEXT)
    assert TEXT[:50] not in (place.datastore / "vm" / "disk").read_bytes()


# Coming and going


def test_a_killed_mount_is_cleaned_up_by_the_next(place, one):
    place.kill()
    with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
        os.listdir(one)
    place.mount()
    assert (one / "disk").read_bytes() == TEXT


def test_umount_of_a_killed_mount(place, one):
    place.kill()
    place.umount()
    assert os.listdir(place.mountpoint) == []


def test_umount_while_busy(place, one):
    with opened(one / "disk"):
        refused = place.ioflt("umount", place.mountpoint, check=False)
        assert refused.returncode == 6
        assert "hint:" in refused.stderr
        assert (one / "disk").read_bytes() == TEXT
    place.umount()


def test_umount_of_nothing(place):
    assert place.ioflt("umount", place.mountpoint, check=False).returncode == 10


def test_a_mount_over_a_mount(place, one):
    assert place.ioflt("mount", place.datastore, place.mountpoint, check=False).returncode == 6
    assert (one / "disk").read_bytes() == TEXT


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_flushes_and_leaves_nothing(place, one, number):
    fd = os.open(one / "disk", os.O_RDWR | os.O_APPEND)
    os.write(fd, b"never synced")
    vmx = os.open(one / "vm.vmx", os.O_RDWR | os.O_CREAT)
    os.write(vmx, b'memsize = "64"\n')
    pidfd = os.pidfd_open(place.pid)
    signal.pidfd_send_signal(pidfd, number)
    await_end(pidfd)
    os.close(pidfd)
    for left in (fd, vmx):
        with pytest.raises(OSError, match=r"."):
            os.write(left, b"too late")
        with pytest.raises(OSError, match=r"."):
            os.close(left)
    assert not is_mounted(str(place.mountpoint))
    assert not paths.find().control_socket(str(place.mountpoint)).exists()
    place.mount()
    assert (one / "disk").read_bytes() == TEXT + b"never synced"
    assert (one / "vm.vmx").read_text() == 'memsize = "64"\n'
    assert place.complaints() == []


#: A mount that is told to end by its own last word to who started it: no sooner could he tell it.
ENDED_AT_ONCE = """
import signal, sys
from ioflt.fuse import hook
hook.install()
from ioflt import paths
from ioflt.fuse.broker import Broker
from ioflt.fuse.mount import Options, run
from ioflt.keys.client import KeyClient
options = Options(sys.argv[1], sys.argv[2], read_only="read-only" in sys.argv)
broker = Broker.fork(paths.find(), options.mountpoint, None)
with KeyClient.connect(broker.reach_keyd) as keys:
    run(options, keys, broker, lambda _: signal.raise_signal(signal.SIGTERM))
"""


@pytest.mark.parametrize("how", ["read-only", "read-write"])
def test_a_signal_as_soon_as_it_serves(place, how):
    command = [sys.executable, "-c", ENDED_AT_ONCE, place.datastore, place.mountpoint, how]
    subprocess.run(command, check=True, timeout=PATIENCE_S)
    assert not is_mounted(str(place.mountpoint))


def test_foreground_ends_by_ctrl_c(place):
    command = [sys.executable, "-m", "ioflt", "mount", "--foreground", place.datastore, place.mountpoint]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        eventually(lambda: is_mounted(str(place.mountpoint)))
        (place.mountpoint / "file").write_bytes(TEXT)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert "ends by SIGINT" in said
    assert not is_mounted(str(place.mountpoint))


# mount.ioflt


def test_the_helper_mounts_as_fstab_says(place):
    options = "rw,noauto,nofail,_netdev,user,x-systemd.requires=network.target,relatime,allow_other"
    assert mount_helper.main([str(place.datastore), str(place.mountpoint), "-s", "-o", options]) == 0
    (place.mountpoint / "file").write_bytes(TEXT)
    line = next(
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if str(place.mountpoint) in line
    )
    assert " fuse.ioflt " in line
    assert "allow_other" in line


def test_the_helper_mounts_read_only(place):
    assert mount_helper.main([str(place.datastore), str(place.mountpoint), "-n", "-o", "defaults,ro"]) == 0
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        (place.mountpoint / "file").write_bytes(b"")


def test_the_helper_only_pretends_by_f(place):
    assert mount_helper.main([str(place.datastore), str(place.mountpoint), "-f", "-v"]) == 0
    assert not is_mounted(str(place.mountpoint))


@pytest.mark.parametrize(
    "arguments", [["-o", "umask=022"], ["-o", "rw,passphrase=secret"], ["--weird"], ["third"]]
)
def test_the_helper_refuses_what_it_does_not_know(place, arguments, capsys):
    assert mount_helper.main([str(place.datastore), str(place.mountpoint), *arguments]) == 2
    assert not is_mounted(str(place.mountpoint))
    assert "secret" not in capsys.readouterr().err


# The control socket


def test_garbage_on_the_control_socket(place, one):
    path = paths.find().control_socket(str(place.mountpoint))
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    frames = (
        os.urandom(4096),
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x00",
        b"\x05\x00\x00\x00\xc1\xc1\xc1\xc1\xc1",
        b"\x10\x00\x00\x00abc",
    )
    for garbage in frames:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.settimeout(PATIENCE_S)
            sock.sendall(garbage)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
    idle = [socket.socket(socket.AF_UNIX) for _ in range(50)]
    for sock in idle:
        sock.connect(str(path))
    with control(place.mountpoint) as asked:
        assert asked.status.mountpoint == str(place.mountpoint)
    for sock in idle:
        sock.close()
    assert (one / "disk").read_bytes() == TEXT
    assert all("is cut off" in line for line in place.complaints())
    assert len(place.complaints()) == len(frames)


def test_paths_that_leave_the_datastore_are_refused(place, one):
    (place.base / "outside").write_bytes(b"outside")
    (place.datastore / "vm" / "link").symlink_to(place.base / "outside")
    with control(place.mountpoint) as asked:
        for path in (
            "../outside",
            str(place.base / "outside"),
            "vm/../../outside",
            "vm/link",
            "vm",
            ".ioflt",
        ):
            with pytest.raises(IofltError) as caught:
                asked.remove_keyslot(path, 0)
            assert not isinstance(caught.value, NotListening | ConnectionLost)
    assert (place.base / "outside").read_bytes() == b"outside"
    assert place.complaints() == []


def test_statistics_count_what_reaches_the_datastore(place, one):
    with control(place.mountpoint) as asked:
        before = asked.status.statistics
        with opened(one / "disk") as fd:
            assert asked.refresh().open_files == 1
            os.pwrite(fd, bytes(8192), 0)
            os.fsync(fd)
        eventually(lambda: asked.refresh().open_files == 0)  # close(2) does not wait for the mount
        now = asked.refresh()
    grown = {name: now.statistics[name] - before[name] for name in now.statistics}
    assert grown["write_bytes"] == 8192
    assert grown["writes"] >= 1
    assert grown["syncs"] >= 1
    assert grown["write_ns"] > 0


def test_writes_wait_while_quiesced(place, one):
    with opened(one / "disk") as fd, ThreadPoolExecutor() as pool, control(place.mountpoint) as asked:
        os.pwrite(fd, b"before", len(TEXT))
        asked.quiesce()
        copy = subprocess.run(["cp", "-a", place.datastore, place.base / "copy"], check=False)
        assert copy.returncode == 0
        assert os.pread(fd, 6, len(TEXT)) == b"before"
        writing = pool.submit(os.pwrite, fd, b"after!", len(TEXT))
        assert not wait([writing], A_WHILE).done
        asked.resume()
        assert writing.result(PATIENCE_S) == 6
    assert (one / "disk").read_bytes() == TEXT + b"after!"
    place.umount()
    place.ioflt("mount", place.base / "copy", place.mountpoint)
    assert (one / "disk").read_bytes() == TEXT + b"before"


def test_a_quiesce_ends_with_the_connection(place, one):
    with opened(one / "disk") as fd, ThreadPoolExecutor() as pool:
        with control(place.mountpoint) as asked:
            asked.quiesce()
            writing = pool.submit(os.pwrite, fd, b"after!", 0)
            assert not wait([writing], A_WHILE).done
        assert writing.result(PATIENCE_S) == 6


def test_a_quiesce_ends_at_its_limit_and_says_so(place, one):
    with opened(one / "disk") as fd, ThreadPoolExecutor() as pool, control(place.mountpoint) as asked:
        asked.quiesce(limit=1)
        assert pool.submit(os.pwrite, fd, b"after!", 0).result(PATIENCE_S) == 6
        with pytest.raises(BusyError, match="went on"):
            asked.resume()
        asked.quiesce(limit=3600)
        asked.resume()
        assert os.pwrite(fd, b"again!", 0) == 6


def test_two_quiesces_overlap(place, one):
    with opened(one / "disk") as fd, ThreadPoolExecutor() as pool:
        with control(place.mountpoint) as first:
            first.quiesce()
            with control(place.mountpoint) as second:
                second.quiesce()
            writing = pool.submit(os.pwrite, fd, b"after!", 0)
            assert not wait([writing], A_WHILE).done
        assert writing.result(PATIENCE_S) == 6


def test_one_vm_alone_is_held_and_watched(place, one):
    other = one.parent / "other"
    other.mkdir()
    (other / "disk").write_bytes(TEXT)
    asked_for = vm(place.datastore / "vm")
    with (
        opened(one / "disk") as fd,
        opened(other / "disk") as fd2,
        ThreadPoolExecutor() as pool,
        control(place.mountpoint) as first,
        control(place.mountpoint) as second,
    ):
        for nobodys in (replace(asked_for, id=vm(place.datastore / "other").id), replace(asked_for, inode=1)):
            with pytest.raises(NotFoundError):
                first.watch(nobodys)
            with pytest.raises(NotFoundError):
                first.quiesce(30, nobodys)
        first.watch(asked_for)
        first.quiesce(30, asked_for)
        with pytest.raises(BusyError, match="another backup"):
            second.quiesce(30, asked_for)
        writing = pool.submit(os.pwrite, fd, b"after!", 0)
        assert os.pwrite(fd2, b"passes", 0) == 6
        (other / "new").write_bytes(TEXT)
        (other / "new").rename(other / "newer")
        assert not wait([writing], A_WHILE).done
        assert first.take_written().areas == ()
        first.resume()
        assert writing.result(PATIENCE_S) == 6
        stored = (place.datastore / "vm" / "disk").stat()
        assert {area[:2] for area in first.take_written().areas} == {(stored.st_dev, stored.st_ino)}


def test_a_quiesced_mount_ends_by_signal(place, one):
    fd = os.open(one / "disk", os.O_RDWR)
    with ThreadPoolExecutor() as pool, control(place.mountpoint) as asked:
        asked.quiesce()
        writing = pool.submit(os.pwrite, fd, b"after!", 0)
        assert not wait([writing], A_WHILE).done
        pidfd = os.pidfd_open(asked.status.pid)
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        await_end(pidfd)
        os.close(pidfd)
        assert writing.result(PATIENCE_S) == 6
    with suppress(OSError):
        os.close(fd)
    place.mount()
    assert (one / "disk").read_bytes() == b"after!" + TEXT[6:]


def test_a_lock_waits_for_the_end_of_a_quiesce(place, one):
    with opened(one / "disk") as fd, ThreadPoolExecutor() as pool, control(place.mountpoint) as asked:
        asked.quiesce()
        writing = pool.submit(os.pwrite, fd, b"after!", 0)
        assert not wait([writing], A_WHILE).done
        locking = pool.submit(place.ioflt, "keyd", "lock", "--force")
        wait([locking], A_WHILE * 3)
        asked.resume()
        assert writing.exception(20) is None or writing.exception().errno == errno.ENOKEY
        locking.result(PATIENCE_S)
        place.ioflt("keyd", "unlock")
    assert (one / "disk").read_bytes() in (TEXT, b"after!" + TEXT[6:])
