"""Assigned policies: what a record says and what its files are agree; new VMs get their datastore's."""

import os

import pytest

from ioflt.datastore import assign, cbt, compliance, files, lifecycle, policies
from ioflt.datastore.deep import home as deep
from ioflt.datastore.volume import Volume
from ioflt.errors import BusyError, KeyNotFound, NotFoundError, StorageError, UsageError
from ioflt.keys.native.store import NativeStore
from ioflt.paths import find
from ioflt.policy import text
from ioflt.policy.bundled import DATASTORE_DEFAULT, VM_ENCRYPTION
from ioflt.policy.model import CBT, Filter, StoragePolicy, encryption
from ioflt.types import HomeState

GOLD = StoragePolicy(
    "Gold", "0f0e0d0c-0b0a-4908-8706-050403020100", "", (encryption(),), provisioning="thick"
)
SILVER = StoragePolicy("Silver", "0f0e0d0c-0b0a-4908-8706-050403020101")
ABROAD = StoragePolicy("Abroad", "0f0e0d0c-0b0a-4908-8706-050403020102", "", (encryption(),), "abroad")
TAGS = StoragePolicy("Tags", "0f0e0d0c-0b0a-4908-8706-050403020103", "", (encryption(),), integrity=True)


@pytest.fixture
def own(keys):
    for policy in (GOLD, SILVER, ABROAD):
        keys.add_policy(text.write([policy]))


@pytest.fixture
def vm(volume):
    """A clear VM."""
    home = volume.make_home("vm", 0o755)
    if home.standing().state is HomeState.ENCRYPTED:
        lifecycle.decrypt(volume, "vm")
    with open(f"{volume.path}/vm/disk.raw", "wb") as file:
        file.write(b"secret" * 1000)
    return "vm"


def stored(volume):
    with open(f"{volume.path}/vm/disk.raw", "rb") as file:
        return file.read()


def record_of(volume, name="vm"):
    return volume.home(name).standing().record


@pytest.mark.usefixtures("own")
def test_an_encryption_policy_encrypts_and_a_clear_one_decrypts(volume, vm):
    found = assign.to_home(volume, vm, GOLD)
    assert (found.policy, found.state, found.thick) == ("Gold", HomeState.ENCRYPTED, True)
    assert found == record_of(volume)
    assert b"secret" not in stored(volume)
    found = assign.to_home(volume, vm, SILVER)
    assert (found.policy, found.state) == ("Silver", HomeState.CLEAR)
    assert stored(volume) == b"secret" * 1000
    assert compliance.look(volume) == []


@pytest.mark.usefixtures("own")
def test_another_policy_of_the_same_state_only_names_it(volume, vm):
    lifecycle.encrypt(volume, vm, policy=VM_ENCRYPTION)
    before, data = record_of(volume), stored(volume)
    after = assign.to_home(volume, vm, GOLD)
    assert (after.policy, after.thick, after.keys) == ("Gold", True, before.keys)
    assert after.generation == before.generation + 1
    assert stored(volume) == data
    assert assign.to_home(volume, vm, GOLD) == after  # and nothing is written twice


@pytest.mark.usefixtures("own")
def test_a_policy_may_change_while_the_vm_runs_but_its_state_not(volume, vm):
    lifecycle.encrypt(volume, vm)
    home = volume.home(vm)
    home.enter()
    try:
        assert assign.to_home(volume, vm, GOLD).policy == "Gold"
        with pytest.raises(BusyError):
            assign.to_home(volume, vm, SILVER)
    finally:
        home.leave()
    assert record_of(volume).policy == "Gold"


@pytest.mark.usefixtures("own")
def test_an_interrupted_decryption_is_gone_on_with_and_taken_back(volume, vm, monkeypatch):
    lifecycle.encrypt(volume, vm, policy=GOLD)

    def stop(self):
        raise StorageError("stopped", 5)

    with monkeypatch.context() as patch:
        patch.setattr(lifecycle.Conversion, "run", stop)
        with pytest.raises(StorageError):
            assign.to_home(volume, vm, SILVER)
    assert record_of(volume).policy == "Silver"
    assert record_of(volume).operation.kind == "decrypt"
    assert assign.to_home(volume, vm, VM_ENCRYPTION).policy == VM_ENCRYPTION.name
    assert b"secret" not in stored(volume)
    with monkeypatch.context() as patch:
        patch.setattr(lifecycle.Conversion, "run", stop)
        with pytest.raises(StorageError):
            assign.to_home(volume, vm, SILVER)
    lifecycle.decrypt(volume, vm)
    assert record_of(volume).policy == "Silver"
    assert stored(volume) == b"secret" * 1000


@pytest.mark.usefixtures("own")
def test_new_vms_get_the_datastores_policy(volume, keys):
    assign.to_datastore(volume, GOLD)
    assert (volume.record.policy, volume.record.default) == ("Gold", HomeState.ENCRYPTED)
    home = volume.make_home("new", 0o755)
    found = home.standing().record
    assert (found.policy, found.state, found.thick) == ("Gold", HomeState.ENCRYPTED, True)
    with Volume.open(volume.path, keys) as other:
        assign.to_datastore(other, SILVER)
    found = volume.make_home("newer", 0o755).standing().record
    assert (found.policy, found.state) == ("Silver", HomeState.CLEAR)
    assert compliance.look(volume) == []


@pytest.mark.usefixtures("own")
def test_shorthands_assign_what_the_datastore_has_or_what_comes_with_ioflt(volume, vm):
    lifecycle.encrypt(volume, vm)
    assert record_of(volume).policy == VM_ENCRYPTION.name
    lifecycle.decrypt(volume, vm)
    assert record_of(volume).policy == DATASTORE_DEFAULT.name
    assign.to_datastore(volume, GOLD)
    lifecycle.encrypt(volume, vm)
    assert (record_of(volume).policy, record_of(volume).thick) == ("Gold", True)
    assign.to_datastore(volume, SILVER)
    lifecycle.decrypt(volume, vm)
    assert record_of(volume).policy == "Silver"


@pytest.mark.usefixtures("own")
def test_a_policys_provider_makes_the_keys(volume, vm, keys):
    with pytest.raises(KeyNotFound, match="no provider abroad"):
        assign.to_datastore(volume, ABROAD)
    with pytest.raises(KeyNotFound, match="no provider abroad"):
        assign.to_home(volume, vm, ABROAD)
    assert stored(volume) == b"secret" * 1000
    store = NativeStore(find().providers)
    store.create("abroad")
    store.mark_backed_up("abroad")
    keys.reload()
    assert {key.provider for key in assign.to_home(volume, vm, ABROAD).keys} == {"abroad"}


def test_files_at_the_top_are_not_made_into_something_else(volume, own, default):
    open(f"{volume.path}/notes", "w").close()
    same, other = (GOLD, SILVER) if default is HomeState.ENCRYPTED else (SILVER, GOLD)
    assign.to_datastore(volume, same)
    with pytest.raises(UsageError, match=f"files at its top, which are {default.value}: notes"):
        assign.to_datastore(volume, other)
    assert volume.record.policy == same.name


def test_disks_that_are_to_be_tracked_are_found(volume, vm, keys, default):
    filters = (encryption(), Filter(CBT)) if default is HomeState.ENCRYPTED else (Filter(CBT),)
    tracked = StoragePolicy("Tracked", "0f0e0d0c-0b0a-4908-8706-050403020103", "", filters)
    keys.add_policy(text.write([tracked]))
    assign.to_home(volume, vm, tracked)
    home = volume.home(vm)
    for name in ("new.raw", "web-flat.vmdk", "web-f001.vmdk", "notes.raw.txt"):
        os.close(files.create(home, home.fd, name, mode=0o644))
    found = {one.what: one.mend for one in compliance.of_home(home)}
    disks = ("disk.raw", "new.raw", "web-f001.vmdk", "web-flat.vmdk")
    place = f"{volume.path}/{vm}"
    assert found == {f"changed blocks of {name}": f"ioflt cbt enable {place} {name}" for name in disks}
    for name in disks:
        assert cbt.enable(home, name)
    assert compliance.of_home(home) == []
    with pytest.raises(NotFoundError, match="no policy Bronze"):
        policies.to_assign(keys, "Bronze")


@pytest.mark.usefixtures("own")
def test_departures_are_found_with_what_mends_them(volume, vm, keys):
    assign.to_home(volume, vm, GOLD)
    keys.remove_policy("Gold")
    place = f"{volume.path}/vm"
    (unknown,) = compliance.look(volume)
    assert (unknown.path, unknown.policy, unknown.what, unknown.wanted) == (place, "Gold", "policy", "Gold")
    assert unknown.mend == f"ioflt policy assign 'VM Encryption Policy' {place}"
    # another policy of that name: who made it means something else by it
    keys.add_policy(text.write([StoragePolicy("Gold", "0f0e0d0c-0b0a-4908-8706-050403020109")]))
    (other,) = compliance.look(volume)
    assert (other.what, other.wanted, other.found) == ("encryption", "clear", "encrypted")
    keys.remove_policy("Gold")
    slots = StoragePolicy(
        "Gold", "0f0e0d0c-0b0a-4908-8706-050403020109", "", (encryption(),), "abroad", "thin", False, True
    )
    keys.add_policy(text.write([slots]))
    found = compliance.look(volume)
    assert [one.what for one in found] == ["provider", "provisioning of new files", "recovery slot"]
    assert found[2].found == "none in disk.raw"
    assert assign.to_home(volume, vm, slots).thick is False
    assert [one.what for one in compliance.look(volume)] == ["provider", "recovery slot"]


@pytest.mark.usefixtures("own")
def test_an_encrypted_vm_keeps_its_files_and_is_told_how_they_get_tags(volume, vm, keys):
    lifecycle.encrypt(volume, vm)
    keys.add_policy(text.write([TAGS]))
    assign.to_home(volume, vm, TAGS)
    (found,) = compliance.look(volume)
    place = f"{volume.path}/vm"
    assert (found.path, found.what, found.wanted, found.found) == (place, "integrity", "tags", "none")
    assert found.mend == f"ioflt vm recrypt {place} --deep --integrity"
    deep.recrypt(volume, vm, integrity=True)
    assert compliance.look(volume) == []
    assign.to_home(volume, vm, VM_ENCRYPTION)  # tags that nobody asks for any more are no departure
    assert record_of(volume).integrity
    assert compliance.look(volume) == []
    lifecycle.decrypt(volume, vm)
    lifecycle.encrypt(volume, vm)
    assert not record_of(volume).integrity


@pytest.mark.parametrize("default", [HomeState.ENCRYPTED])
def test_files_at_the_top_have_no_integrity_and_that_is_told(volume, keys, default):
    for name in ("notes", "some.vmx"):
        with open(f"{volume.path}/{name}", "wb") as file:
            file.write(b"x")
    assert compliance.look(volume) == []
    keys.add_policy(text.write([TAGS]))
    assign.to_datastore(volume, TAGS)
    (found,) = compliance.look(volume)
    assert (found.path, found.policy, found.what) == (volume.path, "Tags", "integrity of notes")
    assert (found.wanted, found.mend) == ("tags", None)


def test_a_vm_without_a_record_is_named(volume, vm):
    os.unlink(f"{volume.path}/{vm}/.ioflt")
    (found,) = compliance.look(volume)
    assert (found.what, found.mend) == ("record", f"ioflt vm register {volume.path}/vm")
