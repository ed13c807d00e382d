"""A keyd of its own for each test, gone afterwards."""

import os
import signal

import pytest

from ioflt import paths
from ioflt.errors import PeerError
from ioflt.keys.client import KeyClient
from ioflt.transport import unix


@pytest.fixture
def where(ioflt_home):
    """The directories of a keyd that is not running. Whichever runs at the end is ended."""
    found = paths.find().ensure()
    yield found
    end(found)


@pytest.fixture
def keys(where):
    """A client of a running keyd."""
    with KeyClient.connect() as client:
        yield client


def end(where):
    """End the keyd that listens there, if one does, and wait until it is gone."""
    try:
        with KeyClient(start=False) as client:
            pid = client.status().pid
    except PeerError:
        return
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        unix.wait_free(where.keyd_socket)
    finally:
        os.close(pidfd)
