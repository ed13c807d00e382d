"""What is wrong in a datastore is found, each thing once, and nothing is changed by looking."""

import os

import pytest

from ioflt.datastore import erase, health, lifecycle
from ioflt.datastore.health import Problem
from ioflt.datastore.volume import Volume
from ioflt.errors import StorageError


@pytest.fixture
def vm(volume):
    home = volume.make_home("vm", 0o755)
    if home.standing().record.keys:
        lifecycle.decrypt(volume, "vm")
    with open(f"{volume.path}/vm/disk.raw", "wb") as file:
        file.write(b"secret" * 1000)
    lifecycle.encrypt(volume, "vm")
    return home


def fail(*_args, **_options):
    raise StorageError("stopped", 5)


def test_nothing_is_wrong(volume, vm, keys, fingerprint):
    before = fingerprint(volume.path)
    with Volume.open(volume.path, keys, read_only=True) as other:
        found = health.look(other)
    assert (found.vms, found.problems) == ({"encrypted": 1}, [])
    assert [key.provider for key in found.keys] == ["local"]
    assert fingerprint(volume.path) == before


def test_an_interrupted_conversion_is_unfinished_and_no_departure(volume, vm, monkeypatch):
    monkeypatch.setattr(lifecycle.Conversion, "run", fail)
    with pytest.raises(StorageError):
        lifecycle.decrypt(volume, "vm")
    (found,) = health.look(volume).problems
    assert (found.kind, found.path) == ("unfinished", f"{volume.path}/vm")
    assert "its decryption was interrupted; `ioflt vm decrypt` resumes it" in found.problem


def test_an_interrupted_erase_is_unfinished(volume, vm, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(erase, "_overwrite", fail)
        with pytest.raises(StorageError):
            erase.erase(volume, "vm")
    (hidden,) = [name for name in os.listdir(f"{volume.path}/.ioflt.d") if name.startswith("erase-")]
    assert health.look(volume).problems == [
        Problem("unfinished", f".ioflt.d/{hidden}", "its erase was interrupted")
    ]
    erase.resume(volume)
    assert health.look(volume).problems == []


def test_a_vm_whose_key_is_gone_is_locked(volume, vm, keys):
    (key,) = vm.standing().record.keys
    keys.remove_key(key)
    with Volume.open(volume.path, keys, read_only=True) as other:
        (found,) = health.look(other).problems
    assert (found.kind, found.path) == ("locked", f"{volume.path}/vm")
    assert "the key was removed from this host" in found.problem


def test_the_vm_of_the_keys_that_is_encrypted_is_named(volume, vm, keys):
    keys.mark_key_holder(vm.standing().record.home_id, holds=True)
    (found,) = health.look(volume).problems
    assert found.kind == "key holder"


def test_a_missing_record_is_a_departure(volume, vm):
    os.unlink(f"{volume.path}/vm/.ioflt")
    (found,) = health.look(volume).problems
    assert (found.kind, found.mend) == ("departure", f"ioflt vm register {volume.path}/vm")
