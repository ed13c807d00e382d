"""Disks plugged into a QEMU whose guest does not run: where they go, and a monitor that breaks in between."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ioflt.backup import buses, hotadd
from ioflt.backup.blocknodes import nodes
from ioflt.backup.export import Exported
from ioflt.backup.qmp import Monitor, Refused
from ioflt.cli.hints import hint_for
from ioflt.errors import NotFoundError, PeerError
from tests.qmp_peers import Impostor, Peer
from tests.waiting import listening

pytestmark = [pytest.mark.qemu, pytest.mark.interop("qemu-nbd")]


@contextmanager
def machine(tmp_path: Path, *arguments: str) -> Iterator[Path]:
    """The monitor of a QEMU that does not start its guest."""
    path = tmp_path / "qmp"
    quiet = ("-accel", "tcg", "-m", "16", "-nodefaults", "-no-user-config", "-display", "none", "-S")
    monitor = ("-qmp", f"unix:{path},server=on,wait=off")
    with subprocess.Popen(["qemu-system-x86_64", *quiet, *arguments, *monitor]) as process:
        try:
            listening(path)
            yield path
        finally:
            process.kill()


PORTS = ("-device", "pcie-root-port,id=free", "-device", "pcie-root-port,id=full,chassis=2")
FULL = ("-device", "virtio-rng-pci,bus=full")
SCSI = ("-device", "lsi53c895a", "-device", "pvscsi,id=pv", "-device", "virtio-scsi-pci,id=vs")


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("-M", "pc"), ["pci.0"]),
        (("-M", "pc", *SCSI), ["vs.0", "pv.0", "pci.0"]),
        (("-M", "q35", *PORTS, *FULL), ["free"]),
        (("-M", "q35", *PORTS, *FULL, *SCSI), ["vs.0", "pv.0", "free"]),
    ],
)
def test_where_a_disk_can_go(tmp_path: Path, arguments: tuple[str, ...], found: list[str]) -> None:
    with machine(tmp_path, *arguments) as path, Monitor(path) as monitor:
        assert [bus.name for bus in buses.find(monitor)] == found
        assert [bus.name for bus in buses.find(monitor, found[0])] == found[:1]
        with pytest.raises(NotFoundError, match=f"has no bus 'other' for disks; it has: .*{found[0]}"):
            buses.find(monitor, "other")


def test_nowhere(tmp_path: Path) -> None:
    told = "no bus on which a disk can be added"
    with (
        machine(tmp_path, "-M", "q35") as path,
        Monitor(path) as monitor,
        pytest.raises(NotFoundError, match=told),
    ):
        buses.find(monitor)


@contextmanager
def exported(tmp_path: Path) -> Iterator[Exported]:
    disk, path = tmp_path / "disk.raw", tmp_path / "nbd"
    disk.write_bytes(os.urandom(1 << 20))
    with subprocess.Popen(["qemu-nbd", "-r", "-t", "-f", "raw", "-x", "d", "-k", path, disk]) as process:
        try:
            listening(path)
            yield Exported("", "d", "raw", "nbd", str(path), None, None, None, None, process.pid)
        finally:
            process.kill()


@pytest.mark.parametrize("command", ["blockdev-add", "device_add", "device_del", "blockdev-del"])
def test_a_monitor_that_goes_after_a_command(tmp_path: Path, ioflt_home: Path, command: str) -> None:
    cut = False

    def relay(peer: Peer) -> None:
        """What QEMU says, up to the first answer to that command, which is lost with the connection."""
        nonlocal cut
        with socket.socket(socket.AF_UNIX) as there:
            there.connect(str(path))
            lines = there.makefile("rb")
            peer.say(json.loads(lines.readline()))
            while True:
                asked = peer.hear()
                there.sendall(json.dumps(asked).encode() + b"\n")
                while "event" in (said := json.loads(lines.readline())):
                    peer.say(said)
                if asked["execute"] == command and not cut:
                    cut = True
                    return
                peer.say(said)

    with (
        exported(tmp_path) as export,
        machine(tmp_path, "-M", "pc", "-device", "virtio-scsi-pci,id=vs") as path,
        Impostor(tmp_path / "relay", relay) as relayed,
    ):
        with Monitor(relayed.path) as monitor:
            if command in ("blockdev-add", "device_add"):
                with (
                    pytest.raises(PeerError, match="ended the connection"),
                    hotadd.hot_added(monitor, export),
                ):
                    raise AssertionError("it was added")
            else:
                with hotadd.hot_added(monitor, export) as added:
                    assert added.bus.name == "vs.0"
        assert cut
        assert relayed.connections == 2
        with Monitor(path) as own:
            assert hotadd.remove_leftovers(own) == []
            assert [node.name for node in nodes(own) if node.name.startswith(hotadd.PREFIX)] == []


@pytest.mark.root
def test_the_qemu_of_another_user_gets_nothing_and_it_is_said_why(tmp_path: Path) -> None:
    another = ("-M", "pc", "-device", "virtio-scsi-pci,id=vs", "-runas", "nobody")
    with exported(tmp_path) as export, machine(tmp_path, *another) as path, Monitor(path) as monitor:
        with pytest.raises(Refused, match="Permission denied") as caught, hotadd.hot_added(monitor, export):
            raise AssertionError("it was added")
        assert "ioflt backup export DIR/VM DISK --for USER" in str(hint_for(caught.value))
        assert hotadd.remove_leftovers(monitor) == []
