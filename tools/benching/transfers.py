"""Rows by fio: how fast data moves, and how much processor time it takes.

All by one file of a flat disk. Direct rows run for so many seconds; what goes through the kernel's cache of
the mount goes once through the file, or the cache would be what is measured. Nothing waits for the device but
the cold row: it is the file system that is compared. Processor time is that of the file system's processes
(of ioflt's: the mount, its broker, keyd) and of fio itself; the kernel's own threads are not counted.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from . import processes
from .filesystem import fill
from .places import Place, Places
from .programs import run
from .results import PLACES, Row, Sample
from .work import GIB, MIB, Extent, Work, disk, forget_pages, forget_stored, write_out


@dataclass(frozen=True)
class Job:
    """What fio is told beside the file."""

    name: str
    title: str
    rw: str
    block: str
    #: Requests at once, of each of so many processes; one is a plain read(2) or write(2).
    depth: int = 1
    processes: int = 1
    direct: bool = True
    cold: bool = False

    @property
    def random(self) -> bool:
        return self.rw.startswith("rand")

    @property
    def writes(self) -> bool:
        return self.rw not in ("read", "randread")


JOBS = (
    Job("read-1m-direct", "1 MiB read, direct", "read", "1m"),
    Job("read-1m-buffered", "1 MiB read, buffered", "read", "1m", direct=False),
    Job("write-1m-direct", "1 MiB write, direct", "write", "1m"),
    Job("write-1m-buffered", "1 MiB write, buffered", "write", "1m", direct=False),
    Job("read-128k", "128 KiB read, direct", "read", "128k"),
    Job("randread-4k", "4 KiB random read", "randread", "4k"),
    Job("randread-4k-qd16", "4 KiB random read, QD 16 × 4", "randread", "4k", depth=16, processes=4),
    Job("randwrite-4k", "4 KiB random write", "randwrite", "4k"),
    Job("randwrite-4k-qd16", "4 KiB random write, QD 16 × 4", "randwrite", "4k", depth=16, processes=4),
    Job("mix-4k", "4 KiB, 70 % read, QD 16 × 4", "randrw", "4k", depth=16, processes=4),
    Job("read-1m-cold", "1 MiB read, cold", "read", "1m", direct=False, cold=True),
)


class Transfer(Work):
    """One job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.places = (*PLACES, "integrity", "luks")
        self.rows = (Row(job.name, job.title, "IOPS" if job.random else "MiB/s"),)

    def measure(self, places: Places, place: str, extent: Extent) -> Mapping[str, Sample]:
        where = places[place]
        file = disk(where.directory, extent.size)
        os.sync()  # what was written before is no part of this
        forget_pages(file)
        if self.job.cold:
            forget_stored(where)
        return {self.job.name: measured(self.job, where, [file], extent)}


class TwoVms(Work):
    """A disk of one VM is read, then together with one of another, in an ioflt mount an encrypted one."""

    _JOB = Job("two-vms", "1 MiB read, direct, two VMs at once", "read", "1m")
    rows = (
        Row(_JOB.name, _JOB.title, "MiB/s"),
        Row("two-vms-gain", "two VMs at once ÷ one alone", "×"),
    )
    places = tuple(place for place in PLACES if place != "clear")

    def measure(self, places: Places, place: str, extent: Extent) -> Mapping[str, Sample]:
        where = places[place]
        second = where.system.mountpoint / "second"
        second.mkdir(exist_ok=True)
        files = [disk(vm, extent.size) for vm in (where.directory, second)]
        os.sync()
        alone, both = (measured(self._JOB, where, files[:count], extent) for count in (1, 2))
        return {self._JOB.name: both, "two-vms-gain": Sample(both.value / alone.value)}


class ThinSizes(Work):
    """Random reads all over thin disks that have little data: what they cost does not grow with the size."""

    _JOBS = (
        (Job("thin-10g", "4 KiB random read, 10 GiB thin", "randread", "4k"), 10 * GIB),
        (Job("thin-1t", "4 KiB random read, 1 TiB thin", "randread", "4k"), 1024 * GIB),
    )
    rows = (
        *(Row(job.name, job.title, "IOPS") for job, _ in _JOBS),
        Row("thin-share", "1 TiB thin ÷ 10 GiB thin", "×"),
    )
    places = PLACES

    def measure(self, places: Places, place: str, extent: Extent) -> Mapping[str, Sample]:
        where = places[place]
        figures = {}
        for job, size in self._JOBS:
            file = where.directory / f"{job.name}-flat.vmdk"
            if not file.exists():
                fill(file, MIB)
                os.truncate(file, size)
            figures[job.name] = measured(job, where, [file], replace(extent, size=size))
        share = figures["thin-1t"].value / figures["thin-10g"].value
        return {**figures, "thin-share": Sample(share)}


def measured(job: Job, place: Place, files: Sequence[Path], extent: Extent) -> Sample:
    """Run fio once."""
    pids = place.pids()
    before = processes.cpu(pids)
    result = json.loads(run(*_command(job, files, extent)))["jobs"][0]
    begin = time.perf_counter()
    if job.writes and not job.direct:
        for file in files:
            write_out(file)
    seconds = max(result[way]["runtime"] for way in ("read", "write")) / 1000
    seconds += time.perf_counter() - begin
    used = processes.cpu(pids) - before + _cpu_of_fio(result)
    moved = sum(result[way]["io_bytes"] for way in ("read", "write"))
    requests = sum(result[way]["total_ios"] for way in ("read", "write"))
    return Sample(requests / seconds if job.random else moved / MIB / seconds, used / (moved / GIB))


def _cpu_of_fio(result: Mapping[str, float]) -> float:
    """`job_runtime` is the sum over its processes, of which these are percents."""
    return (result["usr_cpu"] + result["sys_cpu"]) / 100 * result["job_runtime"] / 1000


def _command(job: Job, files: Sequence[Path], extent: Extent) -> list[object]:
    engine = ["--ioengine=psync"] if job.depth == 1 else ["--ioengine=libaio", f"--iodepth={job.depth}"]
    common: list[object] = [
        *("fio", "--output-format=json", "--group_reporting", "--disk_util=0", "--randseed=1", *engine),
        *(f"--rw={job.rw}", "--rwmixread=70", f"--bs={job.block}", f"--size={extent.size}"),
        *(f"--numjobs={job.processes}", f"--direct={job.direct:d}", "--overwrite=1"),
        *(["--time_based", f"--runtime={round(extent.seconds * 1000)}ms"] if job.direct else []),
    ]
    for number, file in enumerate(files):
        common += [f"--name=disk{number}", f"--filename={file}"]
    return common


TRANSFERS = tuple(Transfer(job) for job in JOBS)
