"""Disks of VMs plugged into a running proxy VM, which sums them; and proxies that get none."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ioflt import paths
from tests.guest import Guest
from tests.json_spec import check
from tests.mounted.place import Place
from tests.qmp_peers import Impostor, Peer
from tests.waiting import PATIENCE_S, eventually

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.qemu,
    pytest.mark.interop("qemu-img", "qemu-nbd"),
    pytest.mark.slow,
]

Running = subprocess.Popen[str]

OURS = "ioflt-hotadd-"


class Rig:
    """The VM `web01`, and the VM `proxy`, whose disk is in the mount, too."""

    def __init__(self, place: Place, proxy: Guest) -> None:
        self.place, self.proxy = place, proxy

    def hotadd(self, *arguments: object, disk: str = "web01.vmdk", qmp: Path | None = None) -> list[str]:
        where = self.place.datastore / "web01"
        command = [sys.executable, "-m", "ioflt", "backup", "hotadd", where, disk, "--json"]
        return [*map(str, (*command, "--qmp", qmp or self.proxy.qmp, *arguments))]

    def refused(self, *arguments: object, **options: Any) -> tuple[int, str]:
        done = subprocess.run(self.hotadd(*arguments, **options), capture_output=True, text=True, check=False)
        assert done.returncode != 0, done.stdout
        return done.returncode, str(json.loads(done.stderr.splitlines()[-1])["message"])

    @contextmanager
    def added(self, *arguments: object, **options: Any) -> Iterator[tuple[Running, dict[str, str]]]:
        """A run that waits, and what it said."""
        command = self.hotadd(*arguments, **options)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                assert line, process.communicate()[1]
                yield process, json.loads(line)
            finally:
                process.kill()

    def sums(self, serial: str) -> str:
        self.proxy.say(f"sum {serial}")
        return self.proxy.hear(rf"sum {serial} .*\r").strip()

    def gone(self, serial: str) -> None:
        """Whatever guest and QEMU had of it."""
        self.proxy.say(f"gone {serial}")
        self.proxy.hear(rf"gone {serial}\r")
        assert self.left() == []

    def left(self) -> list[str]:
        nodes = [node["node-name"] for node in self.proxy.command("query-named-block-nodes", flat=True)]
        devices = [entry["name"] for entry in self.proxy.command("qom-list", path="/machine/peripheral")]
        exports = [entry.name for entry in paths.find().exports.iterdir() if entry.is_dir()]
        return [*(name for name in (*nodes, *devices) if name.startswith(OURS)), *exports]


@pytest.fixture
def rig(place: Place) -> Iterator[Rig]:
    top = place.mount()
    for name in ("proxy", "web01"):
        (top / name).mkdir()
    with (top / "proxy" / "proxy.raw").open("wb") as file:
        file.truncate(16 << 20)
    source = place.base / "source.raw"
    source.write_bytes(os.urandom(5 << 20) + bytes(3 << 20))
    flat = ["-O", "vmdk", "-o", "subformat=monolithicSparse", source, top / "web01" / "web01.vmdk"]
    subprocess.run(["qemu-img", "convert", "-f", "raw", *flat], check=True)
    devices = ("-device", "virtio-scsi-pci,id=virtio", "-device", "pvscsi,id=pv")
    with Guest(place.base, "proxy", top / "proxy" / "proxy.raw", *devices, mode="proxy") as proxy:
        proxy.hear("guest: ready")
        yield Rig(place, proxy)
    assert place.complaints() == []


def test_a_proxy_sums_what_it_is_given(rig: Rig) -> None:
    digest = hashlib.sha256((rig.place.base / "source.raw").read_bytes()).hexdigest()
    for number, bus in ((signal.SIGHUP, "virtio.0"), (signal.SIGTERM, "pv.0")):
        with rig.added("--bus", bus) as (process, told):
            check("backup hotadd", told)
            assert (told["bus"], told["model"]) == (bus, "scsi-hd")
            serial = told["serial"]
            assert rig.sums(serial) == f"sum {serial} {digest} read-only"
            process.send_signal(number)
            assert process.wait(PATIENCE_S) == 0
        rig.gone(serial)

    events = json.loads(rig.place.ioflt("events", "--type", "backup hotadd", "--json").stdout)
    assert len(events) == 2, events
    assert {'"web01"' in json.dumps(event) and "web01.vmdk" in json.dumps(event) for event in events} == {
        True
    }

    # A command has its way of ending.
    done = subprocess.run(
        rig.hotadd("--", "sh", "-c", "echo $IOFLT_SERIAL; exit 7"), capture_output=True, text=True
    )
    told_line, serial = done.stdout.splitlines()
    assert (done.returncode, json.loads(told_line)["serial"]) == (7, serial)
    rig.gone(serial)
    assert rig.refused("--", "/nonexistent")[0] == 10
    assert rig.left() == []

    # Killed, nothing is read by it any more, and the next run removes it.
    with rig.added() as (process, told):
        process.kill()
    eventually(lambda: not [entry for entry in paths.find().exports.iterdir() if entry.is_dir()])
    assert rig.left() != []
    done = subprocess.run(rig.hotadd("--remove"), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"removed": [told["serial"]]}
    rig.gone(told["serial"])

    # The export's server ends.
    with rig.added() as (process, told):
        (server,) = _below(process.pid, "qemu-nbd")
        os.kill(server, signal.SIGKILL)
        assert process.wait(PATIENCE_S) == 9
    rig.gone(told["serial"])


def _below(pid: int, program: str) -> list[int]:
    """Processes of that program which it started, or what it started."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if program in Path(f"/proc/{child}/cmdline").read_text():
            found.append(int(child))
        found += _below(int(child), program)
    return found


def test_what_is_refused(rig: Rig) -> None:
    assert rig.refused("--bus", "nothing.0")[0] == 10
    assert rig.refused(disk="other.vmdk")[0] == 10
    assert rig.refused(qmp=rig.place.base / "nobody")[0] == 9
    assert rig.left() == []

    # A disk of the proxy that is clear, though its home is encrypted; and then one beside the mount.
    clear = rig.place.base / "clear.raw"
    clear.write_bytes(bytes(1 << 20))
    file = {"driver": "file", "filename": str(clear)}
    rig.proxy.command("blockdev-add", **{"driver": "raw", "node-name": "clear", "file": file})
    code, message = rig.refused()
    assert (code, str(clear) in message) == (3, True)
    assert "the proxy VM must be encrypted as well" in message
    rig.proxy.command("blockdev-del", **{"node-name": "clear"})
    copy = rig.place.ioflt(
        "backup",
        "run",
        rig.place.datastore / "web01",
        rig.place.base / "b",
        "--transport",
        "hotadd",
        check=False,
    )
    assert (copy.returncode, "ioflt backup hotadd" in copy.stderr) == (2, True)

    # What hangs or lies in place of a monitor.
    def silent(peer: Peer) -> None:
        peer.greet()
        peer.wait()

    def nonsense(peer: Peer) -> None:
        peer.greet()
        while True:
            peer.answer([{"node-name": 1}])

    for script, told in ((nonsense, "makes no sense"), (Peer.wait, "it serves one client at a time")):
        with Impostor(rig.place.base / "impostor", script) as impostor:
            code, message = rig.refused(qmp=impostor.path)
            assert (code, told in message) == (9, True), message
    assert rig.left() == []


def test_a_signal_while_qemu_is_awaited(rig: Rig) -> None:
    reached = threading.Event()

    def mute(peer: Peer) -> None:
        reached.set()
        peer.wait()

    where = rig.place.datastore / "web01", rig.place.base / "b"
    for number, option in ((signal.SIGHUP, "--json-progress"), (signal.SIGINT, "--json")):
        reached.clear()
        with Impostor(rig.place.base / "impostor", mute) as impostor:
            command = [sys.executable, "-m", "ioflt", "backup", "run", *where, "--qmp", impostor.path, option]
            with subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True) as process:
                assert reached.wait(PATIENCE_S)
                process.send_signal(number)
                said = process.communicate(timeout=PATIENCE_S)[1].splitlines()
        assert process.returncode == 128 + number
        failure = json.loads(said[-1])
        assert (failure["message"], failure["exit_code"]) == ("interrupted", 128 + number)
        assert all(line.startswith("ioflt: ") for line in said[:-1]), said
