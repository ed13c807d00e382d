"""qemu-img judges the qcow2 images that we write, and we read those that it writes."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from ioflt import syscalls
from ioflt.errors import UnsupportedError
from ioflt.format.mapping import Kind
from ioflt.format.qcow2.reader import Reader
from ioflt.format.qcow2.writer import CLUSTER, Writer
from tests.unit.format.images import content, reading

pytestmark = pytest.mark.interop("qemu-img", "qemu-io")

CAPACITY = (1 << 30) + 512 * 7
TAIL = (1 << 30, 512 * 7)


def qemu(program: str, *arguments: str | Path) -> str:
    """What it prints, with its complaints; it has to succeed."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def noise(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


def write(
    path: Path,
    pieces: Iterable[tuple[int, bytes | int]],
    *,
    capacity: int = CAPACITY,
    backing: str | None = None,
) -> None:
    """An image of these pieces: bytes, or how many zeros."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        writer = Writer(lambda position, data: os.pwrite(fd, data, position), capacity, backing=backing)
        for offset, data in pieces:
            if isinstance(data, int):
                writer.zeros(offset, data)
            else:
                writer.write(offset, data)
        writer.finish()
    finally:
        os.close(fd)


def check(path: Path) -> None:
    found = json.loads(qemu("qemu-img", "check", "--output=json", path))
    assert not any(found.get(what) for what in ("corruptions", "leaks", "check-errors")), found
    assert found["image-end-offset"] == path.stat().st_size


STEPS: tuple[tuple[tuple[int, bytes | int], ...], ...] = (
    ((0, noise(1, 3 * CLUSTER)), (700 << 20, noise(2, 2 * CLUSTER)), (TAIL[0], noise(3, TAIL[1]))),
    ((CLUSTER, noise(4, CLUSTER)), (700 << 20, CLUSTER), (800 << 20, noise(5, CLUSTER) + bytes(CLUSTER))),
    ((2 * CLUSTER, bytes(CLUSTER)), (512 << 20, 256 << 20), TAIL),
)


@pytest.fixture
def chain(tmp_path: Path) -> list[Path]:
    """A full image and two increments."""
    made = []
    for number, pieces in enumerate(STEPS):
        folder = tmp_path / f"point-{number}"
        folder.mkdir()
        made.append(folder / "disk.qcow2")
        write(made[-1], pieces, backing=f"../point-{number - 1}/disk.qcow2" if number else None)
    return made


def test_a_chain_is_what_qemu_reads(chain: list[Path], tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    with raw.open("wb") as disk:
        disk.truncate(CAPACITY)
        for path, pieces in zip(chain, STEPS, strict=True):
            check(path)
            for offset, data in pieces:
                if isinstance(data, int):
                    syscalls.fallocate(disk.fileno(), 3, offset, data)  # a hole
                else:
                    os.pwrite(disk.fileno(), data, offset)
            assert "Images are identical." in qemu("qemu-img", "compare", "-F", "raw", path, raw)


def test_a_chain_is_told_as_one(chain: list[Path]) -> None:
    infos = json.loads(qemu("qemu-img", "info", "--backing-chain", "--output=json", chain[-1]))
    assert [info["format"] for info in infos] == ["qcow2"] * 3
    assert [info.get("backing-filename-format") for info in infos] == ["qcow2", "qcow2", None]
    assert {info["virtual-size"] for info in infos} == {CAPACITY}


def test_the_map_tells_data_zeros_and_what_is_below(chain: list[Path]) -> None:
    areas = json.loads(qemu("qemu-img", "map", "--output=json", chain[-1]))
    at = {area["start"]: (area["length"], area["depth"], area["zero"], area["data"]) for area in areas}
    assert at[0] == (CLUSTER, 2, False, True)
    assert at[CLUSTER] == (CLUSTER, 1, False, True)
    assert at[2 * CLUSTER] == (CLUSTER, 0, True, False)
    assert at[512 << 20] == (256 << 20, 0, True, False)  # what was trimmed hides 700 MiB
    assert at[800 << 20] == (CLUSTER, 1, False, True)
    assert at[TAIL[0]] == (TAIL[1], 0, True, False)


def test_terabytes_with_little_in_them(tmp_path: Path) -> None:
    path = tmp_path / "huge.qcow2"
    write(path, [(0, noise(1, CLUSTER)), (60 << 40, noise(2, CLUSTER))], capacity=64 << 40)
    check(path)
    assert path.stat().st_size < 2 << 20
    areas = json.loads(qemu("qemu-img", "map", "--output=json", path))
    assert [area["start"] for area in areas if area["data"]] == [0, 60 << 40]


def test_more_than_one_block_of_reference_counts(tmp_path: Path) -> None:
    """2 GiB of clusters and more; what is in them nobody looks at here, so they are holes of the file."""
    path = tmp_path / "large.qcow2"
    block = bytearray(64 << 20)
    block[::CLUSTER] = b"\1" * (len(block) // CLUSTER)
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        writer = Writer(
            lambda position, data: len(data) == len(block) or os.pwrite(fd, data, position), 4 << 30
        )
        for offset in range(0, (2 << 30) + (128 << 20), len(block)):
            writer.write(offset, block)
        writer.finish()
    finally:
        os.close(fd)
    check(path)


@pytest.mark.parametrize(
    "options",
    [
        "compat=1.1",
        "compat=0.10",
        "cluster_size=512",
        "cluster_size=2M",
        "compression_type=zlib",
        "lazy_refcounts=on",
    ],
)
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
def test_images_of_qemu_are_read(options: str, compressed: bool, tmp_path: Path) -> None:
    disk = bytearray(8 << 20)
    disk[100_000:400_000] = noise(7, 300_000)
    disk[3 << 20 : 5 << 20] = b"compresses well." * (2 << 16)
    disk[-512:] = noise(8, 512)
    raw, path = tmp_path / "raw", tmp_path / "made.qcow2"
    raw.write_bytes(disk)
    packing = ("-c",) if compressed else ()
    qemu("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *packing, "-o", options, raw, path)
    data = path.read_bytes()
    image = Reader(reading(data))
    assert content(image, reading(data)) == disk
    assert compressed == any(run.kind is Kind.PACKED for run in image.runs(0, len(disk)))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("-o", "extended_l2=on"), "extended L2 entries"),
        (("-o", "compression_type=zstd"), "unknown compression"),
        (("-o", "data_file=data.raw"), "external data file"),
    ],
)
def test_images_of_qemu_are_refused(options: tuple[str, ...], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "made.qcow2"
    done = subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", *options, path, "1M"], cwd=tmp_path, check=False
    )
    assert done.returncode == 0
    with pytest.raises(UnsupportedError, match=reason):
        Reader(reading(path.read_bytes()))
