"""A deep recrypt that was killed: what mounts make of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.mounted.place import Place
from tests.waiting import eventually

pytestmark = [pytest.mark.fuse, pytest.mark.interop("strace")]

CONTENTS = b"the canary sings" * 100_000


@pytest.fixture
def filled(place: Place) -> Place:
    """The home `web`, not mounted."""
    mountpoint = place.mount()
    (mountpoint / "web").mkdir()
    (mountpoint / "web" / "disk.raw").write_bytes(CONTENTS)
    (mountpoint / "web" / "a").write_bytes(b"short")
    place.umount()
    return place


def kill_in_the_middle(place: Place) -> None:
    """The command dies as it writes the body of the disk."""
    disk = place.datastore / "web" / "disk.raw"
    done = subprocess.run(
        [
            *("strace", "-qq", "-o", "/dev/null", "-P", disk, "-e", "trace=fsync"),
            *("-e", "inject=fsync:signal=SIGKILL:when=3"),
            *(sys.executable, "-m", "ioflt", "vm", "recrypt", "--deep", "--mode", "journal", disk.parent),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -9, done.stderr
    assert "recrypt under way" in place.ioflt("inspect", disk).stdout


def test_a_mount_for_reading_shows_the_rest(filled: Place) -> None:
    kill_in_the_middle(filled)
    mountpoint = filled.mount("--read-only")
    assert (mountpoint / "web" / "a").read_bytes() == b"short"
    disk = mountpoint / "web" / "disk.raw"
    assert disk.stat().st_size == len(CONTENTS)
    with pytest.raises(OSError, match="Structure needs cleaning"):
        disk.read_bytes()
    filled.umount()
    assert "recrypt under way" in filled.log


def test_a_mount_for_writing_finishes_it(filled: Place) -> None:
    kill_in_the_middle(filled)
    before = (filled.datastore / "web" / "disk.raw").stat()
    mountpoint = filled.mount()
    eventually(lambda: "its interrupted deep recrypt is complete" in filled.log)
    disk = mountpoint / "web" / "disk.raw"
    assert disk.read_bytes() == CONTENTS
    assert (filled.datastore / "web" / "disk.raw").stat().st_ino == before.st_ino
    disk.write_bytes(b"new")
    filled.umount()
    assert filled.ioflt("check", filled.datastore).returncode == 0


def test_the_command_goes_on(filled: Place) -> None:
    kill_in_the_middle(filled)
    home = filled.datastore / "web"
    assert "deep recrypt was interrupted" in filled.ioflt("vm", "show", home).stdout
    found = filled.ioflt("check", filled.datastore, check=False)
    assert found.returncode == 13
    assert "recrypt under way" in found.stdout
    assert "of a deep recrypt that was interrupted" in found.stdout
    refused = filled.ioflt("recovery", "add", home / "disk.raw", "--passphrase-file", __file__, check=False)
    assert refused.returncode == 5
    assert f"hint: nobody opens it until that is finished: ioflt vm recrypt --deep {home}" in refused.stderr
    filled.ioflt("vm", "recrypt", "--deep", home)
    assert filled.ioflt("check", filled.datastore).returncode == 0
    filled.mount()
    assert (filled.mountpoint / "web" / "disk.raw").read_bytes() == CONTENTS
    filled.umount()


def test_refused_while_a_mount_has_a_file_open(filled: Place) -> None:
    mountpoint = filled.mount()
    with (mountpoint / "web" / "a").open("rb"):
        refused = filled.ioflt("vm", "recrypt", "--deep", filled.datastore / "web", check=False)
    assert refused.returncode == 6
    assert "in use: a file of it is open in a mount" in refused.stderr
    filled.umount()
