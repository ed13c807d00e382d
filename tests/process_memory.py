"""What lies in the memory of a running process. Needs to be root for one that may not be dumped."""

from __future__ import annotations

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
