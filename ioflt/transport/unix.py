"""Unix sockets: a blocking client, a trio listener that only one process can own, and who the peer is.

One owner: the listener holds `flock` on `<socket>.lock` as long as it lives. Only the holder removes a stale
socket and binds, so two daemons never serve one path and none removes the other's live socket. The lock file
itself stays for ever: removing it would be the race again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from ioflt.errors import BusyError, DeniedError, PeerError, UsageError

#: Longest path in a socket address (sockaddr_un holds 108 bytes with the NUL). Longer ones go through /proc.
MAX_ADDRESS = 107

_BACKLOG = 1024  # connections that come in one burst
_LOCK_TRIES, _LOCK_PAUSE_S = 20, 0.05  # a process that ends may own its socket a moment longer
_SO_PEERGROUPS = 59  # asm-generic/socket.h; not in Python's socket module
_SO_PEERPIDFD = 77  # the same; since Linux 6.5
_UCRED: Final = struct.Struct("3i")


class NotListening(PeerError):
    """Nobody listens at the path: no socket, or a stale one."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as the kernel saw it at connect time. `groups` has the primary group too."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int] = field(default=frozenset())


def connect(path: Path, timeout: float | None = None) -> socket.socket:
    """A connected blocking socket; `timeout` in seconds holds for every call on it.

    Raises NotListening, DeniedError or PeerError.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(timeout)
        with _address(path) as address:
            sock.connect(address)
    except OSError as error:
        sock.close()
        raise _connect_error(error, path) from error
    return sock


def peer_of(sock: socket.socket | trio.socket.SocketType) -> Peer:
    """The process that connected (for an accepted socket) or that listens (for a connected one)."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    try:
        # Python allows 1024 bytes here. Who is in more than 256 groups is known by his primary one only.
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)
    except OSError:
        raw = b""
    return Peer(pid, uid, gid, frozenset({gid, *(g for (g,) in struct.iter_unpack("I", raw))}))


def peer_pidfd(sock: socket.socket | trio.socket.SocketType) -> int | None:
    """A pidfd of the peer, which unlike its pid is never reused; None where the kernel has none to give.

    The caller closes it.
    """
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        return None


def wait_free(path: Path) -> None:
    """Return when no process owns the socket at `path`."""
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
    finally:
        os.close(lock)


class Listener:
    """A listening socket that this process alone owns. Use it in a `with`; it is unlinked at the end, unless
    it was inherited.
    """

    def __init__(
        self, path: Path, mode: int = 0o600, group: int | None = None, *, inherited: int | None = None
    ) -> None:
        """Listen at `path`, with that mode and group, taking the place of a stale socket.

        The directory is there and belongs to us. `inherited`: a descriptor that listens there already, and
        which somebody else keeps for the time after us. Raises BusyError when another process owns the path,
        UsageError when the descriptor is not that socket.
        """
        self.path = path
        self._inherited = inherited is not None
        self._lock = _lock(path)
        try:
            if inherited is None:
                self._socket = _bind(path, mode, group)
            else:
                self._socket = _take_over(inherited, path)
                _protect(path, mode, group)
        except BaseException:  # nobody else closes it
            os.close(self._lock)
            raise

    def trio_listener(self) -> trio.SocketListener:
        """The listener for `trio.serve_listeners`."""
        return trio.SocketListener(trio.socket.from_stdlib_socket(self._socket))

    def close(self) -> None:
        """Stop listening, remove the socket, and then give the path free. May be called again."""
        if self._lock < 0:
            return
        self._socket.close()
        if not self._inherited:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
        os.close(self._lock)
        self._lock = -1

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _lock(path: Path) -> int:
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    for _ in range(_LOCK_TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        time.sleep(_LOCK_PAUSE_S)
    os.close(lock)
    raise BusyError("another process serves this socket", file=path)


def _bind(path: Path, mode: int, group: int | None) -> socket.socket:
    """A listening socket. It takes nobody before it has its mode and group: `listen` comes last."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        with _address(path) as address:
            sock.bind(address)
        _protect(path, mode, group)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise UsageError(f"cannot listen: {error.strerror}", file=path) from error
    return sock


def _take_over(descriptor: int, path: Path) -> socket.socket:
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise UsageError("what was handed over is no socket", file=path) from error
    listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM or not listens:
        raise UsageError("what was handed over is no listening unix socket", file=path)
    if sock.getsockname() != str(path):
        raise UsageError(f"the socket that was handed over is {sock.getsockname()!r}", file=path)
    sock.set_inheritable(False)
    return sock


def _protect(path: Path, mode: int, group: int | None) -> None:
    if group is not None:
        os.chown(path, -1, group)
    path.chmod(mode)


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """The address of a socket at `path`, however long the path is."""
    if len(os.fsencode(path)) <= MAX_ADDRESS:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _connect_error(error: OSError, path: Path) -> PeerError | DeniedError:
    if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
        return NotListening("nobody listens here", file=path)
    if error.errno in (errno.EACCES, errno.EPERM):
        return DeniedError("you may not use this socket", file=path)
    return PeerError(f"cannot connect: {error.strerror or error}", file=path)
