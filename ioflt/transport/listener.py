"""A trio listener on a unix socket that only one process can own: see `transport.owned`."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import trio

from ioflt.errors import UsageError
from ioflt.transport import owned
from ioflt.transport.unix import address

_BACKLOG = 1024  # connections that come in one burst


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
        self._lock = owned.take(path)
        try:
            if inherited is None:
                self._socket = _bind(path, mode, group)
            else:
                self._socket = _take_over(inherited, path)
                _protect(path, mode, group)
        except BaseException:  # nobody else closes it
            owned.give_free(path, self._lock)
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
        owned.give_free(self.path, self._lock)
        self._lock = -1

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _bind(path: Path, mode: int, group: int | None) -> socket.socket:
    """A listening socket. It takes nobody before it has its mode and group: `listen` comes last."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        with address(path) as name:
            sock.bind(name)
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
