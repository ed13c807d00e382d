"""Backups killed at system calls of their process: what is there is whole, and the same command goes on."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ioflt.datastore.volume import Volume
from ioflt.keys.client import KeyClient
from tests.interop.rig import PLAIN, Point, Rig
from tests.mounted.place import Place
from tests.unit.datastore.test_lifecycle import contents

pytestmark = [pytest.mark.interop("strace"), pytest.mark.slow]

#: Runs of each command in `make test`.
SOME = 2


@dataclass(frozen=True)
class Job:
    """A command of `backup`: `prepare` comes before, `points` are those that there may be afterwards."""

    prepare: tuple[tuple[str, ...], ...]
    command: tuple[str, ...]
    points: frozenset[int]


RUN = ("run", "WEB", "DEST", "--ciphertext")
MORE = (*RUN, "--incremental")
JOBS = {
    "run": Job((RUN,), MORE, frozenset({1, 2})),
    "prune": Job((RUN, MORE, MORE), ("prune", "DEST", "--keep-last", "1"), frozenset({1, 2, 3})),
    "restore": Job((("run", "WEB", "DEST"),), ("restore", "DEST", "FAR"), frozenset({1})),
}


@pytest.fixture
def rig(place: Place) -> Iterator[Rig]:
    far = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="ioflt-far-"))
    try:
        yield Rig(place, far)
    finally:
        shutil.rmtree(far)


class Backups:
    """The destinations of a rig, as they are before each run of a command."""

    def __init__(self, rig: Rig, job: Job) -> None:
        self.rig, self.job = rig, job
        self.dest = rig.place.base / "dest"
        self.saved = rig.place.base / "dest-saved"
        rig.restore()
        for command in job.prepare:
            rig.place.ioflt("backup", *self.words(command))
        shutil.copytree(self.dest, self.saved, symlinks=True)

    def words(self, command: tuple[str, ...]) -> list[object]:
        places = {"WEB": self.rig.near / "web", "DEST": self.dest, "FAR": self.rig.far}
        return [places.get(word, word) for word in command]

    @property
    def arguments(self) -> list[object]:
        return ["backup", *self.words(self.job.command)]

    def restore(self) -> None:
        self.rig.restore()
        shutil.rmtree(self.dest)
        shutil.copytree(self.saved, self.dest, symlinks=True)

    def names(self) -> list[str]:
        listed = self.rig.place.ioflt("backup", "list", self.dest, "--json").stdout
        return [each["point"] for each in json.loads(listed)]

    def look(self) -> None:
        """All points are whole; the VMs that there are have all files."""
        self.rig.place.ioflt("backup", "verify", self.dest)
        with KeyClient.connect() as keys:
            for top in (self.rig.near, self.rig.far):
                with Volume.open(top, keys, read_only=True) as volume:
                    for name in volume.homes():
                        assert contents(volume, name).keys() == PLAIN.keys(), f"{top}/{name}"


def kills(rig: Rig, backups: Backups) -> list[Point]:
    """All points of a whole run at which it may be killed."""
    found = [point for point in rig.points(backups.arguments) if point.how == "SIGKILL"]
    backups.restore()
    return found


@pytest.mark.parametrize("name", JOBS)
def test_some_kills(rig: Rig, name: str, record_property: Callable[[str, object], None]) -> None:
    backups = Backups(rig, JOBS[name])
    backups.restore()
    points = kills(rig, backups)
    step = -(-len(points) // SOME)
    record_property("figures", f"{len(points)} points")
    for point in points[step // 2 :: step]:
        backups.restore()
        rig.run(backups.arguments, "-e", f"trace={point.call}", "-e", point.injection)
        assert len(backups.names()) in JOBS[name].points, point
        backups.look()
        again = rig.run(backups.arguments, "-e", "trace=none")
        assert again.returncode == 0 or "is there already" in again.stderr, f"{point}: {again.stderr}"
        backups.look()
        assert not [*backups.dest.rglob(".part-*"), *backups.dest.rglob(".old-*")], point
