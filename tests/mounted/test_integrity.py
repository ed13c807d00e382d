"""A mounted VM with integrity: what is changed on the datastore is EIO, in that sector alone."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from ioflt.format.luks2.layout import DATA_OFFSET
from tests.mounted.place import Place
from tests.mounted.second import second_mount
from tests.waiting import eventually

pytestmark = pytest.mark.fuse

PAGE = 4096
SECTORS = 600
DATA = random.Random(1).randbytes(SECTORS * PAGE)


@pytest.fixture
def disk(homes: Place):
    """A disk in the mount, written and closed."""
    path = homes.mountpoint / "tagged" / "disk"
    path.write_bytes(DATA)
    return path


def change(place: Place, sector: int, name: str = "disk") -> None:
    """One bit, behind the mount's back."""
    with (place.datastore / "tagged" / name).open("r+b") as file:
        file.seek(DATA_OFFSET + sector * PAGE + 1234)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 16]))


def unreadable(path):
    """The sectors that give EIO, read one after the other; all others have their contents."""
    found = []
    with path.open("rb", buffering=0) as file:
        for sector in range(SECTORS):
            try:
                data = os.pread(file.fileno(), PAGE, sector * PAGE)
            except OSError as error:
                found.append((sector, error.errno))
            else:
                assert data == DATA[sector * PAGE : (sector + 1) * PAGE]
    assert {number for _, number in found} <= {errno.EIO}
    return [sector for sector, _ in found]


def test_one_sector_and_no_other(homes, disk):
    assert unreadable(disk) == []
    for sector in (7, 300):
        change(homes, sector)
    homes.remount()
    assert unreadable(disk) == [7, 300]
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        disk.read_bytes()
    assert "tagged/disk: sector 7 does not verify: changed, or put back" in homes.log
    assert "tagged/disk: sector 300 does not verify" in homes.log
    done = homes.ioflt("check", "--data", homes.datastore / "tagged", check=False)
    assert done.returncode == 13
    assert "sectors 7, 300 do not verify" in done.stdout
    with disk.open("r+b") as file:
        for sector in (7, 300):
            file.seek(sector * PAGE)
            file.write(DATA[sector * PAGE : (sector + 1) * PAGE])
    assert unreadable(disk) == []
    homes.ioflt("check", "--data", homes.datastore / "tagged")
    homes.umount()
    by_mount, *by_check = json.loads(
        homes.ioflt("events", "--type", "integrity failure", "--vm", "tagged", "--json").stdout
    )
    told = [(change["path"], change["after"]) for change in by_mount["changes"]]
    assert told == [("file", "tagged/disk"), ("sectors", "7")]  # the next ones within a minute are not told
    assert [each["changes"][1]["after"] for each in by_check] == ["7, 300"]


def test_lost_tags(homes, disk):
    homes.umount()
    for path in (homes.datastore / "tagged" / ".ioflt.d").glob("*.tags"):
        path.unlink()
    homes.mount()
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        disk.read_bytes()
    assert "no tags" in homes.log
    disk.unlink()
    homes.umount()
    (told,) = json.loads(homes.ioflt("events", "--type", "integrity failure", "--json").stdout)
    assert (told["object"]["shown"], told["changes"][0]["after"]) == ("tagged", "tagged/disk")


def test_a_killed_mount_heals(homes, disk):
    """What it was writing is as it is; what was synced before is there, and all of it verifies."""
    fd = os.open(disk, os.O_RDWR)
    os.pwrite(fd, DATA[:PAGE], 0)
    os.fsync(fd)
    os.pwrite(fd, DATA[40 * PAGE : 300 * PAGE], 40 * PAGE)
    homes.kill()
    with suppress(OSError):  # there is nobody to tell
        os.close(fd)
    stored = homes.datastore / "tagged" / "disk"
    with stored.open("r+b") as file:  # torn, as a power cut would have it
        file.seek(DATA_OFFSET + 50 * PAGE + 512)
        file.write(bytes(1024))
    homes.mount()
    found = disk.read_bytes()
    assert found[: 50 * PAGE] == DATA[: 50 * PAGE]
    assert found[51 * PAGE :] == DATA[51 * PAGE :]
    with disk.open("r+b") as file:  # who writes next makes that good
        file.write(DATA[:PAGE])
    homes.ioflt("check", "--data", homes.datastore / "tagged")
    assert "got new tags: 50+1" in homes.log
    change(homes, 51)
    homes.remount()
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        disk.read_bytes()


@pytest.mark.root
def test_a_second_mount_reads_what_the_first_writes(homes, disk):
    with second_mount(homes) as top:
        other = top / "tagged" / "disk"
        with disk.open("r+b", buffering=0) as file:
            for number in range(40):
                file.seek(number * 7 * PAGE + 100)
                file.write(bytes([number]) * 9000)
                with other.open("rb") as reader:
                    reader.seek(number * 7 * PAGE + 100)
                    assert reader.read(9000) == bytes([number]) * 9000
        with other.open("r+b") as file:
            file.write(b"the other one writes")
        assert disk.read_bytes()[:20] == b"the other one writes"
    homes.ioflt("check", "--data", homes.datastore / "tagged")


def test_check_while_it_is_written(homes, disk):
    """A scrub beside a writer finds nothing that is not so."""
    program = "import os,sys\nfd=os.open(sys.argv[1],os.O_RDWR)\nopen(sys.argv[2],'w')\nn=0\n" + (
        "while True:\n n+=1\n os.pwrite(fd,os.urandom(9000),n*8191%2000000)\n n%50 or os.fsync(fd)\n"
    )
    begun = homes.base / "begun"
    with subprocess.Popen([sys.executable, "-c", program, disk, begun]) as writer:
        try:
            eventually(begun.exists)
            for _ in range(3):
                homes.ioflt("check", "--data", homes.datastore / "tagged")
        finally:
            writer.send_signal(signal.SIGKILL)
