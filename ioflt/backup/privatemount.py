"""A read-only mount of a datastore that nobody else sees: at a private place and, for root, in a mount
namespace of this process alone. It ends with this process, however that ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import msgspec

from ioflt import hygiene
from ioflt.access.principals import Principal
from ioflt.backup import children
from ioflt.errors import PeerError
from ioflt.keys.starter import environment
from ioflt.wire import failure, readiness
from ioflt.wire.readiness import Serves

#: What is run as the mount's process: by a test bed another module.
PROGRAM = "ioflt.fuse"

#: Seconds that the mount may take to write back nothing and end, before it is killed.
_END_S = 30.0

_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_SLAVE, _MNT_DETACH = 16384, 1 << 19, 2

_libc = ctypes.CDLL(None, use_errno=True)


def leave_mounts() -> None:
    """A mount namespace of our own, as far as this process may have one: what is mounted in it only processes
    that are started from here see, and it is gone with the last of them.

    Mounts of ioflt that are there already stay where they are alone: their users may unmount them.
    """
    if os.geteuid() != 0 or _libc.unshare(_CLONE_NEWNS) != 0:
        return
    if _libc.mount(b"none", b"/", None, _MS_REC | _MS_SLAVE, None) != 0:
        return  # what is unmounted here would go elsewhere, too
    with open("/proc/self/mountinfo", "rb") as lines:
        ours = [line.split(b" ")[4] for line in lines if b" - fuse.ioflt " in line]
    for path in reversed(ours):
        _libc.umount2(path.decode("unicode_escape").encode("latin-1"), _MNT_DETACH)


class PrivateMount:
    """Of one datastore, for one principal, served. A context manager; `close` ends it."""

    def __init__(
        self, datastore: Path, mountpoint: Path, principal: Principal | None, held: str | None = None
    ) -> None:
        """Returns when it is served. Raises the IofltError for which it cannot be.

        `held`: a VM that somebody keeps all others from, who wants it read here.
        """
        ready, told = os.pipe()
        arguments = [os.path.realpath(datastore), str(mountpoint), f"--ready-fd={told}", "--read-only"]
        arguments += ["--no-exec"]
        arguments += [f"--as={principal}"] if principal is not None else []
        arguments += [f"--held={held}"] if held is not None else []
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", PROGRAM, *arguments],
                pass_fds=(told,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
                env=environment(),
                preexec_fn=lambda: hygiene.end_with_parent(signal.SIGTERM),  # it unmounts, and then ends
            )
        finally:
            os.close(told)
        try:
            with open(ready, "rb") as pipe:
                line = pipe.readline()
            try:
                answer = readiness.read(line)
            except msgspec.DecodeError:
                raise PeerError("the mount's process ended without a word; see mount.log") from None
            if not isinstance(answer, Serves):
                raise failure.rebuild(answer)
        except BaseException:  # nobody else ends it
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """End it, and return when it is gone. May be called again."""
        children.end(self._process, _END_S)

    def __enter__(self) -> PrivateMount:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
