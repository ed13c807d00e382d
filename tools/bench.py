"""Throughput and latency of a mount against the directory behind it, measured by fio.

Four places, the same jobs, one after the other on one file each: the backing directory itself, a clear VM, an
encrypted VM and one with integrity through one mount; of the last also how many times longer it takes than
the one without: what tags cost. What makes the numbers doubtful is printed with them: the load of the
machine at the start, its file system, whether the C files are built. Take the best of several quiet runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ioflt.crypto import xts

IOFLT = Path(sys.executable).parent / "ioflt"


@dataclass(frozen=True)
class Job:
    """One row: what fio is told beside file, size and time."""

    name: str
    rw: str
    block: str
    depth: int

    @property
    def writes(self) -> bool:
        return "write" in self.rw


JOBS = (
    Job("sequential write 1 MiB", "write", "1m", 4),
    Job("sequential read 1 MiB", "read", "1m", 4),
    Job("random read 4 KiB", "randread", "4k", 1),
    Job("random read 4 KiB, 16 at once", "randread", "4k", 16),
    Job("random write 4 KiB", "randwrite", "4k", 1),
    Job("random write 4 KiB, 16 at once", "randwrite", "4k", 16),
)


@dataclass(frozen=True)
class Result:
    """MiB and requests a second, and the 99th percentile of a request's time in microseconds."""

    mib: float
    iops: float
    p99: float

    def __str__(self) -> str:
        return f"{self.mib:,.0f} MiB/s  {self.iops:,.0f}/s  p99 {self.p99:,.0f} µs"


def measure(job: Job, file: Path, size: str, seconds: int) -> Result:
    command = [
        *("fio", "--name=row", "--output-format=json", "--ioengine=libaio", "--direct=1", "--randseed=1"),
        *(f"--filename={file}", f"--size={size}", f"--runtime={seconds}", "--time_based"),
        *(f"--rw={job.rw}", f"--bs={job.block}", f"--iodepth={job.depth}"),
        *(["--end_fsync=1"] if job.writes else []),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row = json.loads(done.stdout)["jobs"][0]["write" if job.writes else "read"]
    return Result(row["bw_bytes"] / (1 << 20), row["iops"], row["clat_ns"]["percentile"]["99.000000"] / 1000)


def ioflt(*arguments: str | Path) -> None:
    subprocess.run([IOFLT, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def places(base: Path, cleanup: ExitStack) -> dict[str, Path]:
    """A directory for each place, with the mount up."""
    os.environ["IOFLT_HOME"] = str(base / "home")
    store, mount, backing = base / "store", base / "mnt", base / "backing"
    for path in (store / "clear", store / "integrity", mount, backing):
        path.mkdir(parents=True)
    ioflt("datastore", "init", store, "--encrypt")
    for name in ("clear", "integrity"):  # empty, and therefore encrypted
        ioflt("vm", "decrypt", store / name)
    ioflt("vm", "encrypt", store / "integrity", "--integrity")
    stop: Callable[..., object] = subprocess.run
    cleanup.callback(stop, [IOFLT, "keyd", "stop"], stderr=subprocess.DEVNULL)
    ioflt("mount", store, mount)
    cleanup.callback(stop, [IOFLT, "umount", mount])
    (mount / "encrypted").mkdir()
    through_mount = {name: mount / name for name in ("clear", "encrypted", "integrity")}
    return {"backing": backing, **through_mount}


def facts(base: Path) -> str:
    kind = subprocess.run(["stat", "-f", "-c", "%T", base], check=True, capture_output=True, text=True)
    native = "C files built" if xts.NATIVE else "C files NOT built"
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} CPUs, {platform.release()}, {kind.stdout.strip()}, {native}, load {load:.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--directory", type=Path, help="where to measure (default: the temporary directory)")
    parser.add_argument("--seconds", type=int, default=5, help="for each of the 24 measurements (default 5)")
    parser.add_argument("--size", default="1g", help="of each file (default 1g)")
    arguments = parser.parse_args()
    console = Console()
    with ExitStack() as cleanup:
        base = Path(
            cleanup.enter_context(tempfile.TemporaryDirectory(prefix="ioflt-bench-", dir=arguments.directory))
        )
        table = Table(title=facts(base), title_justify="left")
        table.add_column("job")
        where = places(base, cleanup)
        for place in where:
            table.add_column(place)
        for job in JOBS:
            results = {
                place: measure(job, path / "disk-flat.vmdk", arguments.size, arguments.seconds)
                for place, path in where.items()
            }
            shares = {place: result.mib / results["backing"].mib for place, result in results.items()}
            notes = {place: f"{share:.0%}" for place, share in shares.items()}
            notes["integrity"] += f", {results['encrypted'].mib / results['integrity'].mib:.2f} × encrypted"
            table.add_row(job.name, *(f"{result}\n{notes[place]}" for place, result in results.items()))
        console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
