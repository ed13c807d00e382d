"""Reaching keyd and starting it: one starter at a time, and back when it listens or has said why not."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import ioflt
from ioflt.errors import PeerError
from ioflt.keys.channel import ConnectionLost
from ioflt.keys.link import TIMEOUT, Link
from ioflt.paths import Paths
from ioflt.transport import unix
from ioflt.transport.unix import NotListening
from ioflt.wire.keyd.messages import VERSIONS

#: What a keyd that is ready writes to its ready descriptor. Anything else is why it is not.
READY = b"ready\n"

#: Seconds until a starting keyd is given up.
START_TIMEOUT_S = 30.0

_MAX_REASON = 1024

# -P and a path of our own (`environment`): what lies in the current directory is never imported.
_KEYD = (sys.executable, "-P", "-m", "ioflt.keyd")


def reach(where: Paths, *, start: bool) -> socket.socket:
    """A socket that keyd has accepted, not greeted yet; `start` has it run first when there is none.

    A member of the machine's keyd cannot start it. Raises NotListening, DeniedError, PeerError;
    ConnectionLost when it was killed while it started.
    """
    if start and not where.joined:
        _start(where)
    try:
        return unix.connect(where.keyd_socket, TIMEOUT)
    except NotListening:
        if start and where.joined:
            raise PeerError("the keyd of this machine is not running, and only root starts it") from None
        raise


def greet(
    where: Paths,
    *,
    start: bool,
    operation: str = "",
    as_principal: str | None = None,
    versions: tuple[int, ...] = VERSIONS,
) -> Link:
    """A connection to keyd as by `Link.over`; raises what that raises, and `reach`."""
    try:
        return Link.over(reach(where, start=start), operation, as_principal, versions)
    except ConnectionLost:
        with contextlib.suppress(NotListening, ConnectionLost):
            Link.refuse_older(reach(where, start=False))
        raise


def become_keyd() -> NoReturn:
    """Go on as keyd, in this process, with the descriptors that it has."""
    os.execve(sys.executable, _KEYD, environment())  # noqa: S606  # no shell is what is wanted


def _start(where: Paths) -> None:
    """Return when a keyd listens. Raises PeerError."""
    where.ensure()
    lock = os.open(
        where.run / "keyd.start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            Link.open(where.keyd_socket).close()  # another starter was first
        except (NotListening, ConnectionLost):
            _spawn()
    finally:
        os.close(lock)


def _spawn() -> None:
    """Run keyd, which detaches itself; return when it listens. Raises ConnectionLost, PeerError."""
    ready, told = os.pipe()
    try:
        launcher = subprocess.Popen(
            [*_KEYD, "--detach", f"--ready-fd={told}"],
            pass_fds=(told,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=environment(),
        )
        os.close(told)
        told = -1
        answer = _read_all(ready)
        launcher.wait(START_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerError(f"keyd cannot be started: {error}") from error
    finally:
        os.close(ready)
        if told >= 0:
            os.close(told)
    if not answer:
        raise ConnectionLost("keyd cannot be started: it ended without a word")
    if answer != READY:
        reason = answer.decode(errors="backslashreplace").strip()
        raise PeerError(f"keyd cannot be started: {reason}")


def environment() -> dict[str, str]:
    root = str(Path(ioflt.__file__).resolve().parent.parent)
    known = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*known, root])}


def _read_all(ready: int) -> bytes:
    """All that is written to the pipe until its last writer closes it."""
    answer = b""
    while select.select([ready], [], [], START_TIMEOUT_S)[0]:
        chunk = os.read(ready, _MAX_REASON)
        answer += chunk
        if not chunk or len(answer) > _MAX_REASON or answer == READY:
            return answer
    raise PeerError("keyd cannot be started: it does not say that it is ready")
