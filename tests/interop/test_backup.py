"""Backups of a VM on a mount, judged by qemu-img: what each point has, and what comes back of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioflt.datastore import cbt
from ioflt.datastore.volume import Volume
from ioflt.keys.client import KeyClient
from tests.mounted.place import Place

pytestmark = [pytest.mark.fuse, pytest.mark.interop("qemu-img", "qemu-io")]

VMX = 'config.version = "8"\ndisplayName = "web"\nscsi0:0.fileName = "web.vmdk"\nnvram = "web.nvram"\n'


class Day:
    """The VM `web` on the mount of `place`, and what its disk was at each point of `dest`."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.home = place.mountpoint / "web"
        self.shown = place.base / "shown"
        self.shown.mkdir()
        self.points: list[tuple[str, Path]] = []

    def make(self) -> None:
        self.place.mount()
        self.home.mkdir()
        (self.home / "web.vmx").write_text(VMX)
        (self.home / "web.nvram").write_bytes(b"NVRAM" * 500)
        options = ("-o", "subformat=monolithicFlat,adapter_type=lsilogic")
        qemu("qemu-img", "create", "-q", "-f", "vmdk", *options, self.home / "web.vmdk", "48M")
        self.write("write -P 1 1M 2M")

    def write(self, command: str) -> None:
        qemu("qemu-io", "-f", "vmdk", "-c", command, self.home / "web.vmdk")

    def back_up(self, *options: str, to: str = "dest") -> dict[str, object]:
        """The manifest's summary; the disk of now is kept beside."""
        out = self.place.ioflt(
            "backup", "run", self.place.datastore / "web", self.place.base / to, "--json", *options
        )
        told: dict[str, object] = json.loads(out.stdout)
        kept = self.place.base / f"{to}-{told['point']}.raw"
        qemu("qemu-img", "convert", "-O", "raw", self.home / "web.vmdk", kept)
        self.points.append((str(told["point"]), kept))
        return told


def qemu(*command: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def same(kept: Path, form: str, disk: Path) -> None:
    qemu("qemu-img", "compare", "-f", "raw", "-F", form, kept, disk)


@pytest.fixture
def day(place: Place) -> Iterator[Day]:
    made = Day(place)
    made.make()
    yield made
    place.ioflt("umount", made.shown, check=False)


def test_a_chain_of_points_is_what_the_disk_was(day: Day) -> None:
    """A full one and three increments: of a tracked disk, of one that a guest has open, of zeros."""
    place, base = day.place, day.place.base
    with KeyClient.connect() as keys, Volume.open(place.datastore, keys) as volume:
        cbt.enable(volume.home("web"), "web.vmdk")
    assert day.back_up()["full"] is True
    day.write("write -P 2 20M 64k")
    told = day.back_up("--incremental")
    assert (told["full"], told["consistency"], told["notes"]) == (False, "powered off", [])
    assert int(str(told["size"])) < 4 << 20
    with open(day.home / "web-flat.vmdk", "r+b") as guest:
        os.pwrite(guest.fileno(), b"\3" * 5000, 30 << 20)
        assert day.back_up("--incremental")["consistency"] == "crash-consistent"
    day.write("write -z 1M 1M")
    day.back_up("--incremental")

    place.ioflt("backup", "mount", base / "dest", day.shown)
    for number, (point, kept) in enumerate(day.points):
        image = day.shown / "web" / point / "web.vmdk.qcow2"
        qemu("qemu-img", "check", image)
        same(kept, "qcow2", image)
        links = json.loads(qemu("qemu-img", "info", "--backing-chain", "--output", "json", image))
        assert len(links) == number + 1
        assert (day.shown / "web" / point / "files" / "web.vmx").read_text() == VMX
    layer = base / "layer.qcow2"
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, layer)
    qemu("qemu-io", "-f", "qcow2", "-c", "write -P 9 0 64k", layer)
    with pytest.raises(OSError, match="Read-only"):
        (day.shown / "web" / "new").touch()
    place.ioflt("umount", day.shown)

    place.ioflt("backup", "verify", base / "dest")
    place.ioflt("backup", "prune", base / "dest", "--keep-last", "2")
    place.ioflt("backup", "verify", base / "dest")
    for point, kept in day.points[-2:]:
        place.ioflt("backup", "restore", base / "dest", place.datastore, "--as", point, "--at", point)
        same(kept, "vmdk", place.mountpoint / point / "web.vmdk")
        assert (place.mountpoint / point / "web.nvram").read_bytes() == b"NVRAM" * 500
    assert "web.vmdk" in (place.mountpoint / point / "web.vmx").read_text()


def test_ciphertext_of_a_running_vm_comes_back_after_its_loss(day: Day) -> None:
    place, base = day.place, day.place.base
    day.back_up("--ciphertext", to="kept")
    with open(day.home / "web-flat.vmdk", "r+b") as guest:
        os.pwrite(guest.fileno(), b"\5" * 70_000, 40 << 20)
        told = day.back_up("--ciphertext", "--incremental", to="kept")
    assert (told["kind"], told["full"], told["consistency"]) == ("ciphertext", False, "crash-consistent")
    refused = place.ioflt("backup", "mount", base / "kept", day.shown, check=False)
    assert refused.returncode == 2
    assert "restore it into a datastore" in refused.stderr
    place.ioflt("backup", "replicate", base / "kept", base / "usb")
    place.umount()
    shutil.rmtree(place.datastore / "web")
    shutil.rmtree(base / "kept")
    place.ioflt("backup", "verify", base / "usb")
    place.ioflt("backup", "restore", base / "usb", place.datastore)
    place.mount()
    same(day.points[-1][1], "vmdk", day.home / "web.vmdk")
    assert (day.home / "web.vmx").read_text() == VMX
    place.ioflt("check", place.datastore)


def test_a_full_destination_keeps_what_it_had(day: Day, tmp_path: Path) -> None:
    """No point appears of which there was no room, and the next run clears what was left."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12M", "tmpfs", small], check=True)
    try:
        run = ("backup", "run", day.place.datastore / "web", small / "dest", "--ciphertext")
        day.place.ioflt(*run)
        day.write("write -P 7 5M 12M")
        full = day.place.ioflt(*run, "--incremental", check=False)
        assert full.returncode == 8
        assert "No space left on device" in full.stderr
        points = json.loads(day.place.ioflt("backup", "list", small / "dest", "--json").stdout)
        assert [each["full"] for each in points] == [True]
        assert os.listdir(small / "dest" / "web") == [points[0]["point"]]
        day.place.ioflt("backup", "verify", small / "dest")
    finally:
        subprocess.run(["umount", small], check=True)
