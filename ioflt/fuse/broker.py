"""The unconfined half of a mount: a small process that reaches keyd for it, and unmounts at the end.

A mount that serves can open no socket and run no program (`ioflt.confinement`). It keeps one end of a socket
pair and asks over it: a request is one packet, and so is the answer, a descriptor beside it.

    K, k           a connection to keyd, which is started first (K) or has to run already (k)
    U number       unmount, if the topmost mount at the mount point still has that number

The answer is "done", a descriptor beside it, or "nobody" listens (any more), or a Failure as JSON. The broker
ends when the other end is closed. It is forked before any key is there, and is never told one. It is the one
who tells keyd for whom the mount is: whoever takes over the process that serves cannot say that it is for
somebody else.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from typing import NoReturn

import msgspec

from ioflt.access.principals import Principal
from ioflt.errors import IofltError, PeerError
from ioflt.fuse.mountinfo import mount_id
from ioflt.fuse.starter import umount_command
from ioflt.keys import starter
from ioflt.keys.channel import ConnectionLost
from ioflt.keys.link import Link
from ioflt.paths import Paths
from ioflt.transport.unix import NotListening
from ioflt.wire import failure

_MAX_PACKET = 64 << 10
_DONE = b"done"
_NOBODY = b"nobody"


class Broker:
    """The mount's end. Safe for several threads: one request at a time."""

    def __init__(self, pair: socket.socket, pid: int) -> None:
        self._socket = pair
        self._pid = pid
        self._lock = threading.Lock()

    @classmethod
    def fork(cls, where: Paths, mountpoint: str, principal: Principal | None, *not_for_it: int) -> Broker:
        """Start the other half. Call while there is one thread; it gets none of those descriptors."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            ours.close()
            for descriptor in not_for_it:
                os.close(descriptor)
            _serve(its, where, mountpoint, None if principal is None else str(principal))
        its.close()
        return cls(ours, pid)

    def reach_keyd(self, start: bool) -> Link:
        """A connection for the mount. Raises NotListening when there is no keyd and none is started,
        DeniedError, PeerError.
        """
        return Link.greeted(socket.socket(fileno=self._ask(b"K" if start else b"k")))

    def unmount(self, number: int) -> None:
        """Take the mount of that number away, lazily, unless it is gone already. Raises PeerError."""
        self._ask(b"U%d" % number)

    def close(self) -> None:
        """End the other half."""
        self._socket.close()
        os.waitpid(self._pid, 0)

    def _ask(self, request: bytes) -> int:
        with self._lock:
            try:
                self._socket.send(request)
                answer, descriptors, _, _ = socket.recv_fds(self._socket, _MAX_PACKET, 1)
            except OSError as error:
                raise PeerError(f"the mount's broker is gone: {error.strerror}") from error
        if answer == _NOBODY:
            raise NotListening("keyd is not running")
        if not answer:
            raise PeerError("the mount's broker is gone")
        if answer != _DONE:
            raise failure.rebuild(msgspec.json.decode(answer, type=failure.Failure))
        return descriptors[0] if descriptors else -1


def _serve(pair: socket.socket, where: Paths, mountpoint: str, principal: str | None) -> NoReturn:
    """The forked process. A terminal's Ctrl-C is for the mount, which ends this by closing its end."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        while request := pair.recv(_MAX_PACKET):
            _answer(pair, request, where, mountpoint, principal)
    finally:
        os._exit(0)


def _answer(
    pair: socket.socket, request: bytes, where: Paths, mountpoint: str, principal: str | None
) -> None:
    try:
        if request[:1] == b"U":
            _unmount(mountpoint, int(request[1:]))
            pair.send(_DONE)
            return
        start = request == b"K"
        with starter.greet(where, start=start, operation="mount", as_principal=principal) as keyd:
            socket.send_fds(pair, [_DONE], [keyd.fileno()])
    except (NotListening, ConnectionLost):
        pair.send(_NOBODY)
    except IofltError as error:
        pair.send(msgspec.json.encode(failure.of(error)))
    except Exception as error:  # whatever it was, the mount must not wait for an answer for ever
        pair.send(msgspec.json.encode(failure.of(PeerError(f"the mount's broker failed: {error}"))))


def _unmount(mountpoint: str, number: int) -> None:
    if mount_id(mountpoint) != number:
        return
    done = subprocess.run(
        umount_command(mountpoint, lazily=True), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise PeerError(f"cannot unmount: {done.stderr.strip()}", file=mountpoint)
