"""SIGKILL of the mount, whatever it does to files with tags: all verifies, and what was synced is there."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mounted.place import Place
from tests.mounted.shaker import replay
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

SHAKER = Path(__file__).with_name("shaker.py")
ROOT = Path(__file__).parents[2]

#: Operations, at most, after which a mount is killed.
MOST = 150

Operation = tuple[str, int, int, int]


def told(log: Path) -> list[list[Operation]]:
    """The operations of a log, of each fsync that returned; last those that were never synced."""
    groups: list[list[Operation]] = [[]]
    for line in log.read_text().splitlines(keepends=True):
        words = line.split()
        if not line.endswith("\n"):
            continue
        if words == ["ack"]:
            groups.append([])
        else:
            groups[-1].append((words[1], int(words[2]), int(words[3]), int(words[4])))
    return groups


def check(found: bytes, data: bytearray, unsynced: list[Operation]) -> None:
    """`data` was synced; of what came then all may be there, in parts or not at all."""
    lengths, unsure = {len(data)}, []
    now = bytearray(data)
    for operation in unsynced:
        kind, offset, length, _ = operation
        unsure.append((offset, offset + length) if kind != "cut" else (min(offset, len(now)), len(found)))
        replay(now, *operation)
        lengths.add(len(now))
    assert len(found) in lengths
    data.extend(bytes(max(0, len(found) - len(data))))
    wanted = data[: len(found)]
    for start, end in unsure:
        wanted[start:end] = found[start:end]
    assert memoryview(found) == memoryview(wanted), "synced bytes differ"
    data[:] = found


def run(place: Place, kills: int, seed: int) -> None:
    dice = random.Random(seed)
    place.make_homes()
    place.mount()
    names = ("disk", "another")
    contents = {name: bytearray() for name in names}
    for name in names:
        (place.mountpoint / "tagged" / name).touch()
    synced = 0
    for number in range(kills):
        logs = {name: place.base / f"log-{name}" for name in names}
        shakers = [
            subprocess.Popen(
                [sys.executable, SHAKER, place.mountpoint / "tagged" / name, log, str(dice.getrandbits(30))],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            for name, log in logs.items()
        ]
        most = dice.randint(1, MOST)
        place.kill_when(lambda logs=logs, most=most: any(_lines(log) >= most for log in logs.values()))
        for shaker in shakers:
            assert shaker.wait(timeout=PATIENCE_S) == 0
        if dice.random() < 0.3:  # before anybody writes, and heals
            place.ioflt("check", "--data", place.datastore / "tagged")
        place.mount()
        for name, log in logs.items():
            *done, unsynced = told(log)
            synced += len(done)
            for operations in done:
                for operation in operations:
                    replay(contents[name], *operation)
            try:
                check((place.mountpoint / "tagged" / name).read_bytes(), contents[name], unsynced)
            except AssertionError as error:
                raise AssertionError(f"{name}, kill {number} of seed {seed}: {error}") from error
            log.unlink()
        assert place.complaints() == []
    place.umount()
    place.ioflt("check", "--data", place.datastore / "tagged")
    assert synced


def _lines(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


def test_8_kills(place: Place) -> None:
    run(place, 8, 1)


@pytest.mark.long
def test_500_kills(place: Place) -> None:
    run(place, 500, time.time_ns())
