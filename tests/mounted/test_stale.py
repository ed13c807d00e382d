"""Mount points: what a killed mount leaves is cleaned up at once, and what cannot be one is refused."""

from __future__ import annotations

import errno
import os
import select
import socket
from pathlib import Path

import pytest

from ioflt.fuse.starter import is_mounted
from tests.mounted.place import Place
from tests.waiting import eventually

pytestmark = pytest.mark.fuse


@pytest.mark.parametrize("how", ["mount", "umount"])
def test_a_dead_mount_is_cleaned_up_while_the_kernel_still_remembers_its_attributes(
    homes: Place, how: str
) -> None:
    (homes.mountpoint / "thin" / "file").write_bytes(b"content")
    homes.mountpoint.stat()
    homes.kill()
    with pytest.raises(OSError) as raised:  # noqa: PT011  # the number is what is asked
        os.statvfs(homes.mountpoint)
    assert raised.value.errno == errno.ENOTCONN
    homes.ioflt(how, *([homes.datastore] if how == "mount" else []), homes.mountpoint)
    assert os.path.ismount(homes.mountpoint) == (how == "mount")
    assert homes.complaints() == []


def answers(fd: int) -> bool:
    try:
        os.stat(fd)
    except OSError:
        return False
    return True


@pytest.mark.root
def test_a_mount_outlives_the_file_system_of_its_datastore(clear_place: Place) -> None:
    """As when a network file system says ESTALE: here a mount below it is killed."""
    below = clear_place.mount() / "home" / "ds"
    below.mkdir(parents=True)
    base = clear_place.base / "upper"
    base.mkdir()
    (base / "ds").symlink_to(below)
    upper = Place(base)
    try:
        upper.mount()
        home = upper.mountpoint / "vm"
        home.mkdir()
        for name in ("open", "closed"):
            (home / name).write_bytes(b"content")
        backing = os.open(below / "vm" / "closed", os.O_PATH)
        with (home / "open").open("rb"):
            clear_place.kill()
            eventually(lambda: not answers(backing))  # until then the kernel remembers its attributes
            os.close(backing)
            for name in ("open", "closed"):
                with pytest.raises(OSError):  # noqa: PT011  # whatever the file system says
                    (home / name).read_bytes()
            Path("/proc/sys/vm/drop_caches").write_text("2")  # the kernel forgets inodes
        upper.umount()
        assert "Traceback" not in upper.log
    finally:
        upper.end()


@pytest.mark.parametrize("where", [".", "home", "home/sub"])
def test_a_datastore_is_not_mounted_inside_itself(place: Place, where: str) -> None:
    target = place.datastore / where
    target.mkdir(parents=True, exist_ok=True)
    result = place.ioflt("mount", place.datastore, target, check=False)
    assert result.returncode != 0
    assert "inside itself" in result.stderr
    assert not target.is_mount()


def test_a_datastore_is_not_mounted_above_itself(place: Place) -> None:
    result = place.ioflt("mount", place.datastore, place.base, check=False)
    assert result.returncode != 0
    assert "above itself" in result.stderr
    assert not place.base.is_mount()


@pytest.mark.parametrize("name", ["with é and  blanks", "two\nlines", "tab\tand \\040", "ünï\udcff"])
def test_a_mount_point_of_any_name_is_found(place: Place, name: str) -> None:
    place.mountpoint = place.base / name
    place.mountpoint.mkdir()
    place.mount()
    assert is_mounted(str(place.mountpoint))
    assert place.ioflt("mount", place.datastore, place.mountpoint, check=False).returncode != 0
    place.umount()
    assert not is_mounted(str(place.mountpoint))


@pytest.mark.parametrize("name", ["with é, and  blanks", "two\nlines", "tab\tand \\040", "ünï\udcff"])
def test_a_datastore_of_any_name_is_mounted(place: Place, name: str) -> None:
    place.datastore = place.datastore.rename(place.base / name)
    (place.mount() / "vm").mkdir()
    (place.mountpoint / "vm" / "vm.vmdk").write_bytes(b"text")
    place.ioflt("recovery", "add", place.datastore / "vm", "--passphrase-file", a_passphrase(place.base))
    place.umount()
    assert (place.mount("--read-only") / "vm" / "vm.vmdk").read_bytes() == b"text"
    place.umount()


def test_a_mount_named_for_its_datastore_is_told_of(place: Place) -> None:
    (place.mount() / "vm").mkdir()
    for arguments, shown in (
        (("vm", "list", place.mountpoint), place.datastore),
        (("check", place.mountpoint), place.datastore),
        (("vm", "show", place.mountpoint / "vm"), place.datastore / "vm"),
    ):
        result = place.ioflt(*arguments, check=False)
        assert result.returncode == 10
        assert result.stderr.splitlines()[-1].endswith(f"name what it shows: {shown}")
    for inside in (place.mountpoint, place.mountpoint / "vm", place.mountpoint / "new"):
        result = place.ioflt("datastore", "init", inside, check=False)
        assert (result.returncode, "inside a mount" in result.stderr) == (2, True)
    assert [path.name for path in place.mountpoint.iterdir()] == ["vm"]
    place.umount()


def a_passphrase(directory: Path) -> Path:
    path = directory / "passphrase"
    path.touch(0o600)
    path.write_text("correct horse battery")
    return path


def test_a_mount_is_ended_by_another_spelling_of_its_path(place: Place) -> None:
    link = place.base / "link"
    link.symlink_to(place.base)
    place.ioflt("mount", link / "ds", link / "mnt")
    pidfd = os.pidfd_open(place.pid)
    place.ioflt("umount", link / "link" / "mnt")
    assert select.select([pidfd], [], [], 0)[0], "its process has ended"
    os.close(pidfd)
    assert not place.mountpoint.is_mount()


def test_what_is_planted_among_the_drafts_stops_no_mount(place: Place) -> None:
    place.make_homes()
    for home in (place.datastore, place.datastore / "thin"):
        drafts = home / ".ioflt.d"
        drafts.mkdir(exist_ok=True)
        (drafts / "new-directory").mkdir()
        (drafts / "new-link").symlink_to("/etc/hostname")
        (drafts / "new-draft").touch()
        with socket.socket(socket.AF_UNIX) as planted:
            planted.bind(str(drafts / "new-socket"))
        os.mkfifo(drafts / "new-fifo")
    (place.datastore / "clear" / ".ioflt.d").mkdir(exist_ok=True)
    (place.datastore / "clear" / ".ioflt.d").rmdir()
    (place.datastore / "clear" / ".ioflt.d").symlink_to("/tmp")
    place.mount()
    assert len(place.complaints()) == 2 * 3 + 1
    left = sorted(path.name for path in (place.datastore / "thin" / ".ioflt.d").iterdir())
    assert left == ["new-directory", "new-link", "new-socket"]
    (place.mountpoint / "thin" / "file").write_bytes(b"content")
