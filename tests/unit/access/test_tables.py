"""The three tables say the same: `operations` to people, `uses` and `transitions` to keyd.

A story is what the record of a VM, or of a datastore, goes through in an operation.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.access import transitions, uses
from ioflt.access.objects import ANYWHERE, Place
from ioflt.access.operations import OPERATIONS, Need, On
from ioflt.access.privileges import CRYPTOGRAPHER, Privilege
from ioflt.access.transitions import Transition
from ioflt.format.record.record import (
    Current,
    DatastoreRecord,
    Deep,
    HomeRecord,
    Move,
    Operation,
    Record,
    Recrypt,
    Rename,
)
from ioflt.types import HomeState, KeyRef

HERE, THERE, OLD, NEW, OTHER = (str(uuid.UUID(int=number)) for number in range(5))
PATHS = ("web.vmx", "web.vmdk", "web-flat.vmdk", "logs/a.log")

keys = st.lists(st.sampled_from([KeyRef("local", name) for name in "abcd"]), min_size=1, unique=True)
key_tuples = keys.map(tuple)
paths = st.lists(st.sampled_from(PATHS), unique=True).map(lambda found: tuple(sorted(found)))
policies = st.sampled_from(("", "gold", "silver"))

encrypted = st.builds(
    HomeRecord,
    st.just(OLD),
    st.just(HERE),
    st.just(HomeState.ENCRYPTED),
    key_tuples,
    st.just(()),
    policies,
    st.booleans(),
    st.none(),
    clear_files=paths,
    integrity=st.booleans(),
)
clear = st.builds(
    HomeRecord,
    st.just(OLD),
    st.just(HERE),
    st.just(HomeState.CLEAR),
    st.just(()),
    st.just(("web",)),
    policies,
    st.booleans(),
    st.none(),
)
datastores = st.builds(DatastoreRecord, st.just(HERE), st.sampled_from(HomeState), key_tuples, policies)

Story = list[Record]
Draw = st.DrawFn


def progress(begun: HomeRecord) -> list[HomeRecord]:
    """An operation with files that are pending: one is worked on, then none is left."""
    operation = begun.operation
    assert isinstance(operation, Operation | Deep)
    working = replace(operation, current=Current(operation.pending[0], NEW))
    done = replace(operation, pending=(), current=None)
    return [begun, replace(begun, operation=working), replace(begun, operation=done)]


def encrypt(draw: Draw) -> Story:
    old = draw(clear)
    begun = replace(
        old,
        state=HomeState.ENCRYPTED,
        keys=draw(key_tuples),
        names=(),
        policy=draw(policies),
        thick=draw(st.booleans()),
        integrity=draw(st.booleans()),
        operation=Operation("encrypt", OTHER, False, PATHS, None),
    )
    steps = progress(begun)
    return [old, *steps, replace(steps[-1], operation=None)]


def decrypt(draw: Draw) -> Story:
    old = draw(encrypted)
    begun = replace(
        old, policy=draw(policies), operation=Operation("decrypt", OTHER, False, PATHS, None), clear_files=()
    )
    steps = progress(begun)
    ended = HomeRecord(NEW, HERE, HomeState.CLEAR, (), ("web",), begun.policy, old.thick, None)
    return [old, *steps, ended]


def recrypt(draw: Draw) -> Story:
    old, to = draw(encrypted), draw(key_tuples)
    begun = replace(old, keys=(*to, *old.keys), operation=Recrypt(OTHER, old.keys, to))
    return [old, begun, replace(begun, keys=to), replace(begun, keys=to, operation=None)]


def deep(draw: Draw) -> Story:
    old, to = draw(encrypted), draw(key_tuples)
    mode = draw(st.sampled_from(("copy", "journal")))
    steps = progress(replace(old, operation=Deep(OTHER, mode, old.keys, to, PATHS, None)))
    return [old, *steps, replace(steps[-1], keys=to, operation=None)]


def moved_by_rename(home: st.SearchStrategy[HomeRecord]) -> Callable[[Draw], Story]:
    def story(draw: Draw) -> Story:
        old = draw(home)
        return [old, replace(old, datastore_id=THERE)]

    return story


def moved_by_copy(home: st.SearchStrategy[HomeRecord]) -> Callable[[Draw], Story]:
    def story(draw: Draw) -> Story:
        old = draw(home)
        return [old, replace(old, operation=Move(OTHER, NEW, THERE))]

    return story


def renamed(draw: Draw) -> Story:
    old = draw(clear)
    return [old, replace(old, names=("web", "www")), replace(old, names=("www",))]


def clear_file_renamed(draw: Draw) -> Story:
    old = replace(draw(encrypted), clear_files=("logs/a.log",))
    begun = replace(old, operation=Rename("logs", "old"))
    return [old, begun, replace(old, clear_files=("old/a.log",))]


def clear_file_removed(draw: Draw) -> Story:
    old = replace(draw(encrypted), clear_files=("logs/a.log", "notes.log"))
    return [old, replace(old, clear_files=("notes.log",))]


def assigned(draw: Draw) -> Story:
    old = replace(draw(encrypted | clear), policy="bronze")
    return [old, replace(old, policy="gold", thick=draw(st.booleans()))]


def datastore_recrypt(draw: Draw) -> Story:
    old, to = draw(datastores), draw(key_tuples)
    begun = replace(old, keys=(*to, *old.keys), operation=Recrypt(OTHER, old.keys, to))
    return [old, begun, replace(begun, keys=to, operation=None)]


def assigned_to_datastore(before: HomeState, after: HomeState) -> Callable[[Draw], Story]:
    def story(draw: Draw) -> Story:
        old = replace(draw(datastores), default=before, policy="bronze")
        return [old, replace(old, default=after, policy="gold")]

    return story


CLEAR, ENCRYPTED = HomeState.CLEAR, HomeState.ENCRYPTED

#: By operation. What an operation needs besides is in its `uses`, or asked where no record changes.
STORIES: dict[str, list[Callable[[Draw], Story]]] = {
    "vm encrypt": [encrypt],
    "vm decrypt": [decrypt],
    "vm recrypt": [recrypt],
    "vm recrypt: --deep": [deep],
    "vm move: a clear VM to another datastore": [moved_by_rename(clear)],
    "mount: rename a clear VM": [renamed],
    "mount: rename a clear file of an encrypted VM": [clear_file_renamed],
    "mount: rename, link or remove in a VM": [clear_file_removed],
    "policy assign": [assigned],
    "policy assign: to a datastore": [
        assigned_to_datastore(CLEAR, CLEAR),
        assigned_to_datastore(ENCRYPTED, ENCRYPTED),
    ],
    "policy assign: to a datastore, which encrypts then": [assigned_to_datastore(CLEAR, ENCRYPTED)],
    "policy assign: to a datastore, which is clear then": [assigned_to_datastore(ENCRYPTED, CLEAR)],
    "datastore recrypt": [datastore_recrypt],
}


def transitions_of(story: Story) -> list[Transition]:
    return [transitions.between(old, new, "shown", rolled_back=False) for old, new in pairwise(story)]


def needs(found: Transition) -> Iterator[Need]:
    """As the table puts it."""
    for privilege, place in found.asks:
        yield Need(privilege, on(place))


def on(place: Place) -> On:
    if place == ANYWHERE:
        return On.EVERYTHING
    if place.vm is not None:
        return On.VM
    return On.TARGET if place.datastore == THERE else On.DATASTORE


@pytest.mark.parametrize("name", STORIES)
@given(data=st.data())
def test_a_story_needs_what_the_table_says(name: str, data: st.DataObject) -> None:
    for draw_story in STORIES[name]:
        made = transitions_of(draw_story(data.draw))
        assert {need for each in made for need in needs(each)} == set(OPERATIONS[name].needs)
        assert {each.operation for each in made if each.changes} == {name}


@given(data=st.data())
def test_a_vm_moves_by_a_rename_or_a_copy_for_the_same_privileges(data: st.DataObject) -> None:
    [renamed] = transitions_of(moved_by_rename(encrypted)(data.draw))
    copy = data.draw(encrypted)
    [leaving] = transitions_of(moved_by_copy(encrypted)(data.draw))
    arrives = transitions.first(replace(copy, datastore_id=THERE), "shown", ENCRYPTED, registering=False)
    assert renamed.operation == leaving.operation == "vm move"
    assert set(needs(renamed)) == {*needs(leaving), *needs(arrives)} == set(OPERATIONS["vm move"].needs)


@given(encrypted | clear | datastores, st.booleans())
def test_a_first_record_needs_what_the_table_says(new: Record, registering: bool) -> None:
    default = CLEAR if isinstance(new, HomeRecord) and new.state is CLEAR else ENCRYPTED
    made = transitions.first(new, "shown", default, registering=registering)
    assert set(needs(made)) == set(OPERATIONS[made.operation].needs)


@given(datastores)
def test_who_vouches_for_an_old_record_of_a_datastore_needs_what_the_table_says(old: DatastoreRecord) -> None:
    made = transitions.between(old, old, "shown", rolled_back=True)
    assert set(needs(made)) == set(OPERATIONS[made.operation].needs)


@given(encrypted | clear)
def test_who_vouches_for_an_old_record_of_a_vm_needs_what_the_table_says(old: HomeRecord) -> None:
    made = transitions.between(old, old, "shown", rolled_back=True)
    name = "vm register" if old.keys else "vm register: --clear"
    assert set(needs(made)) == set(OPERATIONS[name].needs)


# Records of somebody who writes what he likes

working = st.none() | st.one_of(
    st.builds(
        Operation, st.sampled_from(("encrypt", "decrypt")), st.just(OTHER), st.booleans(), paths, st.none()
    ),
    st.builds(Recrypt, st.just(OTHER), key_tuples, key_tuples),
    st.builds(
        Deep,
        st.sampled_from((OLD, NEW, OTHER)),
        st.just("copy"),
        key_tuples,
        key_tuples,
        paths,
        st.none(),
    ),
    st.builds(Move, st.just(OTHER), st.just(NEW), st.just(THERE)),
    st.builds(Rename, st.sampled_from(PATHS), st.sampled_from(PATHS)),
)


@st.composite
def homes(draw: Draw) -> HomeRecord:
    home = replace(
        draw(encrypted | clear),
        home_id=draw(st.sampled_from((OLD, NEW))),
        datastore_id=draw(st.sampled_from((HERE, THERE))),
    )
    if home.state is CLEAR:
        return replace(home, names=draw(st.sampled_from((("web",), ("web", "www"), ("www",)))))
    return replace(home, operation=draw(working))


@given(homes(), homes(), st.booleans())
def test_any_change_is_an_operation_of_the_table(old: HomeRecord, new: HomeRecord, rolled_back: bool) -> None:
    made = transitions.between(old, new, "shown", rolled_back=rolled_back)
    assert made.operation in OPERATIONS
    own, around = transitions.place_of(old, "shown"), Place(None, new.datastore_id, "shown")
    assert {place for _, place in made.asks} <= {own, around}


@given(homes(), homes())
def test_without_cryptography_nobody_changes_how_a_vm_is_stored(old: HomeRecord, new: HomeRecord) -> None:
    asked = {privilege for privilege, _ in transitions.between(old, new, "shown", rolled_back=False).asks}
    if asked & CRYPTOGRAPHER:
        return
    assert new.state is old.state
    assert set(new.keys) == set(old.keys)
    if old.operation is None:
        assert set(new.clear_files) <= set(old.clear_files)


@given(homes(), homes())
def test_an_old_record_needs_more_not_less(old: HomeRecord, new: HomeRecord) -> None:
    fresh = transitions.between(old, new, "shown", rolled_back=False)
    assert set(fresh.asks) < {
        *transitions.between(old, new, "shown", rolled_back=True).asks,
        (Privilege.READ, ANYWHERE),  # so that what already asks for all of it passes
    }


# What keyd is asked to do with keys


def parts(command: str) -> set[Privilege]:
    """What the command, or a part of it, asks for."""
    return {
        need.privilege
        for name, operation in OPERATIONS.items()
        if name == command or name.startswith(f"{command}: ")
        for need in operation.needs
    }


@pytest.mark.parametrize("name", OPERATIONS)
def test_keys_are_used_for_no_other_privilege_than_the_table_names(name: str) -> None:
    found = uses.of(name)
    used = {*(found.opens or ()), *(found.makes or ()), *(found.rewraps or ())}
    assert used <= parts(name)


@pytest.mark.parametrize("name", [name for name, each in OPERATIONS.items() if each.hands_out])
def test_what_hands_out_data_keys_may_have_keyd_do_so(name: str) -> None:
    """A command declares itself by its words, or with its option."""
    found = [uses.of(name), uses.of(name.partition(": ")[0])]
    fresh = any(need.privilege is Privilege.ENCRYPT_NEW for need in OPERATIONS[name].needs)
    assert fresh or any(each.opens or each.makes for each in found)  # a new VM's keys its maker has anyway


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_hands_out_no_data_keys_opens_none(name: str) -> None:
    found = uses.of(name)
    family = [each for other, each in OPERATIONS.items() if other == name or other.startswith(f"{name}: ")]
    if not any(each.hands_out for each in family):
        assert not found.opens
        assert not found.makes
