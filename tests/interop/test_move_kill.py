"""A move in a process of its own, killed at system calls that change files: one VM is left, with all data.

strace ends the process as it enters the call. The next start on both datastores finishes what was begun.
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

from ioflt.datastore import resume
from ioflt.datastore.volume import Volume
from ioflt.keys.native.store import NativeStore
from ioflt.testing.local_keys import LocalKeys
from ioflt.types import HomeState
from tests.unit.datastore.stored import VMX, Stored
from tests.unit.datastore.test_lifecycle import contents

pytestmark = [pytest.mark.interop("strace"), pytest.mark.slow]

WORKER = Path(__file__).parent / "move_worker.py"
CALLS = "pwrite64,fsync,linkat,unlinkat,rename,renameat,renameat2,rmdir,mkdirat"


class Rig:
    """Two datastores that are copied for each point, and keys that stay."""

    def __init__(self, directory: Path, provider: str | None) -> None:
        self.directory = directory
        self.provider = provider
        self.keys_at = directory / "keys"
        self.keys_at.mkdir()
        stored = Stored(self.keys_at)
        store = NativeStore(self.keys_at / "state" / "providers")
        store.create("corp")
        store.mark_backed_up("corp")
        stored.put("web.vmx", VMX)
        stored.put("disk.raw", b"data" * 1000)
        self.plain = contents(stored.volume, "web")
        stored.volume.close()
        Volume.init(self.keys_at / "other", HomeState.ENCRYPTED, stored.keys, provider="local")
        stored.keys.close()
        self.points = 0

    def copy(self) -> tuple[Path, Path]:
        self.points += 1
        made = self.directory / f"point{self.points}"
        made.mkdir()
        for name in ("ds", "other"):
            subprocess.run(["cp", "-a", "--sparse=always", self.keys_at / name, made / name], check=True)
        return made / "ds", made / "other"

    def work(self, datastore: Path, other: Path, *strace: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *("strace", "-f", "-qq", "-o", self.directory / "trace"),
                *("-e", f"trace={CALLS}", *strace),
                *(sys.executable, WORKER, self.keys_at, datastore, other),
                *([self.provider] if self.provider else []),
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
        """How often a whole run makes each call; strace counts anew for programs that it runs."""
        done = self.work(*self.copy())
        assert done.returncode == 0, done.stderr
        trace = (self.directory / "trace").read_text()
        return Counter(re.findall(rf"^{trace.split()[0]} +(\w+)\(", trace, re.MULTILINE))


def judge(rig: Rig, datastore: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the one VM is that is left, and whether it needed a start to be so."""
    monkeypatch.setenv("IOFLT_HOME", str(rig.home))
    with LocalKeys(rig.keys_at) as keys:
        with Volume.open(datastore, keys) as source, Volume.open(other, keys) as target:
            usable = [
                (volume.path, name)
                for volume in (source, target)
                for name in volume.homes()
                if volume.home(name).standing().problem is None
            ]
            assert len(usable) <= 1  # never two; none for the moment in which the old one has given way
            begun = len(source.homes() + target.homes()) != len(usable)
            resume.interrupted(target)
            resume.interrupted(source)
        with Volume.open(datastore, keys) as source, Volume.open(other, keys) as target:
            left = [(volume, name) for volume in (source, target) for name in volume.homes()]
            ((volume, name),) = left
            home = volume.home(name)
            assert home.standing().problem is None
            assert home.standing().record is not None
            assert contents(volume, name) == rig.plain
            where = "moved" if volume is target else "stayed"
    shutil.rmtree(datastore.parent)
    return f"{where} by the next start" if begun else where


@pytest.mark.parametrize("provider", [None, "corp"], ids=["by copying", "by renaming, to another key"])
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.long)])
def test_killed_at_calls(
    tmp_path: Path, ioflt_home: Path, provider: str | None, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path, provider)
    points = [(name, number) for name, count in rig.calls().items() for number in range(1, count + 1)]
    assert len(points) > 30
    found = Counter[str]()
    for name, number in points[::step]:
        places = rig.copy()
        done = rig.work(*places, "-e", f"inject={name}:signal=SIGKILL:when={number}")
        assert done.returncode in (-9, 137), (name, number, done.stderr)
        found[judge(rig, *places, monkeypatch)] += 1
    assert found["stayed"]
    assert found["moved"] + found["moved by the next start"]
