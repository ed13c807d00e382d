"""Commands that work on a VM, each in a process of its own, ended or failed at one of its system calls.

strace ends the process as it enters the call, or has the call fail. Calls that only look are no points for a
kill: on the medium it is the same as at the next one that changes something.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ioflt import paths
from ioflt.datastore import check, files, resume
from ioflt.datastore.standing import Treatment
from ioflt.datastore.volume import Volume
from ioflt.format.record import record as form
from ioflt.format.record.record import HomeRecord
from ioflt.keys.client import KeyClient
from tests.mounted.place import Place
from tests.unit.datastore.stored import VMX
from tests.unit.datastore.test_lifecycle import contents

CANARY = b"the canary sings"


def _descriptor(name: str) -> bytes:
    lines = (
        "# Disk DescriptorFile",
        "version=1",
        "CID=1",
        'createType="vmfs"',
        f'RW 62 VMFS "{name}-flat.vmdk"',
    )
    return "\n".join((*lines, "")).encode()


PLAIN = {
    "disk.vmdk": _descriptor("disk"),
    "disk-flat.vmdk": CANARY * 5000 + b"odd",
    "clear.vmdk": _descriptor("clear"),
    "clear-flat.vmdk": b"nobody's secret " * 2000,
    "sparse.raw": CANARY + bytes(200_000) + CANARY,
    "web.vmx": VMX + b'annotation = "' + CANARY + b'"\n',
}

#: Calls that change what is on a medium, or tell somebody.
_CHANGES = (
    *("write", "pwrite64", "pwritev", "ftruncate", "fallocate", "copy_file_range", "sendfile"),
    *("fsync", "fdatasync", "link", "linkat", "unlink", "unlinkat", "rename", "renameat", "renameat2"),
    *("mkdir", "mkdirat", "rmdir", "symlinkat", "utimensat", "fchmod", "fchmodat", "fchown", "fchownat"),
)

#: How a point is hit, and at which calls. No space is what a disk has where something is to be stored.
_HOWS = {
    "SIGKILL": _CHANGES,
    "EIO": (*_CHANGES, "pread64"),
    "ENOSPC": ("write", "pwrite64", "fallocate", "copy_file_range", "fsync", "linkat", "mkdir", "mkdirat"),
}


@dataclass(frozen=True, slots=True)
class Point:
    """The `number`-th call of that name, from 1, and what becomes of it."""

    how: str
    call: str
    number: int

    @property
    def injection(self) -> str:
        what = f"signal={self.how}" if self.how.startswith("SIG") else f"error={self.how}"
        return f"inject={self.call}:{what}:when={self.number}"


class Rig:
    """`near` with the VM `web`, `other` on the same file system, `far` on another one.

    All are as they were at each `restore`, and the host has seen none of them.
    """

    def __init__(self, place: Place, far: Path) -> None:
        self.place = place
        self.near, self.other, self.far = place.datastore, place.base / "other", far / "ds"
        self._saved = place.base / "saved"
        place.ioflt("datastore", "init", self.other, "--encrypt")
        place.ioflt("datastore", "init", self.far, "--encrypt")
        self._fill()
        place.ioflt("vm", "decrypt", self.near / "web", "--disk", "clear.vmdk")
        self._saved.mkdir()
        for top in self.tops:
            _copy(top, self._saved / top.parent.name / top.name)
        self.record = read_record(self.near / "web")

    @property
    def tops(self) -> tuple[Path, Path, Path]:
        return self.near, self.other, self.far

    def _fill(self) -> None:
        with KeyClient.connect() as keys, Volume.open(self.near, keys) as volume:
            home = volume.make_home("web", 0o755)
            for name, data in PLAIN.items():
                fd = files.create(home, home.fd, name, mode=0o644)
                kind = Treatment.VMX if name.endswith(".vmx") else Treatment.CONTAINER
                place = (home.fd, home.fd, name)
                file = files.open_file(home, fd, kind, writable=True, place=lambda place=place: place)
                for at, piece in _pieces(data):
                    file.write(at, piece)
                file.sync(data_only=False)
                file.close()

    def restore(self) -> None:
        for top in self.tops:
            shutil.rmtree(top, ignore_errors=True)
            _copy(self._saved / top.parent.name / top.name, top)
        where = paths.find()
        for seen in (where.homes, where.operations):
            shutil.rmtree(seen, ignore_errors=True)
        where.ensure()

    def run(self, arguments: Sequence[object], *strace: str) -> subprocess.CompletedProcess[str]:
        script = str(arguments[0]).endswith(".py")
        command = [sys.executable, *([] if script else ["-m", "ioflt"]), *map(str, arguments)]
        options = ["strace", "-f", "-qq", "-o", self.place.base / "trace", *strace]
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [*options, *command], env=environment, capture_output=True, text=True, check=False
        )

    def points(self, arguments: Sequence[object]) -> list[Point]:
        """All of a whole run, kills first."""
        self.restore()
        names = sorted({name for some in _HOWS.values() for name in some})
        done = self.run(arguments, "-e", f"trace={','.join(names)}")
        assert done.returncode == 0, done.stderr
        trace = (self.place.base / "trace").read_text()
        calls = Counter(re.findall(rf"^{trace.split()[0]} +(\w+)\(", trace, re.MULTILINE))
        return [
            Point(how, call, number)
            for how, names in _HOWS.items()
            for call in sorted(names)
            for number in range(1, calls[call] + 1)
        ]


@dataclass(frozen=True)
class Operation:
    """A command: `arguments` of ioflt, or a script and its own. `done`: it was, and nothing is under way.

    `clear`: files of which it may leave something clear. `readable`: whether each VM that has a name is whole
    at any time, before anybody resumed anything. `renames`: the old and the new name of one of its files.
    `watch`: looks at the VM before; what it returns is called in the end.
    """

    name: str
    arguments: Callable[[Rig], Sequence[object]]
    done: Callable[[Rig], bool]
    clear: frozenset[str] = frozenset()
    readable: bool = True
    renames: tuple[str, str] | None = None
    watch: Callable[[Rig], Callable[[], None]] | None = None


@dataclass(slots=True)
class Tally:
    """What a test did."""

    points: int = 0
    runs: int = 0
    missed: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.points} points, {self.runs} runs, {self.missed} not reached, {self.seconds:.0f} s"


def hit(rig: Rig, operation: Operation, points: Sequence[Point], tally: Tally) -> None:
    """Run the command once for each of the points, and judge what it left; all failures in the end, or 10."""
    begun = time.monotonic()
    failures: list[Exception] = []
    for point in points:
        try:
            _hit(rig, operation, point, tally)
        except Exception as error:
            error.add_note(f"{operation.name} at {point}")
            failures.append(error)
            if len(failures) == 10:
                break
    tally.seconds = time.monotonic() - begun
    if failures:
        raise ExceptionGroup(f"{operation.name}: {tally}", failures)


def _hit(rig: Rig, operation: Operation, point: Point, tally: Tally) -> None:
    rig.restore()
    watched = None if operation.watch is None else operation.watch(rig)
    ended = rig.run(operation.arguments(rig), "-e", f"trace={point.call}", "-e", point.injection)
    tally.runs += 1
    if point.how == "SIGKILL":
        tally.missed += ended.returncode not in (-9, 137)
    else:
        tally.missed += "(INJECTED)" not in (rig.place.base / "trace").read_text()
        assert ended.returncode >= 0
    assert "Traceback" not in ended.stderr, ended.stderr
    with KeyClient.connect() as keys:
        if operation.readable:
            _look(rig, operation, keys)
        for top in rig.tops:
            with Volume.open(top, keys) as volume:
                resume.interrupted(volume)
    if not operation.done(rig):  # nothing was begun, or it goes on by the command only
        again = rig.run(operation.arguments(rig), "-e", "trace=none")
        assert again.returncode == 0, again.stderr
        assert operation.done(rig)
    with KeyClient.connect() as keys:
        _look(rig, operation, keys)
        for top in rig.tops:
            report = check.run(top, keys)
            wrong = [one for one in report.entries if one.finding and one.state != "draft"]
            assert not wrong, wrong
    for top in rig.tops:
        for path in top.rglob("*"):
            if path.is_file() and path.name not in operation.clear:
                assert CANARY not in path.read_bytes(), path
            if path.name == "sparse.raw":
                assert path.stat().st_blocks * 512 < len(PLAIN["sparse.raw"]), path
    if watched is not None:
        watched()


def _look(rig: Rig, operation: Operation, keys: KeyClient) -> None:
    """Every VM that there is has all files, as they were."""
    whole = [PLAIN]
    if operation.renames is not None:
        old, new = operation.renames
        whole.append({new if name == old else name: data for name, data in PLAIN.items()})
    for top in rig.tops:
        with Volume.open(top, keys, read_only=True) as volume:
            for name in volume.homes():
                assert contents(volume, name) in whole, f"{top}/{name}"


def read_record(home: Path) -> HomeRecord:
    return form.parse_home((home / ".ioflt").read_bytes()).record


def _pieces(data: bytes) -> list[tuple[int, bytes]]:
    """What is written of it, so that the hole of the sparse one is a hole."""
    if bytes(100_000) not in data:
        return [(0, data)] if data else []
    return [(0, CANARY), (len(data) - len(CANARY), CANARY)]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    subprocess.run(["cp", "-a", "--sparse=always", source, target], check=True)
