"""Backups of ciphertext while somebody writes through the mount: one moment of both disks, a short hold."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ioflt import syscalls
from ioflt.format.luks2.layout import DATA_OFFSET
from tests.machine import ROOT, Machine, User
from tests.mounted.place import Place
from tests.waiting import eventually

pytestmark = [pytest.mark.fuse]

BLOCK = 4096
SIZE = 48 << 20


Step = tuple[str, int, int]


def steps(number: int) -> list[Step]:
    """What a writer does to disk `number % 2`, each at once: what, at which byte, how many. Last it notes the
    number in the first block.
    """
    chance = random.Random(number)
    start = chance.randrange(2, SIZE // BLOCK) * BLOCK
    note = ("write", 0, 8)
    if number % 20 == 0:
        return [("punch", start, min(40 * BLOCK, SIZE - start)), note]
    if number % 300 == 1:
        return [("cut", max(start, SIZE - (4 << 20)), 0), ("cut", SIZE, 0), note]
    return [("write", start, BLOCK), note]


def make(fd: int, step: Step, number: int) -> None:
    what, start, length = step
    if what == "write":
        os.pwrite(fd, number.to_bytes(8, "little") * (length // 8), start)
    elif what == "punch":
        syscalls.fallocate(fd, syscalls.FALLOC_FL_PUNCH_HOLE | syscalls.FALLOC_FL_KEEP_SIZE, start, length)
    else:
        os.ftruncate(fd, start)


def imagine(disk: bytearray, step: Step, number: int) -> None:
    """The same, to what a disk has in memory."""
    what, start, length = step
    if what == "cut":
        del disk[start:]
        disk.extend(bytes(start - len(disk)))
    else:
        disk[start : start + length] = (number if what == "write" else 0).to_bytes(8, "little") * (
            length // 8
        )


def is_prefix(found: list[bytes]) -> bool:
    """Whether both disks are as the writer had them at one moment."""
    last = max(int.from_bytes(disk[:8], "little") for disk in found)
    disks = [bytearray(SIZE), bytearray(SIZE)]
    for number in range(1, last + 1):
        for step in steps(number):
            imagine(disks[number % 2], step, number)
    for step in steps(last + 1):
        if disks == found:
            return True
        imagine(disks[(last + 1) % 2], step, last + 1)
    return disks == found


class Writer:
    """Writes to two disks, one after the other, until it is told to stop. `done`: how often it did; `only`:
    what, each time, in place of `steps`.
    """

    def __init__(self, disks: list[Path]) -> None:
        self.disks = disks
        self.only: list[Step] = []
        self.done = 0
        self._may_fail = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        fds = [os.open(path, os.O_RDWR) for path in self.disks]
        try:
            while not self._stop.is_set():
                for step in self.only or steps(self.done + 1):
                    make(fds[(self.done + 1) % 2], step, self.done + 1)
                self.done += 1
        except OSError:
            if not self._may_fail:
                raise
        finally:
            for fd in fds:
                with suppress(OSError):
                    os.close(fd)

    @contextmanager
    def working(self) -> Iterator[None]:
        self._thread.start()
        try:
            self.goes_on()
            yield
        finally:
            self._stop.set()
            self._thread.join()

    def goes_on(self) -> None:
        """Return once it has written more."""
        now = self.done
        eventually(lambda: self.done > now + 1)

    def expect_end(self) -> None:
        """The mount will be killed."""
        self._may_fail = True


@pytest.fixture(params=["thin", "tagged"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def writer(place: Place, kind: str) -> Writer:
    place.make_homes()
    home = place.mount() / kind
    (home / "web.vmx").write_text('displayName = "web"\n')
    for name in ("a.raw", "b.raw"):
        with (home / name).open("wb") as disk:
            disk.truncate(SIZE)
    return Writer([home / "a.raw", home / "b.raw"])


def patched(patch: str) -> str:
    """The program of a backup that something befalls at one place; all else of it is as it is."""
    script = f"import os, signal, sys\nfrom ioflt.backup import settling\n{patch}\n"
    return script + "from ioflt.cli.main import main\nsys.exit(main())"


def started(place: Place, kind: str, patch: str) -> subprocess.CompletedProcess[str]:
    """Such a backup."""
    arguments = [sys.executable, "-c", patched(patch), *_command(place, kind)]
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


def back_up(place: Place, kind: str, *options: str) -> dict[str, object]:
    return dict(json.loads(place.ioflt(*_command(place, kind), "--json", *options).stdout))


def points(place: Place) -> list[object]:
    return list(json.loads(place.ioflt("backup", "list", place.base / "kept", "--json").stdout))


def restored(place: Place, kind: str, writer: Writer) -> list[bytes]:
    """Both disks as they come back."""
    place.umount()
    shutil.rmtree(place.datastore / kind)
    place.ioflt("backup", "restore", place.base / "kept", place.datastore)
    place.mount()
    return [path.read_bytes() for path in writer.disks]


def _command(place: Place, kind: str) -> list[str]:
    return ["backup", "run", str(place.datastore / kind), str(place.base / "kept"), "--ciphertext"]


@contextmanager
def passing(home: Path) -> Iterator[None]:
    """Small files come, get other names, and go."""
    stop = threading.Event()

    def pass_by() -> None:
        while not stop.is_set():
            (home / "web.log").write_bytes(b"x")
            (home / "web.log").rename(home / "web-1.log")
            (home / "web-1.log").unlink()

    with ThreadPoolExecutor() as pool:
        running = pool.submit(pass_by)
        try:
            yield
        finally:
            stop.set()
        running.result()


def test_both_disks_are_of_one_moment(place: Place, kind: str, writer: Writer) -> None:
    with writer.working(), passing(writer.disks[0].parent):
        told = back_up(place, kind)
        assert (told["consistency"], told["full"]) == ("crash-consistent", True)
        writer.goes_on()
        assert back_up(place, kind, "--incremental")["full"] is False
    place.ioflt("backup", "verify", place.base / "kept")
    assert is_prefix(restored(place, kind, writer))


#: The final pass, as soon as writes are held back, and what is copied in it.
KILLED = """
held = settling.Settled._finish
copy = settling._Large.copy_again
def finish(self, *about):
    settling._Large.copy_again = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    try:
        return held(self, *about)
    finally:
        settling._Large.copy_again = copy
settling.Settled._finish = finish
"""


@pytest.mark.parametrize("kind", ["thin"], indirect=True)
def test_one_that_is_killed_while_writes_are_held_back_lets_them_go_on(
    place: Place, kind: str, writer: Writer
) -> None:
    with writer.working():
        killed = started(place, kind, KILLED)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        writer.goes_on()
        assert points(place) == []
        back_up(place, kind)
        assert len(points(place)) == 1
    left = [path.name for path in (place.base / "kept" / kind).iterdir() if path.name.startswith(".")]
    assert left == []


@pytest.mark.parametrize("kind", ["thin"], indirect=True)
def test_a_mount_that_is_killed_meanwhile_leaves_no_point(place: Place, kind: str, writer: Writer) -> None:
    with writer.working():
        patch = f"gather, mount = settling.Settled._gather, {place.pid}\ndef killing(self):\n"
        patch += "    os.kill(mount, signal.SIGKILL)\n    gather(self)\nsettling.Settled._gather = killing"
        writer.expect_end()
        failed = started(place, kind, patch)
        assert failed.returncode > 0, failed.stderr
        assert "Traceback" not in failed.stderr
    assert not (place.base / "kept" / kind).exists()


#: Prints how many bytes are copied beside the writer, and while writes are held back.
COUNTING = """
import atexit, json
copied, holding = {False: 0, True: 0}, [False]
areas, held = settling._Large.copy_areas, settling.Settled._finish
def copy_areas(self, wanted):
    wanted = list(wanted)
    copied[holding[0]] += sum(area.length for area in wanted)
    areas(self, wanted)
def finish(self, *about):
    holding[0] = True
    try:
        return held(self, *about)
    finally:
        holding[0] = False
settling._Large.copy_areas, settling.Settled._finish = copy_areas, finish
atexit.register(lambda: print(json.dumps([copied[False], copied[True]]), file=sys.stderr))
"""


@pytest.mark.parametrize("kind", ["thin"], indirect=True)
def test_few_bytes_are_copied_while_writes_are_held_back(place: Place, kind: str, writer: Writer) -> None:
    for path in writer.disks:
        path.write_bytes(bytes(range(256)) * (SIZE // 256))
    writer.only = [("write", start, BLOCK) for start in range(0, 1 << 20, BLOCK)]
    with writer.working():
        done = started(place, kind, COUNTING)
    assert done.returncode == 0, done.stderr
    before, meanwhile = json.loads(done.stderr.splitlines()[-1])
    assert before >= 2 * SIZE
    assert 0 < meanwhile <= 2 * (DATA_OFFSET + (1 << 20))


#: Each pass ends when the writer has written more, however fast a pass is, or slow the writer.
WRITTEN_MEANWHILE = """
gather = settling.Settled._gather
def until_written(self):
    gather(self)
    while self._weight() == 0:
        gather(self)
settling.Settled._gather = until_written
"""


@pytest.mark.parametrize("kind", ["thin"], indirect=True)
def test_what_is_written_faster_than_copied_gives_no_point(place: Place, kind: str, writer: Writer) -> None:
    few = "settling.FEW, settling.MOST, settling.PASSES = 0, 0, 2"
    with writer.working():
        failed = started(place, kind, f"{few}\n{WRITTEN_MEANWHILE}")
        writer.goes_on()
    assert "written faster than it is copied" in failed.stderr
    assert failed.returncode == 6
    assert not (place.base / "kept" / kind).exists()


KEEPER, OTHER = User("keeper", 61021), User("other", 61022)
DENIED = 3


@pytest.fixture
def machine() -> Iterator[Machine]:
    """Where root has a mount, and KEEPER may back up the VM `web` of it, and nothing else."""
    with Machine([KEEPER, OTHER]) as found:
        found.root("datastore", "init", "/mnt/work/ds")
        found.path("/mnt/work/mnt").mkdir()
        found.root("mount", "/mnt/work/ds", "/mnt/work/mnt")
        try:
            found.path("/mnt/work/mnt/web").mkdir()
            found.root("permission", "grant", "user:keeper", "no-crypto-admin", "/mnt/work/ds/web")
            yield found
        finally:
            found.root("umount", "/mnt/work/mnt")


@pytest.mark.root
@pytest.mark.interop("unshare", "setpriv", "nsenter")
def test_by_somebody_without_any_privilege_for_keys(machine: Machine) -> None:
    home = machine.path("/mnt/work/mnt/web")
    (home / "web.vmx").write_text('displayName = "web"\n')
    for name in ("a.raw", "b.raw"):
        with (home / name).open("wb") as disk:
            disk.truncate(SIZE)
    machine.run(ROOT, "chmod", "-R", "a+rX", "/mnt/work/ds")
    command = ["backup", "run", "/mnt/work/ds/web", "/mnt/work/kept", "--ciphertext", "--json"]
    writer = Writer([home / "a.raw", home / "b.raw"])
    with writer.working():
        denied = machine.ioflt(OTHER, *command)
        assert (denied.returncode, "Interact.Backup on web" in denied.stderr) == (DENIED, True), denied.stderr
        killed = machine.run(KEEPER, *machine.python(), "-c", patched(KILLED), *command)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        writer.goes_on()
        for options in ([], ["--incremental"]):
            done = machine.ioflt(KEEPER, *command, *options)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["consistency"] == "crash-consistent"
            writer.goes_on()
    told = json.loads(machine.root("events", "--json"))
    watched = [each for each in told if each["operation"] == "backup watch"]
    assert {(each["by"]["who"], each["object"]["shown"]) for each in watched} == {("user:keeper", "web")}
    assert watched[0]["changes"][0]["after"] == "/mnt/work/mnt"
    assert [each for each in told if each["operation"] == "backup hold"]
    shutil.rmtree(home)
    machine.root("backup", "restore", "/mnt/work/kept", "/mnt/work/ds")
    assert is_prefix([path.read_bytes() for path in writer.disks])
