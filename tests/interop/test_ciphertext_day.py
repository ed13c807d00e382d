"""The backups of a VM by somebody without any cryptographer privilege, and what comes back of them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.guest import Guest
from tests.machine import ROOT, Machine, User

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.root,
    pytest.mark.qemu,
    pytest.mark.interop("unshare", "setpriv", "nsenter", "mke2fs"),
    pytest.mark.slow,
]

KEEPER = User("keeper", 61021)
SIZE = 64 << 20
VM, MOUNT, KEPT = "/mnt/work/ds/web01", "/mnt/work/mnt", "/mnt/work/kept"


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine([KEEPER]) as found:
        found.root("datastore", "init", "/mnt/work/ds")
        found.root("permission", "grant", "user:keeper", "no-crypto-admin", "everything")
        found.path(MOUNT).mkdir()
        found.root("mount", "/mnt/work/ds", MOUNT)
        try:
            yield found
        finally:
            found.root("umount", MOUNT)


def back_up(machine: Machine, *options: str) -> dict[str, Any]:
    done = machine.run(ROOT, "chmod", "-R", "a+rX", "/mnt/work/ds")
    assert done.returncode == 0, done.stderr
    done = machine.ioflt(KEEPER, "backup", "run", VM, KEPT, "--ciphertext", "--json", *options)
    assert done.returncode == 0, done.stderr
    made = dict(json.loads(done.stdout))
    assert made["consistency"] == "crash-consistent"
    return made


def test_a_day(machine: Machine, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A full backup and increments while the guest writes, and gets another key; then the VM is lost."""
    home = machine.path(f"{MOUNT}/web01")
    home.mkdir()
    (home / "web01.vmx").write_text('displayName = "web01"\nscsi0:0.fileName = "disk.raw"\n')
    with (home / "disk.raw").open("wb") as disk:
        disk.truncate(SIZE)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", home / "disk.raw"], check=True)
    rounds = 5 if request.config.getoption("--long") else 2
    with Guest(tmp_path, "writer", home / "disk.raw") as guest:
        guest.beats(2)
        assert back_up(machine)["full"] is True
        last = 0
        for number in range(1, rounds + 1):
            if number == rounds // 2 + 1:
                machine.root("vm", "recrypt", VM)
            last = guest.beats(2)
            assert back_up(machine, "--incremental")["full"] is False
        guest.beats(2)
    denied = machine.ioflt(KEEPER, "vm", "export", VM, "/mnt/work/plain")
    assert (denied.returncode, "Cryptographer.Access on web01" in denied.stderr) == (3, True), denied.stderr
    machine.root("keyd", "lock", "--force")
    verified = machine.ioflt(KEEPER, "backup", "verify", KEPT)
    assert verified.returncode == 0, verified.stderr
    machine.root("keyd", "unlock")

    shutil.rmtree(home)
    machine.root("backup", "restore", KEPT, "/mnt/work/ds")
    with Guest(tmp_path, "reader", home / "disk.raw", mode="reader") as reader:
        said = reader.hear(r"guest: .*\r").split()
    assert said[:2] == ["guest:", "ok"], said
    assert int(said[2]) >= last
