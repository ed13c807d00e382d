"""fio writes, the mount is killed, fio verifies: every block by its checksum."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.mounted.place import Place

pytestmark = [pytest.mark.fuse, pytest.mark.interop("fio"), pytest.mark.slow]

#: What is written to one home: 1 GiB and a little.
JOBS = {
    "direct QD16": ("640m", "--ioengine=libaio", "--direct=1", "--iodepth=16", "--rw=randwrite", "--bs=256k"),
    "direct 512 B to 1 MiB": (
        "128m", "--ioengine=libaio", "--direct=1", "--iodepth=16", "--rw=randwrite",
        "--bsrange=512-1m", "--blockalign=512",
    ),
    "direct 4 KiB": ("64m", "--ioengine=libaio", "--direct=1", "--iodepth=16", "--rw=randwrite", "--bs=4k"),
    "buffered, unaligned": ("192m", "--ioengine=psync", "--rw=write", "--bsrange=512-1m", "--bs_unaligned=1"),
    "mapped": ("64m", "--ioengine=mmap", "--rw=randwrite", "--bs=64k"),
}  # fmt: skip


def command(path: Path, *options: str) -> list[str]:
    return [
        "fio", "--name=job", f"--filename={path}", "--verify=crc32c", "--verify_fatal=1",
        "--verify_state_save=0", "--randseed=7",
        "--end_fsync=1", "--minimal", *options,
    ]  # fmt: skip


def fio(path: Path, *options: str) -> None:
    result = subprocess.run(command(path, *options), capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{path.name}\n{result.stdout}\n{result.stderr}"
    assert "verify:" not in result.stderr


@pytest.mark.parametrize("home", ["thin", "thick", "tagged"])
def test_a_gibibyte_outlives_the_mount(homes: Place, home: str) -> None:
    directory = homes.mountpoint / home
    for name, (size, *options) in JOBS.items():
        fio(directory / name.replace(" ", "-"), f"--size={size}", "--do_verify=0", *options)
    victim = subprocess.Popen(
        command(directory / "victim", "--size=1g", "--do_verify=0", *JOBS["direct QD16"][1:]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=homes.base,
    )
    time.sleep(0.7)
    homes.kill()
    assert victim.wait(timeout=30) != 0
    homes.mount()
    for name, (size, *options) in JOBS.items():
        fio(directory / name.replace(" ", "-"), f"--size={size}", "--verify_only", *options)
    assert homes.complaints() == []


@pytest.mark.parametrize("home", ["thin", "thick", "tagged"])
@pytest.mark.parametrize("disks", [8, 1])
def test_eight_processes(homes: Place, home: str, disks: int) -> None:
    """On a disk of their own each, or on eight ranges of one disk, whose neighbours share a sector."""
    directory = homes.mountpoint / home
    for number in range(disks):  # fio would make it anew, each process for itself
        with (directory / f"disk{number}").open("wb") as file:
            file.truncate(8 * ((16 << 20) + 512))
    running = [
        subprocess.Popen(
            command(
                directory / f"disk{number % disks}", f"--offset={number * ((16 << 20) + 512)}", "--size=16m",
                "--rw=randwrite", "--bsrange=512-256k", "--blockalign=512", "--ioengine=libaio",
                "--direct=1", "--iodepth=4",
            ),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for number in range(8)
    ]  # fmt: skip
    for process in running:
        output, _ = process.communicate(timeout=100)
        assert process.returncode == 0, (output, homes.complaints())
    assert homes.complaints() == []
