"""A VM whose key cannot be had, under a mount: what is open goes on, the rest waits until the key is back."""

import errno
import json
import os
from pathlib import Path

import pytest

from tests.mounted.place import Place
from tests.waiting import eventually

pytestmark = pytest.mark.fuse

TEXT = b"plaintext" * 10_000


@pytest.fixture
def top(place: Place) -> Path:
    """A mounted VM with two disks."""
    (place.datastore / "web01").mkdir()
    top = place.mount() / "web01"
    for name in ("one-flat.vmdk", "two-flat.vmdk"):
        (top / name).write_bytes(TEXT)
    return top


def test_it_is_locked_and_unlocks_by_itself(place: Place, top: Path) -> None:
    vm = place.datastore / "web01"
    (key,) = json.loads(place.ioflt("vm", "show", vm, "--json").stdout)["keys"]
    with (top / "one-flat.vmdk").open("rb") as opened:
        place.ioflt("key", "remove", "--force", key)
        assert sorted(os.listdir(top)) == ["one-flat.vmdk", "two-flat.vmdk"]  # its home lists
        assert opened.read() == TEXT  # what is open goes on
        with pytest.raises(OSError, match=os.strerror(errno.ENOKEY)):
            (top / "two-flat.vmdk").read_bytes()
        shown = json.loads(place.ioflt("vm", "show", vm, "--json").stdout)
        (missing,) = shown["missing"]
        assert (missing["key"], missing["provider"]) == (key, "local")
        assert missing["reason"] == "the key was removed from this host"
        assert missing["since"] is not None
        assert {file["problem"] for file in shown["files"]} == {
            f"The disk [{vm}/{name}-flat.vmdk] is encrypted and a required key was not found."
            for name in ("one", "two")
        }
        place.ioflt("key", "add", key)

        def is_back() -> bool:
            try:
                return (top / "two-flat.vmdk").read_bytes() == TEXT
            except OSError as error:
                if error.errno != errno.ENOKEY:
                    raise
                return False

        eventually(is_back)
    assert json.loads(place.ioflt("vm", "show", vm, "--json").stdout)["missing"] == []


def test_a_keyd_that_started_since_tells_a_service_why(place: Place, top: Path) -> None:
    """It has seen no record of the key, and cannot verify one: not that the service may not is why."""
    vm = place.datastore / "web01"
    (key,) = json.loads(place.ioflt("vm", "show", vm, "--json").stdout)["keys"]
    place.ioflt("service", "create", "backup")
    place.ioflt("permission", "grant", "service:backup", "backup-operator", place.datastore)
    place.remount("--as", "service:backup")
    assert (top / "one-flat.vmdk").read_bytes() == TEXT
    place.ioflt("key", "remove", "--force", key)
    place.ioflt("keyd", "stop")
    with pytest.raises(OSError, match=os.strerror(errno.ENOKEY)):
        (top / "two-flat.vmdk").read_bytes()
    place.ioflt("key", "add", key)


def test_a_mount_is_among_the_users_of_its_keys(place: Place, top: Path) -> None:
    (key,) = json.loads(place.ioflt("vm", "show", place.datastore / "web01", "--json").stdout)["keys"]
    shown = json.loads(place.ioflt("keyd", "status", "--json").stdout)
    (users,) = (one["users"] for one in shown["keys"] if one["key"] == key)
    (user,) = (one for one in users if one["mountpoint"] is not None)
    assert user["mountpoint"] == str(place.mountpoint)
    assert user["uid"] == os.getuid()
    assert f"mount {place.mountpoint} (pid {user['pid']}" in place.ioflt("keyd", "status").stdout
    place.umount()
    shown = json.loads(place.ioflt("keyd", "status", "--json").stdout)
    assert [one["users"] for one in shown["keys"] if one["key"] == key] == [[]]


def test_what_is_open_is_saved_although_its_key_is_gone(place: Place, top: Path) -> None:
    """A disk at each write, a VMX whole at fsync and close: what was acknowledged is there afterwards."""
    vmx, disk = top / "web01.vmx", top / "one-flat.vmdk"
    vmx.write_bytes(b'memsize = "64"\n')
    (key,) = json.loads(place.ioflt("vm", "show", place.datastore / "web01", "--json").stdout)["keys"]
    with vmx.open("r+b", buffering=0) as opened, disk.open("r+b", buffering=0) as guest:
        said = place.ioflt("key", "remove", "--force", key)
        assert "what of it is open goes on until it is closed" in said.stderr
        opened.write(b'memsize = "128"\n')
        os.fsync(opened.fileno())
        with vmx.open("r+b", buffering=0) as another:  # as long as it is open here
            another.seek(0, os.SEEK_END)
            another.write(b'numvcpus = "2"\n')
        opened.seek(0)
        assert opened.read() == b'memsize = "128"\nnumvcpus = "2"\n'
        opened.truncate(0)
        opened.seek(0)
        opened.write(b'memsize = "256"\n')  # saved by close
        guest.write(b"WRITTEN")
        os.fsync(guest.fileno())
    with pytest.raises(OSError, match=os.strerror(errno.ENOKEY)):
        vmx.read_bytes()
    place.ioflt("key", "add", key)
    place.remount()
    assert vmx.read_bytes() == b'memsize = "256"\n'
    assert disk.read_bytes() == b"WRITTEN" + TEXT[7:]
