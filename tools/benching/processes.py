"""Processor time and memory of processes, from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu(pids: Iterable[int]) -> float:
    """Seconds that they used, all their threads, those that have ended included."""
    return sum(_cpu(pid) for pid in pids)


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory(pids: Iterable[int]) -> float:
    """MiB of memory that they have, what several share in equal parts."""
    return sum(_memory(pid) for pid in pids)


def _memory(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} has no memory")


def with_arguments(*words: str | Path) -> Iterator[int]:
    """Processes that were started with all of these words."""
    wanted = {os.fsencode(word) for word in words}
    for directory in Path("/proc").iterdir():
        if directory.name.isdecimal():
            try:
                if wanted <= set((directory / "cmdline").read_bytes().split(b"\0")):
                    yield int(directory.name)
            except (FileNotFoundError, ProcessLookupError):
                continue
