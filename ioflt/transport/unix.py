"""Unix sockets: a blocking client, and who the peer is. `listener` has the other end.

Every command is a client: what it need not import, nobody waits for.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ioflt.errors import DeniedError, PeerError

if TYPE_CHECKING:
    import trio

#: Longest path in a socket address (sockaddr_un holds 108 bytes with the NUL). Longer ones go through /proc.
MAX_ADDRESS = 107

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
        with address(path) as name:
            sock.connect(name)
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


@contextlib.contextmanager
def address(path: Path) -> Iterator[str]:
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
