"""Rows about names: making, looking at and removing many files, opening them, what having them open takes."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from . import processes
from .places import Place, Places
from .results import PLACES, Row, Sample
from .work import Extent, Work, seconds

#: So many are looked at twice: the second time the kernel knows them still.
_AT_ONCE = 200

#: Seconds more than what the kernel knows is good for.
_LATER_S = 0.1

_BLOCK = 4096

#: So many disks are open at once.
OPENED = 1000


class Names(Work):
    """Files in one directory: made empty, looked at, removed."""

    rows = (
        Row("create", "create files", "files/s"),
        Row("stat-warm", "stat, known to the kernel", "files/s"),
        Row("stat-timed-out", "stat, after its time-out", "files/s"),
        Row("unlink", "unlink files", "files/s"),
    )
    places = PLACES

    def measure(self, places: Places, place: str, extent: Extent) -> Mapping[str, Sample]:
        where = places[place]
        directory = where.directory / "names"
        directory.mkdir()
        names = [f"file{number}" for number in range(extent.names)]
        dir_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            made = seconds(_create, dir_fd, names)
            warm = sum(_again(dir_fd, names[at : at + _AT_ONCE]) for at in range(0, len(names), _AT_ONCE))
            time.sleep(where.system.cache_s + _LATER_S)
            late = seconds(_stat, dir_fd, names)
            removed = seconds(_unlink, dir_fd, names)
        finally:
            os.close(dir_fd)
        directory.rmdir()
        took = {"create": made, "stat-warm": warm, "stat-timed-out": late, "unlink": removed}
        return {name: Sample(len(names) / s) for name, s in took.items()}


def _again(dir_fd: int, names: Sequence[str]) -> float:
    _stat(dir_fd, names)
    return seconds(_stat, dir_fd, names)


def _create(dir_fd: int, names: Sequence[str]) -> None:
    for name in names:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=dir_fd))


def _stat(dir_fd: int, names: Sequence[str]) -> None:
    for name in names:
        os.stat(name, dir_fd=dir_fd)


def _unlink(dir_fd: int, names: Sequence[str]) -> None:
    for name in names:
        os.unlink(name, dir_fd=dir_fd)


class Opened(Work):
    """A thousand small disks of a mount that began anew: opened one by one, a second time, all at once."""

    rows = (
        Row("open-first", "open and close, the first time", "µs"),
        Row("open-again", "open and close, again", "µs"),
        Row("memory-mount", "mount with 1,000 open disks", "MiB"),
        Row("memory-keyd", "keyd with 1,000 open disks", "MiB"),
    )
    places = PLACES

    def measure(self, places: Places, place: str, extent: Extent) -> Mapping[str, Sample]:
        where = places[place]
        files = _disks(where)
        where.system.remount()
        first, again = (1e6 * seconds(_open, files) / len(files) for _ in range(2))
        with opened(files):
            figures = {
                "open-first": Sample(first),
                "open-again": Sample(again),
                "memory-mount": Sample(processes.memory(where.system.pids())),
            }
            if helpers := where.system.helpers():
                figures["memory-keyd"] = Sample(processes.memory(helpers))
        return figures


def _disks(place: Place) -> list[Path]:
    directory = place.directory / "disks"
    files = [directory / f"disk{number}-flat.vmdk" for number in range(OPENED)]
    if not directory.exists():
        directory.mkdir()
        for file in files:
            file.write_bytes(os.urandom(_BLOCK))
    return files


def _open(files: Sequence[Path]) -> None:
    for file in files:
        os.close(os.open(file, os.O_RDWR))


@contextmanager
def opened(files: Sequence[Path]) -> Iterator[None]:
    """All at once; each is read and written, too."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with ExitStack() as closed:
        for file in files:
            fd = os.open(file, os.O_RDWR)
            closed.callback(os.close, fd)
            os.pwrite(fd, os.pread(fd, _BLOCK, 0), 0)
        yield
