"""A deep recrypt in a process of its own: killed at each system call that changes a file, or failed there.

strace ends the process as it enters the call, or has the call fail. Then the recrypt is resumed, and every
byte must be right; nothing clear is on the datastore.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from ioflt.datastore import check, resume
from ioflt.datastore.container import Container
from ioflt.datastore.vmx import VmxFile
from ioflt.datastore.volume import Volume
from ioflt.testing.local_keys import LocalKeys
from tests.unit.datastore.stored import VMX, Stored

pytestmark = [pytest.mark.interop("strace"), pytest.mark.slow]

WORKER = Path(__file__).parent / "deep_worker.py"
CANARY = b"the canary sings"
CALLS = (
    "pwrite64,pwritev,ftruncate,fallocate,fsync,fdatasync,linkat,link,unlink,unlinkat,rename,renameat,"
    "renameat2,mkdir,mkdirat,utimensat,fchmod,fchown"
)
CONTENTS = {
    "disk.raw": CANARY * 5000 + b"odd",
    "sparse.raw": CANARY + bytes(200_000) + CANARY,
}


class Rig:
    """A datastore that is copied for each point, and keys that stay."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.keys_at = directory / "keys"
        self.keys_at.mkdir()
        stored = Stored(self.keys_at)
        stored.put("web.vmx", VMX)
        stored.put("disk.raw", CONTENTS["disk.raw"])
        stored.put("sparse.raw", CANARY)
        fd = os.open(stored.path("sparse.raw"), os.O_RDWR)
        with stored.keys, stored.volume:
            file = Container.open(fd, stored.keys, writable=True)
            file.write(200_000 + len(CANARY), CANARY)
            file.sync(data_only=False)
            file.close()
        self.points = 0

    def copy(self) -> Path:
        self.points += 1
        made = self.directory / f"ds{self.points}"
        subprocess.run(["cp", "-a", "--sparse=always", self.keys_at / "ds", made], check=True)
        return made

    def work(self, datastore: Path, mode: str, *strace: str) -> subprocess.CompletedProcess[str]:
        home = self.directory / f"home{self.points}"
        return subprocess.run(
            [
                *("strace", "-f", "-qq", "-o", self.directory / "trace"),
                *("-e", f"trace={CALLS}", *strace),
                *(sys.executable, WORKER, self.keys_at, datastore, mode),
            ],
            env=os.environ | {"IOFLT_HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self, mode: str) -> Counter[str]:
        """How often a whole run makes each call."""
        done = self.work(self.copy(), mode)
        assert done.returncode == 0, done.stderr
        trace = (self.directory / "trace").read_text()
        return Counter(re.findall(r"^\d+ +(\w+)\(", trace, re.MULTILINE))


@pytest.fixture
def rig(tmp_path: Path, ioflt_home: Path) -> Rig:
    return Rig(tmp_path)


def judge(rig: Rig, datastore: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resume, then look at everything."""
    monkeypatch.setenv("IOFLT_HOME", str(rig.directory / f"home{rig.points}"))
    with LocalKeys(rig.keys_at) as keys:
        with Volume.open(datastore, keys) as volume:
            under_way = volume.home("web").standing().record.operation is not None
            assert resume.interrupted(volume) == ([("web", "deep recrypt")] if under_way else [])
            assert volume.home("web").standing().problem is None
        for name, contents in CONTENTS.items():
            path = datastore / "web" / name
            file = Container.open(os.open(path, os.O_RDONLY), keys, writable=False)
            assert bytes(file.read(0, 1 << 20)) == contents, name
            file.close()
        assert (datastore / "web" / "sparse.raw").stat().st_blocks * 512 < 150_000
        fd = os.open(datastore / "web" / "web.vmx", os.O_RDONLY)
        vmx = VmxFile(fd, keys, writable=False, place=lambda: None)
        assert bytes(vmx.read(0, 4096)) == VMX
        vmx.close()
        report = check.run(datastore, keys)
        wrong = [entry for entry in report.entries if entry.finding and entry.state != "draft"]
        assert not wrong
    for path in datastore.rglob("*"):
        if path.is_file():
            assert CANARY not in path.read_bytes()
    subprocess.run(["rm", "-rf", datastore], check=True)


#: Every third point, or all: some hundred, each half a second or more.
STEPS = pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.long)])


@STEPS
@pytest.mark.parametrize("mode", ["copy", "journal"])
def test_killed_at_every_call(rig: Rig, mode: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [(name, number) for name, count in rig.calls(mode).items() for number in range(1, count + 1)]
    assert len(points) > 40
    for name, number in points[::step]:
        datastore = rig.copy()
        done = rig.work(datastore, mode, "-e", f"inject={name}:signal=SIGKILL:when={number}")
        assert done.returncode in (-9, 137), (name, number, done.stderr)
        judge(rig, datastore, monkeypatch)


@STEPS
@pytest.mark.parametrize("mode", ["copy", "journal"])
@pytest.mark.parametrize(
    ("error", "names"),
    [
        ("EIO", ("fsync", "pwrite64", "fallocate", "linkat", "rename", "renameat", "unlink", "unlinkat")),
        ("ENOSPC", ("pwrite64", "fallocate", "ftruncate", "linkat")),
    ],
)
def test_errors_at_every_call(
    rig: Rig, mode: str, error: str, names: tuple[str, ...], step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = rig.calls(mode)
    points = [(name, number) for name in names for number in range(1, counts[name] + 1)]
    assert len(points) > 8
    for name, number in points[::step]:
        datastore = rig.copy()
        done = rig.work(datastore, mode, "-e", f"inject={name}:error={error}:when={number}")
        assert done.returncode in (0, 1), (name, number, done.stderr)
        if done.returncode:
            assert os.strerror(getattr(errno, error)) in done.stderr
        judge(rig, datastore, monkeypatch)
