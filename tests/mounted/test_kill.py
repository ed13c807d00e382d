"""SIGKILL of the mount in the middle of writing: nothing that was synced is lost, lengths are exact."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.mounted.place import Place
from tests.mounted.writer import content
from tests.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.fuse

WRITER = Path(__file__).with_name("writer.py")

#: Seconds of the longest life of a mount here.
LIFE_S = 0.4


@dataclass
class Told:
    """What a writer's log says of its file: bytes that are certain, bytes that may be either, lengths."""

    data: bytearray = field(default_factory=bytearray)
    #: Writes after the last fsync that returned: each may be there, in parts or not at all.
    open_writes: list[tuple[int, int, int]] = field(default_factory=list)

    def read(self, log: Path) -> int:
        """Take in a log; the number of fsyncs that returned."""
        acknowledged = 0
        for line in log.read_bytes().splitlines(keepends=True) if log.exists() else []:
            if not line.endswith(b"\n"):
                continue
            kind, *words = line.split()
            if kind == b"try":
                offset, length, seed = (int(part) for part in words[0].split(b":"))
                self.open_writes.append((offset, length, seed))
                continue
            acknowledged += 1
            for word in words[1:]:
                self._put(*(int(part) for part in word.split(b":")))
            assert len(self.data) == int(words[0])
            self.open_writes.clear()
        return acknowledged

    def _put(self, offset: int, length: int, seed: int) -> None:
        end = offset + length
        if end > len(self.data):
            self.data.extend(bytes(end - len(self.data)))
        self.data[offset:end] = content(seed, length)

    def check(self, found: bytes) -> None:
        """Everything certain is there; the length is the last synced, or one that an open write made."""
        ends = [offset + length for offset, length, _ in self.open_writes]
        longest = max([len(self.data), *ends])
        assert len(self.data) <= len(found) <= longest
        certain = bytearray(longest)
        certain[: len(self.data)] = self.data
        for offset, length, _ in self.open_writes:
            certain[offset : offset + length] = found[offset : offset + length].ljust(length, b"\0")
        assert memoryview(found) == memoryview(certain)[: len(found)], "synced bytes differ"
        self.data = bytearray(found)
        self.open_writes.clear()


def run_kills(place: Place, kills: int, seed: int) -> int:
    """Kill the mount so many times while writers of three files are at work; fsyncs that returned."""
    dice = random.Random(seed)
    place.make_homes()
    place.mount()
    files = [Path("thin/disk"), Path("thick/disk"), Path("tagged/disk"), Path("thin/vm.nvram")]
    told = {file: Told() for file in files}
    for file in files:
        (place.mountpoint / file).touch()
    acknowledged = 0
    for round_number in range(kills):
        logs = {file: place.base / f"log-{file.name}-{file.parent}" for file in files}
        writers = [
            subprocess.Popen(
                [sys.executable, WRITER, place.mountpoint / file, logs[file], str(dice.getrandbits(30))]
            )
            for file in files
        ]
        eventually(lambda logs=logs: all(log.exists() for log in logs.values()))
        time.sleep(dice.random() * LIFE_S)
        place.kill()
        for writer in writers:
            assert writer.wait(timeout=PATIENCE_S) == 0
        place.mount()
        for file in files:
            acknowledged += told[file].read(logs[file])
            try:
                told[file].check((place.mountpoint / file).read_bytes())
            except AssertionError as error:
                raise AssertionError(f"{file}, kill {round_number} of seed {seed}: {error}") from error
            logs[file].unlink(missing_ok=True)
        assert place.complaints() == []
    (place.mountpoint / "clear").rmdir()
    place.umount()
    place.ioflt("check", "--data", place.datastore)
    assert not [*place.datastore.glob("*/.ioflt.d/new-*")]
    return acknowledged


def test_25_kills(place: Place) -> None:
    assert run_kills(place, 25, 1) > 25


@pytest.mark.long
def test_1000_kills(place: Place) -> None:
    assert run_kills(place, 1000, time.time_ns()) > 1000
