"""qemu-nbd, serving one disk over a socket that it is handed: the format is named, never probed.

It parses what whoever writes to the datastore wrote. So it is confined: it reads that one VM's home in the
mount and what its program needs, opens no other socket and writes nothing. A hostile image that names other
files finds none of them.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from ioflt import confinement, hygiene
from ioflt.backup import bitmap, children
from ioflt.errors import DeniedError, NotFoundError, PeerError

#: Connections that are served side by side. More than one, so that clients are told of multi-conn.
CLIENTS: Final = 8

#: Seconds until a server that does not greet is given up.
READY_S: Final = 60.0
_END_S: Final = 10.0

#: What qemu-nbd and its libraries are, and what they ask for at their start.
_PROGRAMS: Final = ("/usr", "/lib", "/lib64", "/bin", "/opt")
_READABLE: Final = (
    *("/etc/ld.so.cache", "/etc/gnutls", "/etc/crypto-policies", "/etc/localtime"),
    *("/dev/urandom", "/dev/zero", "/proc/self"),
)

#: The descriptor of a socket that is handed over: sd_listen_fds(3).
_HANDED: Final = 3

#: qemu tries locks on it.
_NULL: Final = Path("/dev/null")

#: Bytes of its standard error that are kept.
_MAX_SAID: Final = 4096

# The NBD protocol's greeting, and an option that ends the conversation before anything was asked for.
_GREETING: Final = b"NBDMAGICIHAVEOPT"
_ABORT: Final = b"\0\0\0\3IHAVEOPT\0\0\0\2\0\0\0\0"


@dataclass(frozen=True, slots=True)
class Account:
    """Whose process the server is, if not ours."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Served:
    """What is served, and how. `name` is the export's; `options` are further ones of qemu-nbd.

    `home`: the VM's home in the mount; `image` is in it. `once`: the end of the first client is the server's.
    `bitmap`: a file of `bitmap.make`. `readable`: directories with what TLS needs.
    """

    home: Path
    image: Path
    format: str
    name: str
    once: bool = False
    bitmap: Path | None = None
    options: Sequence[str] = ()
    readable: Sequence[Path] = ()
    account: Account | None = None


class NbdServer:
    """A running qemu-nbd, killed with this process. A context manager."""

    def __init__(self, served: Served, listening: socket.socket) -> None:
        """Takes the socket over. Raises NotFoundError when there is no qemu-nbd."""
        command = [
            "qemu-nbd",
            *([] if served.once else ["--persistent"]),
            "--read-only",
            f"--shared={CLIENTS}",
            f"--export-name={served.name}",
        ]
        command += ["--cache=none", "--aio=threads", *served.options]
        if served.bitmap is None:
            command += [f"--format={served.format}", str(served.image)]
        else:
            options = bitmap.image_options(served.bitmap, served.image, served.format)
            command += [f"--bitmap={bitmap.NAME}", "--image-opts", options]
        account = served.account
        said, stderr = os.pipe()
        os.set_blocking(said, False)

        def become() -> None:
            os.dup2(listening.fileno(), _HANDED)
            os.set_inheritable(_HANDED, True)
            if account is not None:  # what root has in it is not that user's to see
                os.environ.clear()
                os.environ["PATH"] = os.defpath
            os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
            hygiene.end_with_parent(signal.SIGKILL)
            hygiene.no_new_privileges()
            readable = [served.home, *served.readable, *([served.bitmap.parent] if served.bitmap else ())]
            readable += filter(Path.exists, map(Path, _READABLE))
            programs = [path for path in map(Path, _PROGRAMS) if path.is_dir()]
            for lack in confinement.confine((_NULL,), readable, outwards=False, programs=programs):
                os.write(2, f"qemu-nbd is less confined than it could be: {lack}\n".encode())

        taken = fcntl.fcntl(listening, fcntl.F_DUPFD_CLOEXEC, _HANDED)  # now none of Popen's own is that
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                close_fds=False,
                start_new_session=True,
                cwd="/",
                user=None if account is None else account.uid,
                group=None if account is None else account.gid,
                extra_groups=None if account is None else account.groups,
                preexec_fn=become,
            )
        except FileNotFoundError:
            os.close(said)
            raise NotFoundError("qemu-nbd is not installed, or not in the PATH") from None
        finally:
            os.close(stderr)
            os.close(taken)
            listening.close()
        self._stderr = said
        self._said = bytearray()

    def wait_ready(self, connect: socket.socket) -> None:
        """Return once it greets over that socket, which is connected to it and closed.

        Raises PeerError with what it says when it does not.
        """
        with connect:
            connect.settimeout(READY_S)
            greeting = b""
            try:
                while len(greeting) < len(_GREETING) and (more := connect.recv(64)):
                    greeting += more
                if greeting.startswith(_GREETING):
                    connect.sendall(_ABORT)
                    return
            except OSError:
                pass
        self.close()
        raise self.failure("cannot be started")

    def fileno(self) -> int:
        """Its standard error: readable when it says something, and at its end."""
        return self._stderr

    def hear(self) -> list[str]:
        """What it said since, line by line."""
        try:
            data = os.read(self._stderr, 1 << 16)
        except BlockingIOError:
            return []
        self._said = (self._said + data)[-_MAX_SAID:]
        return [line for line in data.decode(errors="backslashreplace").splitlines() if line.strip()]

    def ended(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._process.poll()

    def failure(self, what: str) -> PeerError | DeniedError:
        """The error with what it said last."""
        self.hear()
        lines = [line for line in self._said.decode(errors="backslashreplace").splitlines() if line.strip()]
        said = lines[-1].removeprefix("qemu-nbd: ") if lines else "it said nothing"
        if "Permission denied" in said:
            return DeniedError(f"qemu-nbd may not read the disk: {said}")
        return PeerError(f"qemu-nbd {what}: {said}")

    def close(self) -> None:
        """End it: its clients are cut off. May be called again."""
        children.end(self._process, _END_S)

    def __enter__(self) -> NbdServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        os.close(self._stderr)
