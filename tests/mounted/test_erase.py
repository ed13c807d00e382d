"""An erase beside a mount: refused while a file is open, and finished by the next mount."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.mounted.place import Place
from tests.waiting import eventually

pytestmark = [pytest.mark.fuse, pytest.mark.interop("strace")]


def test_with_a_mount(place: Place) -> None:
    mountpoint = place.mount()
    home = place.datastore / "web"
    (mountpoint / "web").mkdir()
    (mountpoint / "web" / "disk.raw").write_bytes(b"contents" * 10_000)
    with (mountpoint / "web" / "disk.raw").open("rb") as file:
        refused = place.ioflt("vm", "erase", home, "--yes", check=False)
        assert refused.returncode == 6
        assert "in use" in refused.stderr
        assert file.read(8) == b"contents"
    fd = os.open(home / "disk.raw", os.O_RDONLY)
    head = os.pread(fd, 4096, 0)
    killed = subprocess.run(
        [
            *("strace", "-f", "-qq", "-o", "/dev/null"),
            *("-e", "trace=pwrite64", "-e", "inject=pwrite64:signal=SIGKILL:when=1"),
            *(sys.executable, "-m", "ioflt", "vm", "erase", home, "--yes"),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert killed.returncode in (-9, 137), killed.stderr
    assert os.listdir(mountpoint) == []
    assert not home.exists()
    assert os.pread(fd, 4096, 0) == head
    place.remount()
    eventually(lambda: "its interrupted erase is complete" in place.log)
    assert os.listdir(place.datastore / ".ioflt.d") == []
    assert os.pread(fd, 4096, 0) != head
    os.close(fd)
    place.umount()
