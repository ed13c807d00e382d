"""An erase in a process of its own, killed at each system call that changes a file, or failed there.

strace ends the process as it enters the call, or has the call fail. The VM is then untouched, or hidden and
erased by the next start: in the blocks that its files had, nothing is left that opens one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from ioflt.datastore import erase, resume
from ioflt.datastore.volume import Volume
from ioflt.testing.local_keys import LocalKeys
from tests.unit.datastore.stored import VMX, Stored
from tests.unit.datastore.test_erase import Held, is_wiped

pytestmark = [pytest.mark.interop("strace"), pytest.mark.slow]

WORKER = Path(__file__).parent / "erase_worker.py"
CALLS = "pwrite64,fsync,unlink,unlinkat,rename,renameat,renameat2,rmdir,mkdir,mkdirat"


class Rig:
    """A datastore that is copied for each point, and keys that stay."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.keys_at = directory / "keys"
        self.keys_at.mkdir()
        stored = Stored(self.keys_at)
        stored.put("web.vmx", VMX)
        stored.put("disk.raw", b"data" * 1000)
        stored.volume.close()
        stored.keys.close()
        self.points = 0

    def copy(self) -> Path:
        self.points += 1
        made = self.directory / f"ds{self.points}"
        subprocess.run(["cp", "-a", "--sparse=always", self.keys_at / "ds", made], check=True)
        return made

    def work(self, datastore: Path, *strace: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *("strace", "-f", "-qq", "-o", self.directory / "trace"),
                *("-e", f"trace={CALLS}", *strace),
                *(sys.executable, WORKER, self.keys_at, datastore),
            ],
            env=os.environ | {"IOFLT_HOME": str(self.home), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def home(self) -> Path:
        return self.directory / f"home{self.points}"

    def calls(self) -> Counter[str]:
        """How often a whole run makes each call."""
        datastore = self.copy()
        done = self.work(datastore)
        assert done.returncode == 0, done.stderr
        assert os.listdir(datastore / ".ioflt.d") == []
        trace = (self.directory / "trace").read_text()
        return Counter(re.findall(r"^\d+ +(\w+)\(", trace, re.MULTILINE))


@pytest.fixture
def rig(tmp_path: Path, ioflt_home: Path) -> Rig:
    return Rig(tmp_path)


def judge(rig: Rig, datastore: Path, held: Held, monkeypatch: pytest.MonkeyPatch) -> str:
    """How far it was. It is finished, by the next start or, where it had not begun, by a second erase."""
    monkeypatch.setenv("IOFLT_HOME", str(rig.home))
    with LocalKeys(rig.keys_at) as keys, Volume.open(datastore, keys) as volume:
        if volume.homes():
            assert held.after() == held.before
            assert resume.interrupted(volume) == []
            erase.erase(volume, "web")
            how = "untouched"
        else:
            finished = resume.interrupted(volume)
            how = "hidden" if finished else "done"
        assert volume.homes() == []
    assert is_wiped(held)
    assert os.listdir(datastore / ".ioflt.d") == []
    held.close()
    shutil.rmtree(datastore)
    return how


@pytest.mark.parametrize("step", [2, pytest.param(1, marks=pytest.mark.long)])
def test_killed_at_every_call(rig: Rig, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [(name, number) for name, count in rig.calls().items() for number in range(1, count + 1)]
    assert len(points) > 10
    found = Counter[str]()
    for name, number in points[::step]:
        datastore = rig.copy()
        held = Held(datastore / "web")
        done = rig.work(datastore, "-e", f"inject={name}:signal=SIGKILL:when={number}")
        assert done.returncode in (-9, 137), (name, number, done.stderr)
        found[judge(rig, datastore, held, monkeypatch)] += 1
    assert found["untouched"]
    assert found["hidden"]


@pytest.mark.long
def test_errors_at_every_call(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = rig.calls()
    for name in ("pwrite64", "fsync", "unlink", "unlinkat", "rename"):
        for number in range(1, counts[name] + 1):
            datastore = rig.copy()
            held = Held(datastore / "web")
            done = rig.work(datastore, "-e", f"inject={name}:error=EIO:when={number}")
            assert done.returncode in (0, 1), (name, number, done.stderr)
            judge(rig, datastore, held, monkeypatch)
