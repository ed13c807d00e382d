"""The daemons that commands start by themselves, ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ioflt.errors import PeerError
from ioflt.keys.client import KeyClient
from tests.waiting import await_end


def end_keyd() -> None:
    """End every keyd of $IOFLT_HOME, and wait until they are gone.

    That is the one that listens, and, for who may look into processes, those that do not yet:
    a command or mount that was killed, or given up on, began to start them.
    """
    pids = set(_keyds(os.environ["IOFLT_HOME"]))
    with suppress(PeerError), KeyClient(start=False) as client:
        pids.add(client.status().pid)
    for pid in pids:
        with suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                await_end(pidfd)
            finally:
                os.close(pidfd)


def _keyds(home: str) -> Iterator[int]:
    mark = f"IOFLT_HOME={home}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):  # gone, or not ours to look at
            command = (entry / "cmdline").read_bytes().split(b"\0")
            if b"ioflt.keyd" in command and mark in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name)
