"""What lies in the memory of a running process. Needs to be root for one that may not be dumped."""

from __future__ import annotations

import mmap
import os
import subprocess
from contextlib import suppress
from pathlib import Path


def memory_holds(pid: int, *needles: bytes) -> list[bool]:
    """Which of these lie anywhere in the writable memory of that process."""
    found = [False] * len(needles)
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            area, mode = line.split()[:2]
            if "rw" not in mode:
                continue
            start, end = (int(number, 16) for number in area.split("-"))
            with suppress(OSError):
                memory.seek(start)
                content = memory.read(end - start)
                found = [was or needle in content for was, needle in zip(found, needles, strict=True)]
    return found


def core_holds(pid: int, directory: Path, *needles: bytes) -> list[bool]:
    """Which of these lie in a core dump of that process, as gdb's gcore writes it: of all that it has mapped,
    also what it keeps out of dumps.
    """
    command = ["gcore", "-a", "-o", directory / "core", str(pid)]
    done = subprocess.run(
        command, env=os.environ | {"DEBUGINFOD_URLS": ""}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    dump = directory / f"core.{pid}"
    try:
        with dump.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
            return [content.find(needle) >= 0 for needle in needles]
    finally:
        dump.unlink()
