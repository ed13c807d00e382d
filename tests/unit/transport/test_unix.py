"""Unix sockets: one owner, no stale ones, and the kernel's word on who the peer is."""

import contextlib
import os
import socket
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ioflt.errors import BusyError, PeerError, UsageError
from ioflt.transport import owned, unix
from ioflt.transport.listener import Listener
from ioflt.transport.unix import NotListening


def test_connect_and_peer(short_tmp):
    path = short_tmp / "a.sock"
    with Listener(path) as listener, unix.connect(path, 5) as client:
        served, _ = listener._socket.accept()
        with served:
            for end in (client, served):
                peer = unix.peer_of(end)
                assert (peer.pid, peer.uid, peer.gid) == (os.getpid(), os.geteuid(), os.getegid())
                assert os.getegid() in peer.groups
                assert set(os.getgroups()) <= peer.groups
            pidfd = unix.peer_pidfd(served)
            if pidfd is not None:  # Linux 6.5
                assert f"Pid:\t{os.getpid()}\n" in open_text(f"/proc/self/fdinfo/{pidfd}")
                os.close(pidfd)
    assert not path.exists()


def open_text(path):
    with open(path) as file:
        return file.read()


def test_mode_and_group(short_tmp):
    path = short_tmp / "a.sock"
    with Listener(path, 0o660, os.getegid()):
        about = path.stat()
        assert (stat.S_IMODE(about.st_mode), about.st_gid) == (0o660, os.getegid())


def test_one_owner_at_a_time(short_tmp):
    path = short_tmp / "a.sock"
    with Listener(path):
        with pytest.raises(BusyError):
            Listener(path)
        unix.connect(path, 5).close()
    with Listener(path):
        unix.connect(path, 5).close()


def test_nothing_is_left_of_an_owner_and_there_is_never_a_second(short_tmp):
    """Many take the path and give it free, with it the lock's file, while others have that open."""
    path = short_tmp / "a.sock"
    together = threading.Barrier(4)

    def own_often():
        together.wait()
        taken = 0
        while taken < 200:
            with contextlib.suppress(BusyError):
                lock = owned.take(path)
                path.touch(exist_ok=False)  # what only the owner does
                path.unlink()
                owned.give_free(path, lock)
                taken += 1

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(own_often) for _ in range(4)]:
            done.result()
    assert list(short_tmp.iterdir()) == []


def test_what_a_killed_owner_left_can_be_removed(short_tmp):
    path = short_tmp / "a.sock"
    with Listener(path):
        owned.remove_stale(path)
        unix.connect(path, 5).close()
    for left in (path, short_tmp / "a.sock.lock"):
        left.touch()
    owned.remove_stale(path)
    assert list(short_tmp.iterdir()) == []


def test_a_stale_socket_gives_way(short_tmp):
    path = short_tmp / "a.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(NotListening):
        unix.connect(path)
    with Listener(path):
        unix.connect(path, 5).close()


def test_a_path_longer_than_an_address(short_tmp):
    directory = short_tmp / ("d" * 200)
    directory.mkdir()
    path = directory / "a.sock"
    with Listener(path):
        unix.connect(path, 5).close()


def test_what_cannot_be_connected_to(short_tmp):
    with pytest.raises(NotListening):
        unix.connect(short_tmp / "none.sock")
    (short_tmp / "file").write_bytes(b"")
    with pytest.raises(PeerError):
        unix.connect(short_tmp / "file" / "a.sock")
    with pytest.raises(NotListening):
        unix.connect(short_tmp / "file")


def test_where_no_socket_can_be(short_tmp):
    path = short_tmp / "a.sock"
    path.mkdir()
    with pytest.raises(UsageError, match="cannot listen"):
        Listener(path)
    path.rmdir()
    with Listener(path):  # and the lock was given back
        pass


def test_close_may_be_called_again(short_tmp):
    listener = Listener(short_tmp / "a.sock")
    listener.close()
    listener.close()
    owned.wait_free(short_tmp / "a.sock")
    assert list(short_tmp.iterdir()) == []
