"""qemu-img and tar judge what is imported and exported: the same disk, whatever form it had."""

import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioflt.datastore import transfer
from ioflt.datastore.volume import Volume
from ioflt.format.vmdk import stream
from ioflt.format.vmdk.compose import compose
from ioflt.testing.local_keys import LocalKeys
from ioflt.types import HomeState

pytestmark = pytest.mark.interop("qemu-img", "tar", "sha256sum")

REAL = Path("/usr/share/gocode/src/github.com/vmware/photon-controller-go-sdk/testdata/tty_tiny.ova")
SUBFORMATS = [
    "monolithicSparse",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
    "streamOptimized",
]
CAPACITY = (40 << 20) + 7 * 512


def qemu_img(*arguments: str | Path) -> str:
    done = subprocess.run(["qemu-img", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def compare(one: Path, other: Path, form: str = "vmdk") -> None:
    assert "identical" in qemu_img("compare", "-f", form, "-F", "vmdk", one, other)


def unpack(ova: Path, directory: Path) -> Path:
    """The only disk of an OVA whose manifest sha256sum finds right."""
    directory.mkdir()
    subprocess.run(["tar", "-xf", ova, "-C", directory], check=True)
    (listed,) = directory.glob("*.mf")
    sums = "".join(
        f"{digest}  {name}\n"
        for name, digest in (line[7:].split(")= ") for line in listed.read_text().splitlines())
    )
    subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet"], cwd=directory, input=sums, text=True, check=True
    )
    (disk,) = directory.glob("*.vmdk")
    return disk


@pytest.fixture
def volumes(ioflt_home: Path, tmp_path: Path) -> Iterator[tuple[Volume, Volume]]:
    """A datastore that encrypts and one that is clear."""
    with LocalKeys(ioflt_home) as keys:
        Volume.init(tmp_path / "enc", HomeState.ENCRYPTED, keys)
        Volume.init(tmp_path / "clear", HomeState.CLEAR, keys)
        with Volume.open(tmp_path / "enc", keys) as encrypted, Volume.open(tmp_path / "clear", keys) as clear:
            yield encrypted, clear


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "content.raw"
    with path.open("wb") as file:
        file.truncate(CAPACITY)
        for place, size in ((0, 512), (5 << 20, 300_000), ((33 << 20) - 100, 70_000), (CAPACITY - 99, 99)):
            file.seek(place)
            file.write(os.urandom(size))
    return path


def test_a_real_export(volumes: tuple[Volume, Volume], tmp_path: Path) -> None:
    encrypted, clear = volumes
    with tarfile.open(REAL) as packed:
        original = tmp_path / "original.vmdk"
        member = packed.extractfile("from_out_tty-disk1.vmdk.000000000")
        assert member is not None
        original.write_bytes(member.read())
    transfer.import_package(clear, REAL, "vm")
    compare(original, Path(clear.path, "vm/vm.vmdk"))
    info = json.loads(qemu_img("info", "--output=json", Path(clear.path, "vm/vm.vmdk")))
    assert info["format-specific"]["data"]["create-type"] == "vmfs"
    transfer.import_package(encrypted, REAL, "vm")
    transfer.export_ova(encrypted, "vm", tmp_path / "out.ova")
    disk = unpack(tmp_path / "out.ova", tmp_path / "out")
    qemu_img("check", "-f", "vmdk", disk)
    compare(original, disk)
    transfer.import_package(clear, tmp_path / "out.ova", "back")
    one, other = (Path(clear.path, name, f"{name}-flat.vmdk").read_bytes() for name in ("vm", "back"))
    assert one == other


@pytest.mark.parametrize("subformat", SUBFORMATS)
def test_every_subformat_goes_out_as_an_ova(
    volumes: tuple[Volume, Volume], raw: Path, tmp_path: Path, subformat: str
) -> None:
    encrypted, clear = volumes
    source = tmp_path / "guest"
    source.mkdir()
    qemu_img("convert", "-O", "vmdk", "-o", f"subformat={subformat}", raw, source / "d.vmdk")
    (source / "guest.vmx").write_text('scsi0.present = "TRUE"\nscsi0:0.fileName = "d.vmdk"\n')
    transfer.import_directory(encrypted, source)
    transfer.export_ova(encrypted, "guest", tmp_path / "out.ova")
    disk = unpack(tmp_path / "out.ova", tmp_path / "out")
    info = json.loads(qemu_img("info", "--output=json", disk))
    assert info["format-specific"]["data"]["create-type"] == "streamOptimized"
    qemu_img("check", "-f", "vmdk", disk)
    compare(raw, disk, "raw")
    transfer.import_package(clear, tmp_path / "out.ova")
    compare(raw, Path(clear.path, "out/out.vmdk"), "raw")
    transfer.export_directory(encrypted, "guest", tmp_path / "back")
    compare(raw, tmp_path / "back" / "d.vmdk", "raw")


def test_a_disk_whose_cid_became_shorter(volumes: tuple[Volume, Volume], tmp_path: Path) -> None:
    """One of 16 writers of a text descriptor leaves a NUL in it, and the end of the longer text."""
    encrypted, _ = volumes
    source = tmp_path / "guest"
    source.mkdir()
    disk = source / "d.vmdk"
    qemu_img("create", "-f", "vmdk", "-o", "subformat=monolithicFlat", disk, "1M")
    while b"\0\n" not in disk.read_bytes():  # 2 digits fewer, with 1 of 256 writers
        subprocess.run(
            ["qemu-io", "-f", "vmdk", "-c", "write -P 7 0 512", disk], check=True, stdout=subprocess.DEVNULL
        )
    (source / "guest.vmx").write_text('scsi0.present = "TRUE"\nscsi0:0.fileName = "d.vmdk"\n')
    transfer.import_directory(encrypted, source)
    transfer.export_ova(encrypted, "guest", tmp_path / "out.ova")
    compare(disk, unpack(tmp_path / "out.ova", tmp_path / "out"))


def test_a_large_disk(tmp_path: Path) -> None:
    """Tables of which most are missing; a directory of more than a sector."""
    capacity = 300 << 30
    pieces = [(0, b"first"), (70 << 30, b"middle" * 20_000), (capacity - 4, b"last")]
    text = compose("streamOptimized", capacity=capacity, file_name="large.vmdk", cid=1)
    writer = stream.StreamWriter(capacity, text)
    data = b"".join((writer.start(), *(writer.write(*piece) for piece in pieces), writer.finish()))
    (tmp_path / "large.vmdk").write_bytes(data)
    qemu_img("check", "-f", "vmdk", tmp_path / "large.vmdk")
    found = json.loads(qemu_img("map", "--output=json", "-f", "vmdk", tmp_path / "large.vmdk"))
    assert [extent["start"] for extent in found if extent["data"]] == [0, 70 << 30, capacity - stream.GRAIN]
    reader = stream.StreamReader()
    grains = dict(reader.feed(data))
    reader.finish()
    assert grains[capacity - stream.GRAIN].endswith(b"last")
