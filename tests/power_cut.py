"""A disk whose power can be cut: a file system on a device that logs each write, made anew as of any moment.

qemu-storage-daemon exports the device through its `blklogwrites` node, whose log has the form of Linux's
dm-log-writes (drivers/md/dm-log-writes.c): a superblock, then for each request a header and its data, all in
sectors of 512 bytes.
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import PATIENCE_S, eventually

SECTOR = 512

_SUPER = struct.Struct("<QQQI")
_MAGIC = 0x6A736677736872
_ENTRY = struct.Struct("<QQQQ")
_FLUSH, _DISCARD = 1, 4


@dataclass(frozen=True, slots=True)
class Request:
    """A write of `size` bytes to `offset` of the disk, its data at `position` of the log; or a flush."""

    position: int
    offset: int
    size: int
    is_flush: bool


class Disk:
    """Below `base`; `place` is where its file system is mounted."""

    def __init__(self, base: Path, size: int) -> None:
        self.place = base / "m"
        self.place.mkdir()
        self._image, self._log, self._device = base / "image", base / "log", base / "device"
        for path, length in ((self._image, size), (self._log, 0), (self._device, 0)):
            path.touch()
            os.truncate(path, length)
        self._state = base / "state"

    @contextmanager
    def recording(self, make: tuple[str, ...]) -> Iterator[None]:
        """Mounted and logged. `make`: the command that makes the file system, without the device."""
        with self._exported() as device, looped(device) as loop:
            subprocess.run([*make, loop], check=True, capture_output=True)
            with mounted(loop, self.place):
                yield

    def now(self) -> int:
        """A moment, for `states`: requests that are done by now lie before it."""
        return self._log.stat().st_size

    def states(self, begin: int, count: int, seed: int) -> Iterator[int]:
        """`count` power cuts from the moment `begin` on, the first and the last request after it among them;
        in the block the disk is mounted as it was then.

        What a flush came after is on the disk. Of what was written since, some is, in no order, whole or as
        far as some sector. Yields the moment of the cut.
        """
        chance = random.Random(seed)
        requests = list(self._requests())
        after = [n for n, one in enumerate(requests) if one.position > begin]
        assert after, "nothing was written"
        between = chance.sample(after[1:-1], min(count, len(after)) - len({after[0], after[-1]}))
        cuts = sorted({after[0], *between, after[-1]})
        done = 0
        with self._log.open("rb") as log, (self._state.with_name("durable")).open("w+b") as durable:
            durable.truncate(self._image.stat().st_size)
            for cut in cuts:
                flushed = max((n for n in range(done, cut + 1) if requests[n].is_flush), default=done)
                for request in requests[done:flushed]:
                    _write(durable, log, request, request.size)
                done = flushed
                durable.flush()
                self._state.unlink(missing_ok=True)  # a new file: a loop device may hold the last one a while
                subprocess.run(["cp", "--sparse=always", durable.name, self._state], check=True)
                kept = chance.random()  # of all
                with self._state.open("r+b") as state:
                    for request in requests[flushed : cut + 1]:
                        if chance.random() < kept:
                            torn = chance.random() < 0.2
                            size = chance.randrange(0, request.size + 1, SECTOR) if torn else request.size
                            _write(state, log, request, size)
                with looped(self._state) as loop, mounted(loop, self.place):
                    yield requests[cut].position

    def holds(self, needle: bytes) -> bool:
        """Whether these bytes are anywhere on the disk of the state that `states` gave last."""
        with self._state.open("rb") as state:
            end = 0
            while (begin := _data(state, end)) is not None:
                end = os.lseek(state.fileno(), begin, os.SEEK_HOLE)
                with mmap.mmap(state.fileno(), end, access=mmap.ACCESS_READ) as data:
                    if data.find(needle, begin, end) >= 0:
                        return True
        return False

    @contextmanager
    def _exported(self) -> Iterator[Path]:
        pid_file = self._log.with_name("pid")
        started = subprocess.Popen(
            [
                "qemu-storage-daemon",
                *("--blockdev", f"driver=file,node-name=image,filename={self._image}"),
                *("--blockdev", f"driver=file,node-name=log,filename={self._log}"),
                *("--blockdev", "driver=blklogwrites,node-name=logged,file=image,log=log"),
                *("--export", f"type=fuse,id=export,node-name=logged,mountpoint={self._device},writable=on"),
                *("--pidfile", pid_file),
            ]
        )
        try:
            eventually(lambda: pid_file.exists() or started.poll() is not None)
            assert started.poll() is None, "qemu-storage-daemon ended"
            yield self._device
        finally:
            started.send_signal(signal.SIGTERM)
            assert started.wait(PATIENCE_S) == 0

    def _requests(self) -> Iterator[Request]:
        with self._log.open("rb") as log:
            magic, version, count, size = _SUPER.unpack(log.read(_SUPER.size))
            assert (magic, version, size) == (_MAGIC, 1, SECTOR)
            position = SECTOR
            for _ in range(count):
                log.seek(position)
                sector, sectors, flags, _ = _ENTRY.unpack(log.read(_ENTRY.size))
                assert not flags & _DISCARD, "the file system was made and mounted without discard"
                position += SECTOR
                yield Request(position, sector * SECTOR, sectors * SECTOR, bool(flags & _FLUSH))
                position += sectors * SECTOR


def _data(file, offset: int) -> int | None:
    """Where the file's next data begins."""
    try:
        return os.lseek(file.fileno(), offset, os.SEEK_DATA)
    except OSError:
        return None


def _write(target, log, request: Request, size: int) -> None:
    log.seek(request.position)
    target.seek(request.offset)
    shutil.copyfileobj(_Part(log, size), target)


class _Part:
    """The next `size` bytes of a file."""

    def __init__(self, file, size: int) -> None:
        self._file, self._left = file, size

    def read(self, wanted: int) -> bytes:
        data = self._file.read(min(wanted, self._left))
        self._left -= len(data)
        return data


@contextmanager
def looped(path: Path) -> Iterator[str]:
    """A loop device over the file."""
    done = subprocess.run(
        ["losetup", "--find", "--show", path], check=True, stdout=subprocess.PIPE, text=True
    )
    device = done.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@contextmanager
def mounted(device: str, place: Path) -> Iterator[None]:
    kind = subprocess.run(
        ["blkid", "-o", "value", "-s", "TYPE", device], capture_output=True, check=True
    ).stdout
    # a state of an XFS has the UUID of the original, which another test's mount namespace may have still
    options = "nodiscard,nouuid" if kind.strip() == b"xfs" else "nodiscard"
    subprocess.run(["mount", "-o", options, device, place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)
