"""From one record to the next: what nobody does without a privilege."""

from __future__ import annotations

from dataclasses import replace

from ioflt.access import transitions
from ioflt.access.privileges import Privilege
from ioflt.format.record.record import DatastoreRecord, HomeRecord, Rename
from ioflt.types import HomeState, KeyRef

HOME = HomeRecord(
    "0f0e0d0c-0b0a-4908-8706-050403020100",
    "11111111-2222-4333-8444-555555555555",
    HomeState.ENCRYPTED,
    (KeyRef("local", "a"),),
    (),
    "",
    False,
    None,
    clear_files=("notes.log",),
)


def asked(old: HomeRecord, new: HomeRecord) -> set[Privilege]:
    return {privilege for privilege, _ in transitions.between(old, new, "web", rolled_back=False).asks}


def test_an_encrypted_file_gets_no_clear_name_by_a_rename() -> None:
    renaming = replace(HOME, operation=Rename("notes.log", "web-flat.vmdk"))
    assert Privilege.ACCESS in asked(HOME, renaming)
    both = replace(HOME, clear_files=("notes.log", "web-flat.vmdk"))
    assert Privilege.DECRYPT in asked(renaming, both)
    assert Privilege.DECRYPT in asked(HOME, both)
    done = replace(HOME, clear_files=("web-flat.vmdk",))
    assert Privilege.DECRYPT not in asked(renaming, done)
    assert Privilege.DECRYPT not in asked(renaming, HOME)


def test_a_clear_vm_gets_other_names_or_none_by_who_may_rename_it() -> None:
    clear = replace(HOME, state=HomeState.CLEAR, keys=(), names=("web",), clear_files=())
    for names in (("web", "web2"), ("web2",), ()):
        assert asked(clear, replace(clear, names=names)) == {Privilege.MOVE_VM}
    assert asked(clear, clear) == set()


def test_another_id_of_a_datastore_is_asked_for_on_both() -> None:
    old = DatastoreRecord(HOME.datastore_id, HomeState.ENCRYPTED, HOME.keys, "")
    new = replace(old, datastore_id=HOME.home_id)
    asks = transitions.between(old, new, "/srv/ds", rolled_back=False).asks
    assert {(privilege, place.datastore) for privilege, place in asks} == {
        (Privilege.REGISTER_HOST, old.datastore_id),
        (Privilege.REGISTER_HOST, new.datastore_id),
    }
