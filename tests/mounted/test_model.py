"""A file at the mount against a bytearray, whatever is done to it in whatever order."""

from __future__ import annotations

import mmap
import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from ioflt import syscalls
from tests.mounted.place import Place

pytestmark = pytest.mark.fuse

#: Steps of one run; the runs of thin and thick together make the 10,000 of continuous integration.
STEPS = 50
RUNS = {"ci": 100, "long": 5000}.get(os.environ.get("HYPOTHESIS_PROFILE", "dev"), 20)

LIMIT = 300_000
SECTOR = 4096

_near_borders = st.builds(
    lambda sector, off: max(0, sector * SECTOR + off), st.integers(0, 40), st.integers(-3, 3)
)
offsets = _near_borders | st.integers(0, LIMIT // 2)
sizes = st.integers(1, 100) | _near_borders.map(lambda size: size + 1) | st.integers(1, 70_000)
seeds = st.integers(0, 255)
handles = st.integers(0, 1)


def pattern(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


class FileMachine(RuleBasedStateMachine):
    """Two handles of one file, a third that appends, and `model`, what it has to hold."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        self.names = 0
        self.path = directory / "disk"
        self.model = bytearray()
        os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR))
        self.handles = [os.open(self.path, os.O_RDWR) for _ in range(2)]
        self.appender = os.open(self.path, os.O_WRONLY | os.O_APPEND)

    def teardown(self) -> None:
        for fd in (*self.handles, self.appender):
            os.close(fd)
        content = self.path.read_bytes()
        self.path.unlink()
        assert content == self.model

    def _put(self, offset: int, data: bytes) -> None:
        if offset > len(self.model):
            self.model.extend(bytes(offset - len(self.model)))
        self.model[offset : offset + len(data)] = data

    @rule(handle=handles, offset=offsets, size=sizes, seed=seeds)
    def write(self, handle: int, offset: int, size: int, seed: int) -> None:
        data = pattern(seed, size)
        assert os.pwrite(self.handles[handle], data, offset) == size
        self._put(offset, data)

    @rule(size=sizes, seed=seeds)
    def append(self, size: int, seed: int) -> None:
        if len(self.model) + size < LIMIT:
            data = pattern(seed, size)
            assert os.write(self.appender, data) == size
            self.model.extend(data)

    @rule(sector=st.integers(0, 30), sectors=st.integers(1, 20), seed=seeds)
    def write_direct(self, sector: int, sectors: int, seed: int) -> None:
        data = pattern(seed, sectors * SECTOR)
        with mmap.mmap(-1, len(data)) as buffer:
            buffer.write(data)
            fd = os.open(self.path, os.O_WRONLY | os.O_DIRECT)
            try:
                assert os.pwritev(fd, [buffer], sector * SECTOR) == len(data)
            finally:
                os.close(fd)
        self._put(sector * SECTOR, data)

    @rule(handle=handles, offset=offsets, size=sizes, seed=seeds, sync=st.booleans())
    def write_mapped(self, handle: int, offset: int, size: int, seed: int, sync: bool) -> None:
        if not self.model:
            return
        offset %= len(self.model)
        data = pattern(seed, min(size, len(self.model) - offset))
        with mmap.mmap(self.handles[handle], len(self.model)) as mapped:
            mapped[offset : offset + len(data)] = data
            if sync:
                mapped.flush()
        self._put(offset, data)

    @rule(handle=handles, length=offsets)
    def truncate(self, handle: int, length: int) -> None:
        os.ftruncate(self.handles[handle], length)
        del self.model[length:]
        self._put(length, b"")

    @rule(handle=handles, offset=offsets, size=sizes)
    def punch(self, handle: int, offset: int, size: int) -> None:
        mode = syscalls.FALLOC_FL_PUNCH_HOLE | syscalls.FALLOC_FL_KEEP_SIZE
        syscalls.fallocate(self.handles[handle], mode, offset, size)
        self._zero(offset, size)

    @rule(handle=handles, offset=offsets, size=sizes, keep=st.booleans())
    def zero_range(self, handle: int, offset: int, size: int, keep: bool) -> None:
        mode = syscalls.FALLOC_FL_ZERO_RANGE | (syscalls.FALLOC_FL_KEEP_SIZE if keep else 0)
        syscalls.fallocate(self.handles[handle], mode, offset, size)
        self._zero(offset, size)
        if not keep and offset + size > len(self.model):
            self._put(offset + size, b"")

    @rule(handle=handles, offset=offsets, size=sizes, keep=st.booleans())
    def reserve(self, handle: int, offset: int, size: int, keep: bool) -> None:
        syscalls.fallocate(self.handles[handle], syscalls.FALLOC_FL_KEEP_SIZE if keep else 0, offset, size)
        if not keep and offset + size > len(self.model):
            self._put(offset + size, b"")

    def _zero(self, offset: int, size: int) -> None:
        stop = min(offset + size, len(self.model))
        if offset < stop:
            self.model[offset:stop] = bytes(stop - offset)

    @rule(handle=handles, offset=offsets, size=sizes)
    def read(self, handle: int, offset: int, size: int) -> None:
        assert os.pread(self.handles[handle], size, offset) == self.model[offset : offset + size]

    @rule(handle=handles)
    def read_all_uncached(self, handle: int) -> None:
        fd = self.handles[handle]
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(fd, len(self.model) + 1, 0) == self.model

    @rule(handle=handles, offset=offsets)
    def holes_hold_zeros(self, handle: int, offset: int) -> None:
        fd = self.handles[handle]
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError:  # ENXIO: a hole up to the end
            start = len(self.model)
        assert not any(self.model[offset:start])

    @rule()
    def rename(self) -> None:
        self.names += 1
        new = self.directory / f"disk{self.names}"
        self.path.rename(new)
        self.path = new

    @rule(handle=handles)
    def reopen(self, handle: int) -> None:
        os.close(self.handles[handle])
        self.handles[handle] = os.open(self.path, os.O_RDWR)

    @rule()
    def close_all(self) -> None:
        for fd in (*self.handles, self.appender):
            os.close(fd)
        assert self.path.stat().st_size == len(self.model)
        self.handles = [os.open(self.path, os.O_RDWR) for _ in range(2)]
        self.appender = os.open(self.path, os.O_WRONLY | os.O_APPEND)

    @rule(handle=handles)
    def sync(self, handle: int) -> None:
        os.fsync(self.handles[handle])

    @invariant()
    def length_is_exact(self) -> None:
        assert os.fstat(self.handles[0]).st_size == len(self.model)


@pytest.mark.parametrize("home", ["thin", "thick", "tagged"])
def test_any_sequence(shared: Place, home: str) -> None:
    directory = shared.mountpoint / home
    run_state_machine_as_test(
        lambda: FileMachine(directory),
        settings=settings(
            max_examples=RUNS,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert shared.complaints() == []


def test_a_thick_file_is_closed_while_it_is_filled(shared: Place) -> None:
    """The filler works on the descriptor that the last close gives back."""
    home = shared.mountpoint / "thick"
    for number in range(40):
        with (home / "large").open("wb") as file:
            file.truncate(8 << 20)
        (home / f"small{number}").write_bytes(b"content")
    assert all((home / f"small{number}").read_bytes() == b"content" for number in range(40))
    assert shared.complaints() == []
