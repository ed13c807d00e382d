"""A mount that another mount namespace still has: its process goes on, and umount says why."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from ioflt.cli.hints import hint_for
from ioflt.errors import PeerError
from ioflt.fuse import starter
from tests.mounted.place import Place
from tests.waiting import await_end

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.interop("unshare")]


def test_umount_names_the_process_of_another_namespace(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.mount()
    serving = os.pidfd_open(place.pid)
    other = subprocess.Popen(
        ["unshare", "--mount", "--propagation=private", "sh", "-c", "echo; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"\n"
        monkeypatch.setattr(starter, "END_TIMEOUT_S", 0.2)
        with pytest.raises(PeerError) as caught:
            starter.stop(place.mountpoint)
        assert caught.value.message == (
            "the mount's process does not end:"
            f" the mount namespace of process {other.pid} still has the mount"
        )
        assert str(caught.value.file) == str(place.mountpoint)
        assert hint_for(caught.value) == (
            "end that process (a container, a service with PrivateMounts=), and all others that"
            f" `grep -l fuse.ioflt /proc/[0-9]*/mountinfo` names, or: nsenter -t {other.pid} -m umount"
            f" {place.mountpoint}"
        )
    finally:
        os.killpg(other.pid, signal.SIGKILL)
        other.communicate()
    await_end(serving)
    os.close(serving)
