"""Changed blocks of disks in mounts: over restarts and kills no change is missed."""

import json
import mmap
import os
import random
import threading
from contextlib import contextmanager, suppress

import pytest

from ioflt import paths, syscalls
from ioflt.datastore import cbt
from ioflt.datastore.volume import Volume
from ioflt.errors import BusyError, ChangesUnknownError, NotFoundError
from ioflt.format.cbt.sidecar import BLOCK
from ioflt.keys.client import KeyClient
from ioflt.keys.mounts import MountControl
from tests.mounted.second import second_mount
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.fuse, pytest.mark.root]

SIZE = 24 * BLOCK


class Disk:
    """A tracked raw disk of a home, through the mount; asked as `ioflt cbt` does, in this process."""

    def __init__(self, place, home, name):
        self.place, self.home, self.name = place, home, name
        self.path = place.mountpoint / home / name
        self.path.write_bytes(bytes(SIZE))
        self.enable()

    def _do(self, action, *arguments):
        with (
            KeyClient.connect(operation="cbt enable") as keys,
            Volume.open(self.place.datastore, keys) as volume,
        ):
            return action(volume.home(self.home), self.name, *arguments)

    def enable(self):
        return self._do(cbt.enable)

    def disable(self):
        return self._do(cbt.disable)

    def ask(self, since=None):
        """The id of now, and the areas that changed since that one."""

        def both(home, name):
            taken = cbt.take(home, name)
            return taken, cbt.query(home, name, since)

        return self._do(both)

    def due(self, since):
        """Whether a full backup is due."""
        try:
            self.ask(since)
        except ChangesUnknownError:
            return True
        return False

    def write(self, *places, data=b"x"):
        fd = os.open(self.path, os.O_RDWR)
        for offset in places:
            os.pwrite(fd, data, offset)
        os.close(fd)


@pytest.fixture(scope="module")
def place(shared):
    return shared


@pytest.fixture
def disk(request, place, kind):
    return Disk(place, kind, f"{request.node.name}.raw")


every_kind = pytest.mark.parametrize("kind", ["thin", "thick", "tagged", "clear"])
two_kinds = pytest.mark.parametrize("kind", ["tagged", "clear"])
encrypted = pytest.mark.parametrize("kind", ["thin"])


@contextmanager
def writing(disk):
    """A descriptor; the mount may be gone at its end."""
    fd = os.open(disk.path, os.O_RDWR)
    try:
        yield fd
    finally:
        with suppress(OSError):
            os.close(fd)


def blocks(*numbers):
    return [(number * BLOCK, BLOCK) for number in numbers]


@every_kind
def test_what_changes_a_disk_is_named(disk):
    first, _ = disk.ask()
    disk.write(0, 5 * BLOCK)
    second, named = disk.ask(first)
    assert named == blocks(0, 5)
    disk.write(7 * BLOCK)
    disk.path.read_bytes()
    with disk.path.open("r+b") as file, mmap.mmap(file.fileno(), SIZE) as mapped:
        mapped[9 * BLOCK] = 1
    with writing(disk) as fd:
        syscalls.fallocate(fd, 3, 12 * BLOCK, BLOCK)
        syscalls.fallocate(fd, 0x11, 14 * BLOCK, 1)
    third, named = disk.ask(second)
    assert named == blocks(7, 9, 12, 14)
    assert disk.ask(first)[1] == blocks(0, 5, 7, 9, 12, 14)
    os.truncate(disk.path, 20 * BLOCK)
    os.truncate(disk.path, 22 * BLOCK)
    assert disk.ask(third)[1] == [(20 * BLOCK, 2 * BLOCK)]


@every_kind
def test_while_the_disk_is_open(disk):
    """Asked and switched over the control socket of the mount that has it."""
    with writing(disk) as fd:
        os.pwrite(fd, b"x", 0)
        first, _ = disk.ask()
        os.pwrite(fd, b"x", 3 * BLOCK)
        second, named = disk.ask(first)
        assert named == blocks(3)
        assert disk.ask(second)[1] == []
        assert disk.ask()[1][0][0] == 0
        assert not disk.enable()
        assert disk.disable()
        with pytest.raises(NotFoundError, match="not tracked"):
            disk.ask()
        assert disk.enable()
        assert disk.due(first)
        third, _ = disk.ask()
        os.pwrite(fd, b"x", 5 * BLOCK)
        assert disk.ask(third)[1] == blocks(5)
        os.pwrite(fd, b"x", SIZE + BLOCK)  # of an end that nobody outside of the mount knows yet
        assert disk.ask(third)[1] == [*blocks(5), (SIZE, BLOCK + 1)]
    assert disk.ask(third)[1] == [*blocks(5), (SIZE, BLOCK + 1)]


@pytest.mark.allow_log("good order")
@two_kinds
def test_killed_and_restarted(disk):
    """Marks that were not written yet are lost with the mount: then a full backup is due."""
    first, _ = disk.ask()
    disk.write(BLOCK)
    disk.place.remount("--allow-other")
    with writing(disk) as fd:
        assert disk.ask(first)[1] == blocks(1)
        os.pwrite(fd, b"x", 2 * BLOCK)
        disk.place.kill()
    disk.place.mount("--allow-other")
    assert disk.due(first)
    second, _ = disk.ask()
    disk.write(4 * BLOCK)
    with writing(disk):  # who only had it open missed nothing
        disk.place.kill()
    disk.place.mount("--allow-other")
    assert disk.ask(second)[1] == blocks(4)


@two_kinds
def test_no_change_is_missed_while_somebody_writes(disk):
    """Ids are taken under a writer; what is not named since one reads as it did after it."""
    dice = random.Random(5)
    stop = threading.Event()
    with writing(disk) as fd:

        def write():
            while not stop.is_set():
                offset = dice.randrange(SIZE - 2 * BLOCK)
                os.pwrite(fd, dice.randbytes(dice.choice((1, 512, 4096, BLOCK + 1))), offset)

        writer = threading.Thread(target=write)
        writer.start()
        kept = []
        try:
            for _ in range(3):
                taken, _ = disk.ask()
                kept.append((taken, os.pread(fd, SIZE, 0)))
        finally:
            stop.set()
            writer.join(PATIENCE_S)
        assert not writer.is_alive()
        now = os.pread(fd, SIZE, 0)
        for taken, then in kept:  # what was written between the id and the reading is named, too
            found = bytearray(now)
            for start, length in disk.ask(taken)[1]:
                found[start : start + length] = then[start : start + length]
            assert found == then


@encrypted
def test_two_mounts(disk):
    first, _ = disk.ask()
    with second_mount(disk.place) as other:
        disk.write(0)
        fd = os.open(other / disk.home / disk.name, os.O_RDWR)
        os.pwrite(fd, b"x", 3 * BLOCK)
        assert disk.ask(first)[1] == blocks(0, 3)
        os.close(fd)
        disk.write(5 * BLOCK)
        assert disk.ask(first)[1] == blocks(0, 3, 5)


@encrypted
def test_a_read_only_mount_is_not_in_the_way(disk):
    first, _ = disk.ask()
    disk.write(BLOCK)
    with second_mount(disk.place, "--read-only") as other, (other / disk.home / disk.name).open("rb") as file:
        file.read(10)
        assert disk.ask(first)[1] == blocks(1)


@encrypted
def test_locked_and_unlocked(disk):
    first, _ = disk.ask()
    control = MountControl(paths.find().control_socket(str(disk.place.mountpoint)))
    with control, writing(disk) as fd:
        os.pwrite(fd, b"x", 0)
        control.lock("suspend")
        with pytest.raises(BusyError):
            disk.ask(first)
        control.unlock()
        os.pwrite(fd, b"x", 2 * BLOCK)
        assert disk.ask(first)[1] == blocks(0, 2)
    assert disk.ask(first)[1] == blocks(0, 2)


@pytest.mark.parametrize("kind", ["thin", "tagged"])
def test_other_keys(disk):
    """Around the same data key all stays; with another one all is written anew."""
    home = disk.place.datastore / disk.home
    first, _ = disk.ask()
    disk.write(BLOCK)
    with writing(disk) as fd:
        os.pwrite(fd, b"x", 4 * BLOCK)
        disk.place.ioflt("vm", "recrypt", home)
        assert disk.ask(first)[1] == blocks(1, 4)
    assert disk.ask(first)[1] == blocks(1, 4)
    disk.place.ioflt("vm", "recrypt", "--deep", home)
    assert disk.due(first)
    second, _ = disk.ask()
    disk.write(6 * BLOCK)
    assert disk.ask(second)[1] == blocks(6)


def sidecars(disk):
    return {path.name for path in (disk.place.datastore / disk.home / ".ioflt.d").glob("*.cbt")}


@pytest.mark.allow_log("changed or replaced")  # a clear file, by its new time of change
@two_kinds
def test_what_becomes_of_the_file_of_changes(disk):
    before = sidecars(disk)
    moved, other = disk.path.with_name("moved.raw"), disk.path.with_name("other.raw")
    disk.path.rename(moved)
    disk.name, disk.path = moved.name, moved
    disk.ask()
    assert sidecars(disk) == before
    other.write_bytes(b"other")
    other.rename(moved)
    left = sidecars(disk)
    assert len(left) == len(before) - 1
    disk.enable()
    assert len(sidecars(disk)) == len(before)
    moved.unlink()
    assert sidecars(disk) == left


def test_homes_that_become_others(place):
    """Encrypted, decrypted, cloned, moved: tracked all the same, by other ids where it is another disk."""
    (place.mountpoint / "made").mkdir()
    disk = Disk(place, "made", "disk.raw")
    first, _ = disk.ask()
    known = sidecars(disk)
    for command in ("decrypt", "encrypt"):
        place.ioflt("vm", command, place.datastore / "made")
        assert disk.due(first)
        assert len(sidecars(disk)) == 1
        assert sidecars(disk) != known
        known = sidecars(disk)
    second, _ = disk.ask()
    place.ioflt("vm", "clone", place.datastore / "made", place.datastore / "copy")
    place.ioflt("vm", "move", place.datastore / "made", place.datastore / "there")
    disk.home, disk.path = "there", place.mountpoint / "there" / "disk.raw"
    disk.write(BLOCK)
    assert disk.ask(second)[1] == blocks(1)
    disk.home, disk.path = "copy", place.mountpoint / "copy" / "disk.raw"
    assert disk.due(second)
    third, _ = disk.ask()
    assert third.uuid != second.uuid
    disk.path.unlink()
    disk.path.parent.rmdir()
    assert not (place.datastore / "copy").exists()


def test_new_disks_of_a_vm_whose_policy_tracks_them(place):
    (place.mountpoint / "policed").mkdir()
    old = place.mountpoint / "policed" / "old.raw"
    old.write_bytes(bytes(SIZE))
    place.ioflt("policy", "create", "Tracked", "--cbt")
    place.ioflt("policy", "assign", "Tracked", place.datastore / "policed")
    for name in ("new.raw", "web-flat.vmdk", "notes.txt"):
        old.with_name(name).write_bytes(b"x")
    checked = place.ioflt("policy", "check", place.datastore, "--json", check=False)
    (found,) = [one for one in json.loads(checked.stdout) if one["policy"] == "Tracked"]
    assert found["mend"] == f"ioflt cbt enable {place.datastore}/policed old.raw"
    assert checked.returncode == 13
    disk = Disk(place, "policed", "new.raw")
    assert not disk.enable()
