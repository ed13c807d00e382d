"""Backups of a VM that runs and writes all the time, by its QEMU; and what goes wrong on the way.

The guest gives each file that it wrote its MD5 sum for a name: a disk is judged by a guest that reads it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ioflt.backup import freespace, running
from ioflt.backup.homefiles import FLEECE, FoundDisk
from ioflt.backup.qmp import Monitor
from ioflt.errors import BusyError, PeerError, StorageError
from tests.guest import Guest
from tests.mounted.place import Place
from tests.waiting import eventually

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.qemu,
    pytest.mark.interop("nbdfuse", "nbdinfo", "mke2fs"),
    pytest.mark.slow,
]

SIZE = 128 << 20
FROZEN = "file-system-consistent (guest agent)"


class Rig:
    """The VM `web01` on a mount, whose guest writes; `agent` is the socket of the agent in it."""

    def __init__(self, place: Place, guest: Guest, agent: Path) -> None:
        self.place, self.guest, self.agent = place, guest, agent
        self.destination = place.base / "backups"

    @property
    def home(self) -> Path:
        return self.place.mountpoint / "web01"

    def backup(self, *options: object) -> dict[str, Any]:
        done = self.place.ioflt(
            *("backup", "run", self.place.datastore / "web01", self.destination),
            *("--qmp", self.guest.qmp, "--json", *options),
        )
        return dict(json.loads(done.stdout))

    def left(self) -> list[object]:
        """What a backup left: files in the home, and nodes, jobs and exports in QEMU."""
        ask = self.guest.command
        nodes = [node["node-name"] for node in ask("query-named-block-nodes", flat=True)]
        return [
            *(name for name in os.listdir(self.home) if name.startswith(FLEECE)),
            *(name for name in nodes if name.startswith(FLEECE)),
            *ask("query-block-jobs"),
            *ask("query-block-exports"),
        ]


@pytest.fixture
def rig(place: Place) -> Iterator[Rig]:
    top = place.mount()
    (top / "web01").mkdir()
    (top / "web01" / "web01.vmx").write_text('displayName = "web01"\nscsi0:0.fileName = "disk.raw"\n')
    disk = top / "web01" / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", disk], check=True)
    place.ioflt("cbt", "enable", place.datastore / "web01", "disk.raw")
    agent = place.base / "agent"
    port = "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"
    socket = f"socket,path={agent},server=on,wait=off,id=agent"
    with Guest(
        place.base, "guest", disk, "-device", "virtio-serial", "-chardev", socket, "-device", port
    ) as guest:
        guest.beats(1)
        yield Rig(place, guest, agent)
    assert place.complaints() == []


def verified(rig: Rig, name: str, disk: Path, form: str = "raw") -> int:
    """The last beat that a disk has, by a guest that boots and verifies it."""
    with Guest(rig.place.base, name, disk, mode="reader", form=form) as reader:
        said = reader.hear(r"guest: .*\r").split()
        assert reader.process.wait(60) == 0
    assert said[:2] == ["guest:", "ok"], said
    return int(said[2])


def booted(rig: Rig, point: str) -> int:
    """Of a point, as it is shown; what the guest writes goes into a layer in an encrypted VM."""
    shown, scratch = rig.place.base / "shown", rig.place.mountpoint / "scratch"
    shown.mkdir()
    scratch.mkdir()
    image, layer = shown / "web01" / point / "disk.raw.qcow2", scratch / "layer.qcow2"
    rig.place.ioflt("backup", "mount", rig.destination, shown)
    try:
        create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, layer]
        subprocess.run(create, check=True)
        empty = os.stat(layer).st_blocks
        beat = verified(rig, "booted", layer, "qcow2")
        assert os.stat(layer).st_blocks > empty
    finally:
        rig.place.ioflt("umount", shown)
    return beat


def restored(rig: Rig, name: str) -> int:
    """Of the newest backup."""
    rig.place.ioflt("backup", "restore", rig.destination, rig.place.datastore, "--as", name)
    return verified(rig, name, rig.place.mountpoint / name / "disk.raw")


def _troubles(rig: Rig) -> None:
    """What goes wrong leaves nothing, and what was killed goes with the next backup."""
    disks = [FoundDisk("disk.raw", "raw")]
    where = str(rig.place.datastore)
    ask = rig.guest.command
    with Monitor(rig.guest.qmp) as monitor:
        with running.taken(monitor, where, "web01", disks) as live:
            disk = live.open("disk.raw")
            (job,) = ask("query-block-jobs")
            ask("block-job-cancel", device=job["device"], force=True)
            eventually(lambda: not ask("query-block-jobs"))
            with pytest.raises(PeerError, match="could not be kept"):
                disk.close()
        assert rig.left() == []

        with pytest.MonkeyPatch.context() as patch:
            with running.taken(monitor, where, "web01", disks) as live:
                disk = live.open("disk.raw")
                patch.setattr(freespace, "RESERVE", 1 << 60)  # as if the datastore had run full
                eventually(lambda: not ask("query-block-jobs"))
                with pytest.raises(StorageError, match="are free for what the guest overwrites"):
                    disk.close()
            assert rig.left() == []
            with (
                pytest.raises(StorageError, match="are free for what the guest overwrites"),
                running.taken(monitor, where, "web01", disks),
            ):
                pass
            assert rig.left() == []

        ask("nbd-server-start", addr={"type": "unix", "data": {"path": str(rig.place.base / "other")}})
        node = ask("query-block")[0]["inserted"]["node-name"]
        ask("block-export-add", **{"type": "nbd", "id": "other", "node-name": node, "name": "other"})
        with (
            pytest.raises(BusyError, match="something else exports"),
            running.taken(monitor, where, "web01", disks),
        ):
            pass
        (export,) = rig.left()
        assert export["id"] == "other"
        ask("nbd-server-stop")
    script = (
        "import sys; from pathlib import Path; from ioflt.backup import running\n"
        "from ioflt.backup.qmp import Monitor; from ioflt.backup.homefiles import FoundDisk\n"
        "with Monitor(Path(sys.argv[1])) as monitor:\n"
        "  with running.taken(monitor, sys.argv[2], 'web01', [FoundDisk('disk.raw', 'raw')]) as live:\n"
        "    disk = live.open('disk.raw'); print('taken', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, rig.guest.qmp, where],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "taken\n"
        assert rig.left() != []
        killed.kill()
    assert rig.left() != []


def test_a_day(rig: Rig) -> None:
    """Troubles; then a full backup, five increments while the guest writes, another key in between; the VM is
    lost, boots from its backup, and comes back.
    """
    _troubles(rig)
    rig.guest.beats(1)
    first = rig.backup("--guest-agent", rig.agent)
    assert (first["full"], first["consistency"]) == (True, FROZEN)
    assert rig.left() == []
    before = 0
    for number in range(5):
        if number == 2:
            rig.place.ioflt("vm", "recrypt", rig.place.datastore / "web01")
        before = rig.guest.beats(1)
        options = ("--guest-agent", rig.agent) if number % 2 else ()
        made = rig.backup("--incremental", *options)
        assert made["full"] is False
        assert made["consistency"] == (FROZEN if options else "crash-consistent")
        assert made["notes"] == []  # what changed was tracked, and asked for
        assert rig.left() == []
    rig.guest.beats(1)
    rig.guest.say("stop")
    assert rig.guest.hear(r"guest: .*\r") == "guest: ok\r"
    assert rig.guest.process.wait(60) == 0
    rig.place.ioflt("backup", "verify", rig.destination)
    shutil.rmtree(rig.home)
    assert booted(rig, made["point"]) >= before
    rig.place.ioflt("backup", "verify", rig.destination)
    assert restored(rig, "back") >= before
