"""A disk read over NBD from qemu-nbd, and servers that hang, lie or go."""

import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

from ioflt.backup import nbdclient
from ioflt.backup.nbdclient import NbdDisk
from ioflt.errors import PeerError, StorageError, UsageError
from ioflt.types import Area
from tests.qmp_peers import Impostor
from tests.waiting import await_end, listening

pytestmark = [pytest.mark.fuse, pytest.mark.interop("qemu-nbd", "nbdfuse", "nbdinfo")]

MIB = 1 << 20


@contextmanager
def served(tmp_path):
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(8 * MIB + 512)
        os.pwrite(file.fileno(), b"a" * MIB, MIB)
        os.pwrite(file.fileno(), b"b" * 512, 8 * MIB)
    sock = tmp_path / "nbd"
    server = subprocess.Popen(["qemu-nbd", "-r", "-t", "-e", "8", "-f", "raw", "-x", "d", "-k", sock, path])
    try:
        listening(sock)
        yield f"nbd+unix:///d?socket={sock}", path, server
    finally:
        server.kill()
        server.wait()


def test_bytes_and_areas(tmp_path):
    with served(tmp_path) as (uri, path, _), NbdDisk(uri) as disk:
        whole = path.read_bytes()
        assert disk.capacity == len(whole)
        assert disk.read(0, len(whole)) == whole
        assert disk.read(MIB - 3, 7) == whole[MIB - 3 : MIB + 4]
        areas = list(disk.areas())
        assert areas[0] == Area(MIB, MIB)
        assert areas[-1].start <= 8 * MIB < areas[-1].start + areas[-1].length == len(whole)
        assert list(disk.areas(MIB + 5, 10)) == [Area(MIB + 5, 10)]
        assert list(disk.areas(3 * MIB, MIB)) == []
        assert list(disk.areas(0, 0)) == []
        assert list(disk.areas(len(whole))) == []
        for offset, length in ((len(whole) - 1, 2), (-1, 1), (0, -1)):
            with pytest.raises(UsageError):
                disk.read(offset, length)
            with pytest.raises(UsageError):
                list(disk.areas(offset, length))
    disk.close()
    with pytest.raises(UsageError, match="closed"):
        disk.read(0, 1)
    assert not disk._directory.exists()


def test_a_server_that_goes(tmp_path):
    with served(tmp_path) as (uri, _, server), NbdDisk(uri) as disk:
        server.kill()
        server.wait()
        with pytest.raises(StorageError):
            disk.read(4 * MIB, MIB)


def test_another_export(tmp_path):
    with (
        served(tmp_path) as (uri, _, _server),
        pytest.raises(PeerError, match=r"cannot connect|cannot tell what is allocated"),
    ):
        NbdDisk(uri.replace("///d", "///other"))


@pytest.mark.parametrize("said", [b"", b"NBDMAGIC" + bytes(100)])
def test_a_server_that_hangs_or_lies(tmp_path, monkeypatch, said):
    monkeypatch.setattr(nbdclient, "READY_S", 1.0)

    def script(peer):
        peer.socket.sendall(said)
        peer.wait()

    with (
        Impostor(tmp_path / "nbd", script),
        pytest.raises(PeerError, match=r"does not answer|cannot connect|cannot tell what is allocated"),
    ):
        NbdDisk(f"nbd+unix:///d?socket={tmp_path}/nbd")


def test_nothing_is_left_of_a_killed_reader(tmp_path):
    script = (
        "import sys, time; from ioflt.backup.nbdclient import NbdDisk; d = NbdDisk(sys.argv[1]);"
        "print(d._file); print(d._server.pid, flush=True); time.sleep(600)"
    )
    with served(tmp_path) as (uri, _, _server):
        reader = subprocess.Popen(
            [sys.executable, "-c", script, uri],
            stdout=subprocess.PIPE,
            text=True,
        )
        _file, pid = reader.stdout.readline().strip(), int(reader.stdout.readline())
        pidfd = os.pidfd_open(pid)
        reader.kill()
        reader.wait()
        reader.stdout.close()
        await_end(pidfd)
        os.close(pidfd)
        with open("/proc/self/mountinfo") as lines:
            assert _file not in lines.read()
