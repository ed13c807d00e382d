"""The power is cut while commands and a mount of real processes work: what is on the disk then, is all sound.

Each operation runs once, on a file system whose device logs every write. Then the disk is made anew as of
many moments, with some of the writes lost or torn that no flush had made durable. Keys and what the host
remembers lie on the same disk.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ioflt.datastore import check, files, lifecycle, regular, resume
from ioflt.datastore.header import read_header
from ioflt.datastore.home import Home
from ioflt.datastore.volume import Volume
from ioflt.testing.local_keys import LocalKeys
from ioflt.types import HomeState
from tests.power_cut import Disk

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.root,
    pytest.mark.loop,
    pytest.mark.interop("qemu-storage-daemon"),
]

SIZE = 320 << 20  # xfs is never smaller than 300 MiB
FILE_SYSTEMS = {
    "ext4": ("mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"),
    "xfs": ("mkfs.xfs", "-q", "-K"),
}
#: Findings of a check that are true here, and no defect.
HARMLESS = (
    "left over by an interruption; the next mount removes it",
    "a clear home in a datastore that encrypts",
)
CANARY = b"canary 7f3a9c: what a guest keeps to itself"
DESCRIPTOR = """# Disk DescriptorFile
version=1
CID=0000abcd
parentCID=ffffffff
createType="monolithicFlat"
RW 6144 FLAT "{0}-flat.vmdk" 0
ddb.adapterType = "lsilogic"
"""
FILES = {
    "web.vmx": b'.encoding = "UTF-8"\nscsi0:0.fileName = "a.vmdk"\nscsi0:1.fileName = "b.vmdk"\n# ' + CANARY,
    "a.vmdk": DESCRIPTOR.format("a").encode(),
    "a-flat.vmdk": b"".join((CANARY + str(number).encode()).ljust(512) for number in range(6144)),
    "b.vmdk": DESCRIPTOR.format("b").encode(),
    "b-flat.vmdk": b"\1" * (6144 * 512),
    "notes": CANARY,
}


@dataclass
class Rig:
    """The disk with `ds`, a datastore that encrypts, and its home `web`. $IOFLT_HOME lies on it, too."""

    disk: Disk
    make: tuple[str, ...]
    cuts: int
    begin: int = 0
    #: Moments from which on something is so, whatever happens.
    promises: list[tuple[int, Callable[[Volume], bool]]] = field(default_factory=list)

    @property
    def datastore(self) -> Path:
        return self.disk.place / "ds"

    @property
    def host(self) -> Path:
        return self.disk.place / "host"

    @contextmanager
    def recording(self, default: str = "--encrypt") -> Iterator[None]:
        """The home is there, and the block is what is cut."""
        with self.disk.recording(self.make):
            self.host.mkdir(mode=0o700)
            LocalKeys(self.host).close()
            self.ioflt("datastore", "init", default, self.datastore)
            self.ioflt("keyd", "stop")  # one at a time writes the event log
            with self.opened() as volume:
                home = volume.make_home("web", 0o755)
                for name, content in FILES.items():
                    write(home, name, content)
            os.sync()
            self.begin = self.disk.now()
            try:
                yield
            finally:
                self.ioflt("keyd", "stop")

    def ioflt(self, *arguments: object) -> None:
        """A command that succeeds."""
        done = subprocess.run(
            [sys.executable, "-m", "ioflt", *map(str, arguments)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    @contextmanager
    def opened(self) -> Iterator[Volume]:
        with LocalKeys(self.host) as keys, Volume.open(self.datastore, keys) as volume:
            yield volume

    def promise(self, condition: Callable[[Volume], bool]) -> None:
        self.promises.append((self.disk.now(), condition))

    def judge(self, sound: Callable[[Volume], bool], first: Callable[[], None] = lambda: None) -> None:
        """After each cut, once what was interrupted went on, as with the next command.

        `first` looks at the disk after the first cut, before anything goes on.
        """
        moments = []
        for moment in self.disk.states(self.begin, self.cuts, seed=1):
            if not moments:
                first()
            moments.append(moment)
            with self.opened() as volume:
                resume.interrupted(volume)
                assert sound(volume), f"cut at {moment}"
                for since, condition in self.promises:
                    assert moment < since or condition(volume), f"cut at {moment}, promised at {since}"
                report = check.run(self.datastore, volume.keys)
            found = [entry for entry in report.entries if entry.finding is not None]
            assert [entry for entry in found if entry.finding not in HARMLESS] == [], f"cut at {moment}"
        assert moments, "no cut"
        assert moments[0] < min((since for since, _ in self.promises), default=moments[0] + 1)


def write(home: Home, name: str, content: bytes) -> None:
    fd = files.create(home, home.fd, name, mode=0o644)
    place = (home.fd, home.fd, name)
    file = files.open_file(home, fd, home.treatment(name, fd), writable=True, place=lambda: place)
    file.write(0, content)
    file.sync(data_only=False)
    file.close()


def read(home: Home, name: str) -> bytes:
    fd = regular.open_file(home, name)
    file = files.open_file(home, fd, home.treatment(name, fd), writable=False, place=lambda: None)
    try:
        return bytes(file.read(0, file.length))
    finally:
        file.close()


def is_whole(volume: Volume, name: str = "web") -> bool:
    home = volume.home(name)
    return {name: read(home, name) for name in FILES} == FILES


@pytest.fixture(params=["ext4", pytest.param("xfs", marks=pytest.mark.long)])
def rig(request: pytest.FixtureRequest, short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    made = Rig(
        Disk(short_tmp, SIZE), FILE_SYSTEMS[request.param], 100 if request.config.getoption("--long") else 10
    )
    monkeypatch.setenv("IOFLT_HOME", str(made.host))
    return made


#: On each file system in every run.
EACH = pytest.mark.parametrize("rig", FILE_SYSTEMS, indirect=True)


def test_shallow_recrypt(rig: Rig) -> None:
    with rig.recording():
        with rig.opened() as volume:
            before = volume.home("web").standing().keys
        rig.ioflt("vm", "recrypt", rig.datastore / "web")
        rig.promise(lambda volume: before != volume.home("web").standing().keys)
    rig.judge(is_whole)


@EACH
@pytest.mark.parametrize("mode", ["copy", "journal"])
def test_deep_recrypt(rig: Rig, mode: str) -> None:
    with rig.recording():
        with rig.opened() as volume:
            before = uuids(volume)
        rig.ioflt("vm", "recrypt", "--deep", "--mode", mode, rig.datastore / "web")
        rig.promise(lambda volume: before.isdisjoint(uuids(volume)))
    rig.judge(lambda volume: is_whole(volume) and not rig.disk.holds(CANARY))


def uuids(volume: Volume) -> set[str]:
    """Of the containers."""
    home = volume.home("web")
    found = set()
    for name in FILES:
        if not name.endswith(".vmx"):
            with regular.opened(home, name) as fd:
                found.add(read_header(fd).uuid)
    return found


def test_encrypt(rig: Rig) -> None:
    with rig.recording("--clear"):
        rig.ioflt("vm", "encrypt", rig.datastore / "web")
        rig.promise(lambda volume: volume.home("web").standing().state is HomeState.ENCRYPTED)

    def in_clear() -> None:
        assert rig.disk.holds(CANARY), "what is looked for elsewhere is found where it is"

    rig.judge(is_whole, in_clear)


@pytest.mark.parametrize("disk", [None, "a.vmdk"])
@pytest.mark.parametrize("way", [lifecycle.decrypt, lifecycle.encrypt])
def test_decrypt(rig: Rig, disk: str | None, way: Callable[..., object]) -> None:
    """Interrupted it waits: it shows all files, and goes on or back when it is told to."""

    def goes_on(volume: Volume) -> bool:
        shown = is_whole(volume)
        if volume.home("web").standing().problem is not None:
            way(volume, "web", disk=disk)
        return shown and is_whole(volume)

    with rig.recording():
        rig.ioflt("vm", "decrypt", *(() if disk is None else ("--disk", disk)), rig.datastore / "web")
        rig.promise(lambda volume: CANARY in (rig.datastore / "web" / "a-flat.vmdk").read_bytes())
    rig.judge(goes_on)


def test_clone(rig: Rig) -> None:
    with rig.recording():
        rig.ioflt("vm", "clone", rig.datastore / "web", rig.datastore / "copy")
        rig.promise(lambda volume: "copy" in volume.homes())
    rig.judge(
        lambda volume: (
            is_whole(volume)
            and ("copy" not in volume.homes() or is_whole(volume, "copy"))
            and not rig.disk.holds(CANARY)
        )
    )


def test_erase(rig: Rig) -> None:
    with rig.recording():
        rig.ioflt("vm", "erase", "--yes", rig.datastore / "web")
        rig.promise(lambda volume: volume.homes() == [])
    rig.judge(lambda volume: "web" not in volume.homes() or is_whole(volume))


@pytest.mark.parametrize("default", ["--encrypt", "--clear"])
def test_move(rig: Rig, default: str) -> None:
    """By renaming; by copying, as a clear home moves. Either place has it, not both."""

    def is_in_one_place(volume: Volume) -> bool:
        with Volume.open(other, volume.keys) as target:
            resume.interrupted(target)
            places = [place for place in (volume, target) if "web" in place.homes()]
            return len(places) == 1 and is_whole(places[0])

    with rig.recording(default):
        other = rig.datastore.with_name("other")
        rig.ioflt("datastore", "init", "--encrypt", other)
        os.sync()
        rig.begin = rig.disk.now()
        rig.ioflt("vm", "move", rig.datastore / "web", other / "web")
        rig.promise(lambda volume: volume.homes() == [])
    rig.judge(is_in_one_place)


def test_recrypt_of_the_datastore(rig: Rig) -> None:
    with rig.recording("--clear"):
        with rig.opened() as volume:
            before = volume.record.keys
        rig.ioflt("datastore", "recrypt", rig.datastore)
        rig.promise(lambda volume: volume.record.keys != before)
    rig.judge(is_whole)


@EACH
def test_writes_of_a_guest(rig: Rig, short_tmp: Path) -> None:
    """What fsync acknowledged through a mount, names included."""
    mountpoint = short_tmp / "mnt"
    mountpoint.mkdir()
    size = len(FILES["b-flat.vmdk"])
    blocks = {at: os.urandom(70_000) for at in range(0, size - 70_000, size // 12)}

    def holds(name: str, at: int, content: bytes) -> None:
        rig.promise(lambda volume: read(volume.home("web"), name)[at : at + len(content)] == content)

    with rig.recording():
        rig.ioflt("mount", rig.datastore, mountpoint)
        try:
            web = mountpoint / "web"
            directory = os.open(web, os.O_RDONLY)
            with (web / "b-flat.vmdk").open("r+b", buffering=0) as disk:
                for at, block in blocks.items():
                    os.pwrite(disk.fileno(), block, at)
                    os.fsync(disk.fileno())
                    holds("b-flat.vmdk", at, block)
            for number in range(4):
                with (web / "web.vmx.new").open("wb") as vmx:
                    vmx.write(FILES["web.vmx"] + b"\n# %d" % number)
                    vmx.flush()
                    os.fsync(vmx.fileno())
                (web / "web.vmx.new").rename(web / "web.vmx")
                os.fsync(directory)
            holds("web.vmx", len(FILES["web.vmx"]), b"\n# 3")
            (web / "new").write_bytes(CANARY)
            os.sync()
            holds("new", 0, CANARY)
            os.close(directory)
        finally:
            rig.ioflt("umount", mountpoint)

    def sound(volume: Volume) -> bool:
        home = volume.home("web")
        kept = all(
            read(home, name) == FILES[name] for name in FILES if name not in ("b-flat.vmdk", "web.vmx")
        )
        return kept and read(home, "web.vmx").startswith(FILES["web.vmx"]) and not rig.disk.holds(CANARY)

    rig.judge(sound)
