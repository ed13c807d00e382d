"""A mount makes VMs by the policy that its datastore has now."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.mounted.place import Place

pytestmark = [pytest.mark.fuse, pytest.mark.root]


@pytest.fixture
def place(tmp_path: Path, ioflt_home: Path) -> Place:
    return Place(tmp_path)


def made(place: Place, name: str) -> tuple[str, str, bool]:
    """State, policy and provisioning of a VM that is made through the mount."""
    directory = place.mountpoint / name
    directory.mkdir()
    (directory / "disk.img").write_bytes(b"secret" * 1000)
    assert (directory / "disk.img").read_bytes() == b"secret" * 1000
    shown = json.loads(place.ioflt("vm", "show", place.datastore / name, "--json").stdout)
    return shown["state"], shown["policy"], shown["thick"]


def test_new_vms_get_the_policy_that_the_datastore_has_by_then(place: Place) -> None:
    place.ioflt("policy", "create", "Gold", "--thick")
    place.ioflt("policy", "create", "Silver", "--clear")
    place.mount()
    try:
        assert made(place, "a") == ("encrypted", "VM Encryption Policy", False)
        place.ioflt("policy", "assign", "Gold", place.datastore)
        assert made(place, "b") == ("encrypted", "Gold", True)
        stored = json.loads(place.ioflt("inspect", place.datastore / "b" / "disk.img", "--json").stdout)
        assert stored["provisioning"] == "thick"
        place.ioflt("policy", "assign", "Silver", place.datastore)
        assert made(place, "c") == ("clear", "Silver", False)
        assert (place.datastore / "c" / "disk.img").read_bytes() == b"secret" * 1000
        # what was there is as it was, and takes writes
        (place.mountpoint / "a" / "more.img").write_bytes(b"secret" * 1000)
        assert b"secret" not in (place.datastore / "a" / "more.img").read_bytes()
        # a policy that this host has forgotten: its name stays, and whether it encrypts
        place.ioflt("policy", "assign", "Gold", place.datastore)
        place.ioflt("policy", "remove", "Gold", "--force")
        assert made(place, "d") == ("encrypted", "Gold", False)
        assert json.loads(place.ioflt("policy", "check", place.datastore, "--json", check=False).stdout)
    finally:
        place.umount()


def test_a_policy_is_given_to_a_vm_in_use_but_it_is_not_converted(place: Place) -> None:
    place.ioflt("policy", "create", "Gold")
    place.mount()
    try:
        assert made(place, "a") == ("encrypted", "VM Encryption Policy", False)
        with open(place.mountpoint / "a" / "disk.img", "r+b") as file:
            place.ioflt("policy", "assign", "Gold", place.datastore / "a")
            refused = place.ioflt("policy", "assign", "Datastore Default", place.datastore / "a", check=False)
            assert refused.returncode == 6
            file.write(b"changed")
        assert (place.mountpoint / "a" / "disk.img").read_bytes()[:7] == b"changed"
        place.ioflt("policy", "assign", "Datastore Default", place.datastore / "a")
        assert (place.mountpoint / "a" / "disk.img").read_bytes()[:7] == b"changed"
        assert (place.datastore / "a" / "disk.img").read_bytes()[:7] == b"changed"
    finally:
        place.umount()
