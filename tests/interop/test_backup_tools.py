"""README's "your backup tool against ioflt": its very commands, on a mounted encrypted VM."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioflt.testing.testbed.guest import NAME, SIZE, checksums, make_disk, make_vm
from tests import guest
from tests.mounted.place import Place
from tests.readme import Recipe
from tests.waiting import await_end

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.interop(
        *("restic", "borg", "rsync", "qemu-img", "qemu-nbd", "nbdkit", "nbdcopy", "nbdinfo"),
        *("guestfish", "depmod", "mke2fs", "diff", "cmp"),
    ),
]

BIG = "var/lib/app/4"


class Rig:
    """`place` with the VM `web01`, mounted, and the mount `other` of another datastore."""

    def __init__(self, place: Place, disk: Path, other: Place) -> None:
        self.place, self.disk, self.other = place, disk, other
        base = place.base
        self.paths = {
            "/mnt/ds": place.mountpoint,
            "/mnt/other": other.mountpoint,
            "/srv/backup": base / "backup",
            "/etc/backup.password": base / "password",
            "/run/web01": base / "run",
        }
        (base / "backup").mkdir()
        (base / "run").mkdir()
        (base / "password").write_text("correct horse\n")

    @property
    def home(self) -> Path:
        return self.place.mountpoint / "web01"

    def recipe(self, title: str, **environment: str) -> Recipe:
        return Recipe(title, self.paths, HOME=str(self.place.base), **environment)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    base = Path(tempfile.mkdtemp(prefix=""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IOFLT_HOME", str(base / "home"))
        for name in ("home", "far"):
            (base / name).mkdir(mode=0o700)
        place = Place(base)
        other = Place(base / "far")
        try:
            make_disk(base / "disk.raw")
            place.mount()
            other.mount()
            make_vm(place.mountpoint / "web01", base / "disk.raw")
            yield Rig(place, base / "disk.raw", other)
        finally:
            other.end()
            place.end()
    shutil.rmtree(base)


@pytest.fixture
def target(rig: Rig) -> Iterator[Path]:
    """The directory /mnt/other/web01, empty: a home of that datastore."""
    path = rig.other.mountpoint / "web01"
    path.mkdir()
    yield path
    shutil.rmtree(path)


def run(*arguments: object) -> None:
    done = subprocess.run([str(one) for one in arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"


def assert_restored(rig: Rig, path: Path, *, holes: bool = True) -> None:
    """The same VM, encrypted once more."""
    run("diff", "-r", rig.home, path)
    assert not holes or (path / "web01-flat.vmdk").stat().st_blocks * 512 < SIZE // 2
    stored = rig.other.datastore / "web01"
    assert (stored / "web01-flat.vmdk").read_bytes()[:4] == b"LUKS"
    assert NAME.encode() not in (stored / "web01.vmdk").read_bytes()


@pytest.fixture
def restored(rig: Rig) -> Iterator[Path]:
    """Where a tool puts the VM back; whatever is there is removed afterwards."""
    path = rig.other.mountpoint / "web01"
    yield path
    shutil.rmtree(path)


def test_restic(rig: Rig, restored: Path) -> None:
    with rig.recipe("restic") as restic:
        restic.run("restic init")
        assert "Files:           5 new" in restic.run("cd ")
        rig.place.remount()
        assert "Files:           0 new,     0 changed,     5 unmodified" in restic.run("cd ")
        restic.run("restic check", "restic restore")
    assert_restored(rig, restored, holes=False)  # it has no --sparse before 0.15


def test_borg(rig: Rig, restored: Path) -> None:
    create, extract = f"cd {rig.place.mountpoint}", f"cd {rig.other.mountpoint}"

    def states(said: str) -> dict[str, str]:
        return {name: state for state, name in re.findall(r"^(\w) web01/(\S+)$", said, re.MULTILINE)}

    with rig.recipe("borg") as borg:
        borg.run("borg init")
        assert set(states(borg.run(create)).values()) == {"A"}
        rig.place.remount()
        found = states(borg.run(create))  # the youngest files borg reads again, on any file system
        assert {found[name] for name in ("web01-flat.vmdk", "web01.vmdk", "web01.vmx")} == {"U"}
        borg.run("borg check", extract)
    assert_restored(rig, restored)


def test_rsync(rig: Rig, target: Path) -> None:
    with rig.recipe("rsync") as rsync:
        assert "web01-flat.vmdk" in rsync.run()
        rig.place.remount()
        rig.other.remount()
        assert rsync.run() == ""
    assert_restored(rig, target)


def test_qemu_img(rig: Rig, target: Path) -> None:
    with rig.recipe("qemu-img") as qemu:
        qemu.run("qemu-img info")
        areas = json.loads(qemu.run("qemu-img map"))
        assert sum(area["length"] for area in areas) == SIZE
        assert sum(area["length"] for area in areas if not area["zero"]) < SIZE // 2
        qemu.run("qemu-img convert", "qemu-img check", "qemu-img compare")
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", rig.disk, target / "web01.qcow2")


def test_nbdcopy(rig: Rig, target: Path) -> None:
    with rig.recipe("nbdcopy") as nbd:
        assert f"export-size: {SIZE}" in nbd.run("nbdinfo")
        nbd.run("nbdcopy")
    run("cmp", rig.disk, target / "web01.raw")


def test_nbdcopy_over_several_connections(rig: Rig, target: Path) -> None:
    served, pid = rig.paths["/run/web01"], rig.paths["/run/web01"] / "pid"
    with rig.recipe("nbdcopy, over several connections to a server that stays") as nbd:
        nbd.run("qemu-nbd")
        try:
            (export,) = json.loads(nbd.run("nbdinfo --json"))["exports"]
            assert (export["export-size"], export["can_multi_conn"]) == (SIZE, True)
            areas = json.loads(nbd.run("nbdinfo --map"))
            assert sum(area["length"] for area in areas) == SIZE
            assert sum(area["length"] for area in areas if area["type"] == 0) < SIZE // 2
            nbd.run("nbdcopy")
        finally:
            pidfd = os.pidfd_open(int(pid.read_text()))
            nbd.run("kill ")
            await_end(pidfd)
            os.close(pidfd)
        nbd.run("nbdkit")
    for name in ("web01.raw", "flat.raw"):
        run("cmp", rig.disk, target / name)
        assert (target / name).stat().st_blocks * 512 < SIZE // 2
    assert not list(served.glob("nbd"))


def test_dissect(rig: Rig) -> None:
    title = "dissect (Python, needs no qemu and no root: pip install dissect.target dissect.extfs)"
    with rig.recipe(title) as dissect:
        assert f" {NAME} linux Debian GNU/Linux 12" in dissect.run("target-query")
        assert f"{NAME}\n" in dissect.run("target-fs")
    fs = Path(sys.executable).parent / "target-fs"
    command = [fs, "-q", rig.home / "web01.vmdk", "cat", f"/{BIG}"]
    done = subprocess.run(command, check=True, capture_output=True)
    assert hashlib.sha256(done.stdout).hexdigest() == checksums()[BIG]


@pytest.fixture
def modules() -> Iterator[None]:
    """The directory /lib/modules, which guestfish looks for even where it is told of another."""
    path = Path("/lib/modules")
    if path.is_dir():
        yield
        return
    path.mkdir()
    yield
    path.rmdir()


@pytest.mark.qemu
@pytest.mark.root
@pytest.mark.slow
def test_guestfish(rig: Rig, modules: None) -> None:
    kernel, release = guest.kernel()
    environment = {
        "LIBGUESTFS_BACKEND": "direct",
        "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg",
        "LIBGUESTFS_CACHEDIR": str(rig.paths["/run/web01"]),
        "LIBGUESTFS_TMPDIR": str(rig.paths["/run/web01"]),
        "SUPERMIN_KERNEL": str(kernel),
        "SUPERMIN_MODULES": str(release),
    }
    with rig.recipe("guestfish", **environment) as guestfish:
        assert guestfish.run().strip() == NAME


def test_nothing_was_wrong(rig: Rig) -> None:
    assert rig.place.complaints() == []
