"""The daemons that commands start by themselves, ended."""

from __future__ import annotations

import os
import signal

from ioflt import paths
from ioflt.errors import PeerError
from ioflt.keys.client import KeyClient
from ioflt.transport import unix


def end_keyd() -> None:
    """End the keyd of $IOFLT_HOME, if there is one, and wait until it is gone."""
    try:
        with KeyClient(start=False) as client:
            pid = client.status().pid
    except PeerError:
        return
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        unix.wait_free(paths.find().keyd_socket)
    finally:
        os.close(pidfd)
