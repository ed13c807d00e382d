"""Disks of an encrypted home, read without a mount: qemu-img reads the same of the clear files.

qemu-img cannot write COWD and seSparse; of those it judges what `tests/unit/backup/disks.py` makes.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ioflt.backup import homefiles
from ioflt.backup.transports import open_disk
from ioflt.types import Area
from tests.unit.backup.disks import cowd, sesparse, text
from tests.unit.datastore.stored import Stored

pytestmark = pytest.mark.interop("qemu-img", "qemu-io")

#: An export of vCenter 5.5.
REAL = Path("/usr/share/gocode/src/github.com/vmware/photon-controller-go-sdk/testdata/tty_tiny.ova")

MIB = 1 << 20
CAPACITY = 70 * MIB
#: What is in the disk: random bytes, bytes that compress, zeros that were written, the last sector.
PIECES = (
    (0, random.Random(1).randbytes(5 * MIB)),
    (33 * MIB + 512, b"compresses" * 40_000),
    (40 * MIB, bytes(MIB)),
    (CAPACITY - 512, random.Random(2).randbytes(512)),
)


def run(program: str, *arguments: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [program, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def stored(ioflt_home: Path, tmp_path: Path) -> Iterator[Stored]:
    made = Stored(tmp_path / "stored")
    yield made
    made.close()


@pytest.fixture
def clear(tmp_path: Path) -> Path:
    """A directory with the disk as `raw`."""
    folder = tmp_path / "clear"
    folder.mkdir()
    with (folder / "raw").open("wb") as file:
        file.truncate(CAPACITY)
        for offset, data in PIECES:
            file.seek(offset)
            file.write(data)
    return folder


def judge(stored: Stored, clear: Path, name: str) -> list[Area]:
    """Bring all files of the directory into the home; what is read there is what qemu-img reads here."""
    run("qemu-img", "convert", "-O", "raw", name, "judge", cwd=clear)
    expected = (clear / "judge").read_bytes()
    for path in clear.iterdir():
        if path.name not in ("raw", "judge"):
            stored.put(path.name, path.read_bytes())
    with open_disk(stored.volume, "web", name) as disk:
        assert disk.capacity == len(expected)
        read = bytearray(disk.capacity)
        areas = list(disk.areas())
        for area in areas:
            for offset in range(area.start, area.end, 100_001):  # by no unit of any format
                length = min(100_001, area.end - offset)
                read[offset : offset + length] = disk.read(offset, length)
        assert read == expected
        places = random.Random(3)
        for _ in range(200):
            offset = places.randrange(disk.capacity)
            length = min(places.choice((1, 512, 4096, 300_000)), disk.capacity - offset)
            assert disk.read(offset, length) == expected[offset : offset + length]
    return areas


def mapped(clear: Path, name: str) -> list[Area]:
    """What qemu-img takes for data, merged."""
    merged: list[Area] = []
    for found in json.loads(run("qemu-img", "map", "--output=json", name, cwd=clear)):
        if found["data"] and not found["zero"]:
            if merged and merged[-1].end == found["start"]:
                merged[-1] = Area(merged[-1].start, merged[-1].length + found["length"])
            else:
                merged.append(Area(found["start"], found["length"]))
    return merged


@pytest.mark.parametrize(
    "subformat",
    ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"],
)
def test_what_qemu_writes(stored: Stored, clear: Path, subformat: str) -> None:
    options = ("-O", "vmdk", "-o", f"subformat={subformat}")
    run("qemu-img", "convert", "-f", "raw", *options, "raw", "disk.vmdk", cwd=clear)
    areas = judge(stored, clear, "disk.vmdk")
    if "Flat" not in subformat:  # of those the copy here has lost its holes
        assert areas == mapped(clear, "disk.vmdk")


@pytest.mark.parametrize("kind", ["monolithicSparse", "twoGbMaxExtentSparse"])
def test_a_disk_with_zeroed_grains(stored: Stored, clear: Path, kind: str) -> None:
    """Grains that the child has as zeros hide the parent's."""
    options = ("-f", "vmdk", "-o", f"subformat={kind},zeroed_grain=on")
    run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "raw", "base.vmdk", cwd=clear)
    run("qemu-img", "create", "-q", *options, "-b", "base.vmdk", "-F", "vmdk", "child.vmdk", cwd=clear)
    commands = ("write -z 64k 1M", "write -P 7 3M 4k", "write -P 8 69M 64k", "write -z 33M 512k")
    for command in commands:
        run("qemu-io", "-f", "vmdk", "-c", command, "child.vmdk", cwd=clear)
    assert judge(stored, clear, "child.vmdk") == mapped(clear, "child.vmdk")


def test_three_snapshots(stored: Stored, clear: Path) -> None:
    run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "raw", "s0.vmdk", cwd=clear)
    for number in (1, 2, 3):
        parent, child = f"s{number - 1}.vmdk", f"s{number}.vmdk"
        run("qemu-img", "create", "-q", "-f", "vmdk", "-b", parent, "-F", "vmdk", child, cwd=clear)
        run("qemu-io", "-f", "vmdk", "-c", f"write -P {number} {number}M 1M", child, cwd=clear)
    judge(stored, clear, "s3.vmdk")


def test_several_extents_of_2_gib(stored: Stored, tmp_path: Path) -> None:
    """5 GiB with little in it: three extents, and data across the first two."""
    options = ("-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse")
    run("qemu-img", "create", "-q", *options, "disk.vmdk", "5G", cwd=tmp_path)
    for place in ("2047M 2M", "4500M 64k"):
        run("qemu-io", "-f", "vmdk", "-c", f"write -P 9 {place}", "disk.vmdk", cwd=tmp_path)
    for path in tmp_path.glob("*.vmdk"):
        stored.put(path.name, path.read_bytes())
    with open_disk(stored.volume, "web", "disk.vmdk") as disk:
        assert list(disk.areas()) == mapped(tmp_path, "disk.vmdk")
        assert disk.read((2047 << 20) - 1, 2 * MIB + 2) == b"\0" + b"\x09" * 2 * MIB + b"\0"


def test_a_flat_disk_of_vmfs(stored: Stored, clear: Path) -> None:
    shutil.copy(clear / "raw", clear / "disk-flat.vmdk")
    (clear / "disk.vmdk").write_bytes(text(f'RW {CAPACITY // 512} VMFS "disk-flat.vmdk"'))
    judge(stored, clear, "disk.vmdk")


def delta_cowd(capacity: int) -> bytes:
    noise = random.Random(4)
    sectors = (0, 1, 2, 5, 4095, 4096, 40_000, capacity // 512 - 1)
    return cowd(capacity, {number: noise.randbytes(512) for number in sectors})


def delta_sesparse(capacity: int) -> bytes:
    noise = random.Random(5)
    numbers = (0, 1, 7, 4095, 4096, 9000, capacity // 4096 - 1)
    grains: dict[int, bytes | None] = {number: noise.randbytes(4096) for number in numbers}
    return sesparse(capacity, grains | {2: None, 4097: None, 1279: None})


@pytest.mark.parametrize(
    ("kind", "extent", "make"),
    [("vmfsSparse", "VMFSSPARSE", delta_cowd), ("seSparse", "SESPARSE", delta_sesparse)],
)
@pytest.mark.parametrize("alone", [False, True], ids=["over a base", "alone"])
def test_deltas_of_vmfs(
    stored: Stored, clear: Path, kind: str, extent: str, make: Callable[[int], bytes], alone: bool
) -> None:
    shutil.copy(clear / "raw", clear / "disk-flat.vmdk")
    (clear / "disk.vmdk").write_bytes(text(f'RW {CAPACITY // 512} VMFS "disk-flat.vmdk"', cid=0xABCD))
    (clear / "disk-1-delta.vmdk").write_bytes(make(CAPACITY))
    parent = None if alone else ("disk.vmdk", 0xABCD)
    lines = f'RW {CAPACITY // 512} {extent} "disk-1-delta.vmdk"'
    (clear / "disk-1.vmdk").write_bytes(text(lines, kind=kind, cid=2, parent=parent))
    areas = judge(stored, clear, "disk-1.vmdk")
    if alone:
        assert areas == mapped(clear, "disk-1.vmdk")


@pytest.mark.parametrize(
    ("kind", "extent", "make"),
    [("vmfsSparse", "VMFSSPARSE", delta_cowd), ("seSparse", "SESPARSE", delta_sesparse)],
)
def test_dissect_reads_the_same(
    stored: Stored, tmp_path: Path, kind: str, extent: str, make: Callable[[int], bytes]
) -> None:
    """A second judge of what has no specification."""
    (tmp_path / "x").write_bytes(make(CAPACITY))
    (tmp_path / "d.vmdk").write_bytes(text(f'RW {CAPACITY // 512} {extent} "x"', kind=kind))
    for name in ("x", "d.vmdk"):
        stored.put(name, (tmp_path / name).read_bytes())
    program = (
        "import hashlib; from dissect.hypervisor.disk.vmdk import VMDK; from pathlib import Path;"
        f"print(hashlib.sha256(VMDK(Path('d.vmdk')).read({CAPACITY})).hexdigest())"
    )
    found = run(sys.executable, "-c", program, cwd=tmp_path).strip()  # it leaves files open
    with open_disk(stored.volume, "web", "d.vmdk") as disk:
        assert hashlib.sha256(disk.read(0, CAPACITY)).hexdigest() == found


def test_a_disk_that_vcenter_exported(stored: Stored, clear: Path) -> None:
    with tarfile.open(REAL) as packed:
        name = next(name for name in packed.getnames() if ".vmdk" in name)
        (clear / "disk.vmdk").write_bytes(packed.extractfile(name).read())  # type: ignore[union-attr]
    assert judge(stored, clear, "disk.vmdk") == mapped(clear, "disk.vmdk")


def test_qcow2_over_qcow2_over_raw(stored: Stored, clear: Path) -> None:
    (clear / "raw").rename(clear / "base.raw")
    for child, parent, kind in (("one.qcow2", "base.raw", "raw"), ("two.qcow2", "one.qcow2", "qcow2")):
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", parent, "-F", kind, child, cwd=clear)
        run("qemu-io", "-f", "qcow2", "-c", "write -P 5 1M 100k", "-c", "write -z 2M 1M", child, cwd=clear)
    judge(stored, clear, "two.qcow2")


def test_compressed_qcow2(stored: Stored, clear: Path) -> None:
    run("qemu-img", "convert", "-f", "raw", "-c", "-O", "qcow2", "raw", "disk.qcow2", cwd=clear)
    assert judge(stored, clear, "disk.qcow2") == mapped(clear, "disk.qcow2")


def test_what_a_backup_has_not_of_qcow2_is_noted(stored: Stored, clear: Path) -> None:
    run("qemu-img", "create", "-q", "-f", "qcow2", "base.qcow2", "1M", cwd=clear)
    run("qemu-img", "snapshot", "-c", "before", "base.qcow2", cwd=clear)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2", cwd=clear)
    for name in ("a", "b"):
        run("qemu-img", "bitmap", "--add", "top.qcow2", name, cwd=clear)
    run("qemu-img", "snapshot", "-c", "after", "top.qcow2", cwd=clear)
    for name in ("base.qcow2", "top.qcow2"):
        stored.put(name, (clear / name).read_bytes())
    assert homefiles.look(stored.home).notes == [
        "base.qcow2: its 1 internal snapshots are not in the backup",
        "top.qcow2: its 1 internal snapshots and 2 bitmaps are not in the backup",
    ]
