"""The test bed: what each of its faults does, what is left of it, and the example project that uses it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ioflt import backup
from ioflt.errors import ChangesUnknownError, DeniedError, IofltError
from ioflt.testing.testbed import bed as testbed
from ioflt.testing.testbed import guest
from ioflt.testing.testbed.faults import FAULTS
from tests.json_spec import check

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.qemu,
    pytest.mark.interop("mke2fs", "qemu-img", "qemu-nbd", "nbdcopy", "restic"),
]

EXAMPLE = Path(__file__).parent / "example_project"


def ioflt(*arguments: object, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ioflt", *map(str, arguments)],
        env=os.environ | ({} if home is None else {"IOFLT_HOME": str(home)}),
        capture_output=True,
        text=True,
        check=False,
    )


class Bed:
    """One that was made by the command."""

    def __init__(self, scenario: str) -> None:
        self.base = Path(tempfile.mkdtemp(prefix=""))
        self.where = ("--directory", self.base / "bed")
        made = ioflt("testbed", "up", "--scenario", scenario, *self.where, "--json")
        assert made.returncode == 0, made.stderr
        self.facts: dict[str, Any] = json.loads(made.stdout)
        check("testbed up", self.facts)
        self.checksums = json.loads(Path(self.facts["checksums"]).read_text())
        self.extent = Path(self.facts["extent"])

    def testbed(self, command: str, *arguments: object) -> None:
        done = ioflt("testbed", command, *arguments, *self.where, "--json")
        assert done.returncode == 0, done.stderr
        check(f"testbed {command}", json.loads(done.stdout))

    @contextmanager
    def fault(self, name: str, state: object = "on") -> Iterator[None]:
        self.testbed("fault", name, state)
        yield
        self.testbed("fault", name, "off")

    def digest(self) -> str:
        return guest.sha256(self.extent)

    @property
    def sound(self) -> bool:
        return self.digest() == self.checksums["files"][guest.EXTENT]

    def show(self) -> dict[str, Any]:
        """What is told of the VM in the bed's own $IOFLT_HOME."""
        vm = Path(self.facts["datastore"]) / guest.NAME
        shown = ioflt("vm", "show", vm, "--json", home=Path(self.facts["home"]))
        return dict(json.loads(shown.stdout))

    def down(self) -> None:
        self.testbed("down")
        assert list(self.base.iterdir()) == []
        self.base.rmdir()


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    made = Bed("kmip")
    yield made
    made.down()


@pytest.fixture
def sound(bed: Bed) -> Iterator[Bed]:
    """All is well before and after."""
    assert bed.sound
    yield bed
    assert bed.sound


@pytest.fixture
def inside(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is one of the bed's."""
    monkeypatch.setenv("IOFLT_HOME", bed.facts["home"])


def failing(number: int) -> Any:
    return pytest.raises(OSError, match=os.strerror(number))


def number_without_mount(bed: Bed) -> int:
    """VDDK's number for what becomes of reading the VM's disk through the library."""
    with pytest.raises(IofltError) as failed, backup.open_datastore(bed.facts["datastore"]) as datastore:
        backup.open_disk(datastore, guest.NAME, guest.DISK, "file")
    told = backup.number_of(failed.value)
    assert told is not None
    return told[1]


@pytest.mark.parametrize(
    ("fault", "reason", "number"),
    [
        ("kms-down", "Connection refused", 16014),
        ("key-missing", "ItemNotFound", 16017),
        ("tls-wrong", "its certificate is refused", 16014),
    ],
)
def test_without_its_key_server_nothing_opens_and_what_is_open_goes_on(
    sound: Bed, inside: None, fault: str, reason: str, number: int
) -> None:
    with sound.extent.open("rb") as opened, sound.fault(fault):
        assert len(opened.read()) == guest.SIZE
        with failing(errno.ENOKEY):
            (sound.extent.parent / guest.DISK).read_bytes()
        assert reason in str(sound.show())
        assert number_without_mount(sound) == number


def test_locked_in_the_middle(sound: Bed, inside: None) -> None:
    with sound.extent.open("rb") as opened:
        opened.read(1 << 20)
        with sound.fault("locked"):
            with failing(errno.ENOKEY):
                opened.read()
            assert number_without_mount(sound) == 17010


def test_a_privilege_is_missing(sound: Bed) -> None:
    with sound.fault("privilege-missing"), failing(errno.EACCES):
        sound.digest()


def test_a_block_that_cannot_be_read(sound: Bed) -> None:
    lba = 10_000
    with sound.fault("eio-at-lba", lba), sound.extent.open("rb", buffering=0) as opened:
        with failing(errno.EIO):
            os.pread(opened.fileno(), 4096, lba * 512)
        for beside in (-1, 1):
            assert len(os.pread(opened.fileno(), 4096, lba // 8 * 4096 + beside * 4096)) == 4096
        assert len((sound.extent.parent / guest.DISK).read_bytes()) > 0


def test_no_room(sound: Bed) -> None:
    with sound.fault("full-disk"):
        before = sound.digest()
        with failing(errno.ENOSPC), sound.extent.open("r+b", buffering=0) as opened:
            opened.write(b"x")
        assert sound.digest() == before


def test_a_slow_disk(sound: Bed) -> None:
    with sound.fault("slow-disk", 5):
        assert sound.sound


def test_change_ids_from_before_are_worth_nothing(bed: Bed) -> None:
    disk = (Path(bed.facts["datastore"]) / guest.NAME, guest.DISK)
    home = Path(bed.facts["home"])
    before = json.loads(ioflt("cbt", "query", *disk, "--json", home=home).stdout)
    asked = ("cbt", "query", *disk, "--since", before["change_id"], "--json")
    assert json.loads(ioflt(*asked, home=home).stdout)["areas"] == []
    with bed.fault("change-id-reset"):
        refused = ioflt(*asked, home=home)
    assert json.loads(refused.stderr.splitlines()[-1])["error"] == ChangesUnknownError.__name__


def test_san_is_refused_once_the_vm_is_encrypted(bed: Bed, inside: None) -> None:
    def read() -> str:
        with (
            backup.open_datastore(bed.facts["datastore"]) as datastore,
            backup.open_disk(datastore, bed.facts["clear_vm"], guest.DISK, "san") as disk,
        ):
            return hashlib.sha256(disk.read(0, disk.capacity)).hexdigest()

    assert read() == bed.checksums["disks"][guest.DISK]
    with bed.fault("san-refused"), pytest.raises(DeniedError, match="san transport") as refused:
        read()
    assert backup.number_of(refused.value) == ("VIX_E_DISK_NEEDKEY", 16014)
    assert read() == bed.checksums["disks"][guest.DISK]


def test_a_proxy_that_is_not_encrypted_gets_no_disk(bed: Bed, inside: None) -> None:
    refused = ioflt("testbed", "fault", "clear-proxy", *bed.where)
    assert (refused.returncode, "no proxy VM runs" in refused.stderr) == (2, True)
    own = testbed.Bed(bed.base / "bed")
    own.start_proxy()
    vm = own.datastore / guest.NAME

    def hot_add() -> subprocess.CompletedProcess[str]:
        return ioflt("backup", "hotadd", vm, guest.DISK, "--qmp", own.monitor, "--", "true")

    assert hot_add().returncode == 0
    with bed.fault("clear-proxy"):
        refused = hot_add()
    assert (refused.returncode, "the proxy VM must be encrypted as well" in refused.stderr) == (3, True)
    assert hot_add().returncode == 0


def test_what_is_no_fault_is_refused(bed: Bed) -> None:
    for arguments, says in {
        ("no-such",): "is not one of",
        ("locked", "maybe"): "on, off or a number",
        ("locked", "7"): "takes no number",
        ("eio-at-lba", "99999999999"): "the disk has the blocks",
    }.items():
        done = ioflt("testbed", "fault", *arguments, *bed.where)
        assert done.returncode == 2
        assert says in done.stderr
    assert ioflt("testbed", "down", "--directory", bed.base).returncode == 10  # not a bed: nothing is removed
    assert ioflt("testbed", "up", *bed.where).returncode == 11


def test_every_fault_is_tried() -> None:
    source = Path(__file__).read_text()
    assert [name for name in FAULTS if f'"{name}"' not in source] == []


@pytest.mark.parametrize("scenario", ["native", "formats"])
def test_other_scenarios(scenario: str) -> None:
    bed = Bed(scenario)
    try:
        assert bed.sound
        for name in bed.checksums["disks"]:
            kind = Path(name).suffix[1:]
            copy = bed.base / "copy"
            disk = Path(bed.facts["vm"]) / name
            subprocess.run(["qemu-img", "convert", "-f", kind, "-O", "raw", disk, copy], check=True)
            assert guest.sha256(copy) == bed.checksums["disks"][name]
            copy.unlink()
        refused = ioflt("testbed", "fault", "kms-down", *bed.where)
        assert (refused.returncode == 2) is (scenario == "native")
    finally:
        bed.down()


def test_the_example_project() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "."],
        cwd=EXAMPLE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
