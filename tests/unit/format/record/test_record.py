"""Records: every one written is read again, every vector gives what its header lines say."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.crypto.kdf import hkdf
from ioflt.crypto.mac import tag, verify
from ioflt.crypto.secret import Secret
from ioflt.errors import BugError, CorruptDataError, MalformedError, UsageError
from ioflt.format.record import record
from ioflt.format.record.record import (
    MAX_KEYS,
    Current,
    DatastoreRecord,
    Deep,
    HomeRecord,
    Move,
    Operation,
    Recrypt,
    Rename,
)
from ioflt.testing.vectors import Vector, read
from ioflt.types import HomeState, KeyRef

ROOT = Path(__file__).parents[4]
VECTORS = read(ROOT / "tests/vectors/record")
KEK = Secret(bytes(range(32)))

uuids = st.uuids().map(str)
texts = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=30)
keys = st.builds(KeyRef, texts, texts)
names = (
    st.binary(min_size=1, max_size=60)
    .filter(lambda raw: b"/" not in raw and b"\0" not in raw and raw not in (b".", b".."))
    .map(os.fsdecode)
)
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
operations = st.builds(
    Operation,
    st.sampled_from(["encrypt", "decrypt"]),
    uuids,
    st.booleans(),
    st.lists(paths, unique=True, max_size=5).map(tuple),
    st.none() | st.builds(Current, paths, uuids),
)
moves = st.builds(Move, uuids, uuids, uuids)
key_lists = st.lists(keys, min_size=1, max_size=MAX_KEYS, unique=True).map(tuple)
generations = st.integers(1, 2**63 - 1)
path_lists = st.lists(paths, unique=True, max_size=5).map(tuple)
currents = st.none() | st.builds(Current, paths, uuids)


def datastore_in_recrypt(
    datastore: DatastoreRecord, old: tuple[KeyRef, ...], drop: bool, id: str
) -> DatastoreRecord:
    to = datastore.keys
    old = tuple(key for key in old if key not in to)
    return dataclasses.replace(datastore, keys=to if drop else to + old, operation=Recrypt(id, old, to))


idle_datastores = st.builds(
    DatastoreRecord, uuids, st.sampled_from(HomeState), key_lists, texts, st.none(), generations
)
datastores = idle_datastores | st.builds(
    datastore_in_recrypt, idle_datastores, key_lists, st.booleans(), uuids
)


def encrypted_home(
    homes: tuple[str, str],
    found: tuple[KeyRef, ...],
    policy: str,
    thick: bool,
    operation: Operation | Move | None,
    generation: int,
    clear_files: tuple[str, ...],
) -> HomeRecord:
    return HomeRecord(
        *homes, HomeState.ENCRYPTED, found, (), policy, thick, operation, generation, clear_files
    )


def in_recrypt(home: HomeRecord, old: tuple[KeyRef, ...], deep: bool, drop: bool, id: str) -> HomeRecord:
    to = home.keys
    old = tuple(key for key in old if key not in to)
    operation = Deep(id, "copy", old, to, ("a", "b/c"), Current("a", id)) if deep else Recrypt(id, old, to)
    return dataclasses.replace(home, keys=to if drop else to + old, operation=operation)


def of_disk(home: HomeRecord, made: Operation, others: tuple[str, ...]) -> HomeRecord:
    files = made.pending + tuple(path for path in others if path not in made.pending)
    clear_files = tuple(path for path in home.clear_files if path not in files)
    return dataclasses.replace(
        home, clear_files=clear_files, operation=dataclasses.replace(made, files=files)
    )


def in_rename(home: HomeRecord, old: str, new: str) -> HomeRecord:
    return dataclasses.replace(
        home, operation=Rename(old, f"x{new}" if f"{new}/".startswith(f"{old}/") else new)
    )


idle = st.builds(
    encrypted_home,
    st.tuples(uuids, uuids),
    key_lists,
    texts,
    st.booleans(),
    st.none() | operations | moves,
    generations,
    path_lists,
)
encrypted = (
    idle
    | st.builds(in_recrypt, idle, key_lists, st.booleans(), st.booleans(), uuids)
    | st.builds(of_disk, idle, operations, st.lists(paths, min_size=1, unique=True).map(tuple))
    | st.builds(in_rename, idle, paths, paths)
)
encrypted |= st.builds(lambda home: dataclasses.replace(home, integrity=True), encrypted)
clear = st.builds(
    HomeRecord,
    uuids,
    uuids,
    st.just(HomeState.CLEAR),
    st.just(()),
    st.lists(names, min_size=1, max_size=2, unique=True).map(tuple),
    texts,
    st.booleans(),
    st.none() | moves,
    generations,
)
records = datastores | encrypted | clear


def sealed(made: record.Record) -> bytes:
    payload = record.encode(made)
    return record.seal(payload, [tag(hkdf(KEK, record.label(made)), payload)] * (len(made.keys) or 1))


@given(made=records)
def test_round_trip(made: record.Record) -> None:
    data = sealed(made)
    found = record.parse(data)
    assert found.record == made
    assert record.seal(record.encode(found.record), found.tags) == data
    assert data == sealed(opened(data, KEK).record)
    assert data.count(b"\n") == 1 + len(found.tags)
    assert data.isascii()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_vector(vector: Vector) -> None:
    kek = Secret(bytes.fromhex(vector.headers["kek"]))
    if vector.expect != "ok":
        with pytest.raises(CorruptDataError) as caught:
            opened(vector.body, kek)
        assert caught.value.reason == vector.expect
        return
    found = opened(vector.body, kek)
    if found.record.generation == 0:  # format 1 is not written
        assert record.parse(sealed(dataclasses.replace(found.record, generation=1))).record == (
            dataclasses.replace(found.record, generation=1)
        )
    else:
        assert record.seal(record.encode(found.record), found.tags) == vector.body


def opened(data: bytes, kek: Secret) -> record.Unverified[record.Record]:
    found = record.parse(data)
    for one in found.tags:
        verify(hkdf(kek, found.label), found.payload, one)
    return found


@pytest.mark.parametrize("name", ["home", "home-1", "3-home", "2-datastore", "datastore"])
def test_the_record_of_the_spec_is_the_vector(name: str) -> None:
    body = (ROOT / "tests/vectors/record" / name).read_text().partition("\n\n")[2]
    assert f"```\n{body}```" in (ROOT / "ioflt/format/record/SPEC.md").read_text()


@given(made=records, offset=st.integers(0), value=st.integers(0, 255))
def test_damage_gives_a_named_error(made: record.Record, offset: int, value: int) -> None:
    data = bytearray(sealed(made))
    before = bytes(data)
    data[offset % len(data)] = value
    if data == before:
        return
    with pytest.raises(CorruptDataError):
        opened(bytes(data), KEK)


@given(data=st.binary(max_size=300))
def test_any_bytes_give_a_named_error(data: bytes) -> None:
    with pytest.raises(CorruptDataError):
        record.parse(data)


@given(home=encrypted | clear, datastore=datastores)
def test_a_record_of_the_other_kind_is_refused(home: HomeRecord, datastore: DatastoreRecord) -> None:
    assert record.parse_home(sealed(home)).record == home
    assert record.parse_datastore(sealed(datastore)).record == datastore
    with pytest.raises(MalformedError, match="wrong kind"):
        record.parse_home(sealed(datastore))
    with pytest.raises(MalformedError, match="wrong kind"):
        record.parse_datastore(sealed(home))


HOME = HomeRecord(
    "0f0e0d0c-0b0a-4908-8706-050403020100",
    "11111111-2222-4333-8444-555555555555",
    HomeState.ENCRYPTED,
    (KeyRef("local", "key-1"),),
    (),
    "",
    False,
    None,
)


@pytest.mark.parametrize(
    "change",
    [
        {"keys": ()},
        {"keys": (HOME.keys[0], HOME.keys[0])},
        {"generation": 0},
        {"clear_files": ("../x",)},
        {"operation": Recrypt(HOME.home_id, HOME.keys, HOME.keys)},
        {"operation": Recrypt(HOME.home_id, HOME.keys, (KeyRef("local", "key-2"),))},
        {"names": ("web01",)},
        {"state": HomeState.CLEAR},
        {"home_id": "../x"},
        {"policy": "\n"},
        {"operation": Operation("encrypt", HOME.home_id, False, ("../x",), None)},
        {"operation": Operation("encrypt", HOME.home_id, False, ("x", "x"), None)},
    ],
)
def test_nonsense_is_not_written(change: dict[str, object]) -> None:
    with pytest.raises(BugError):
        record.encode(dataclasses.replace(HOME, **change))


def test_two_mebibytes_are_the_limit() -> None:
    def home_of(files: int) -> HomeRecord:
        pending = tuple(f"{'d' * 100}/{number:099}" for number in range(files))
        return dataclasses.replace(HOME, operation=Operation("encrypt", HOME.home_id, False, pending, None))

    large = sealed(home_of(10_000))
    assert len(large) <= record.MAX_SIZE
    assert record.parse(large).record == home_of(10_000)
    with pytest.raises(UsageError, match="2 MiB"):
        record.encode(home_of(11_000))
    with pytest.raises(MalformedError, match="oversized record"):
        record.parse(large + bytes(record.MAX_SIZE))


def test_escapes_that_grow_beyond_the_limit_are_only_not_canonical() -> None:
    """A payload below the limit whose canonical form is above it is refused like any other."""
    data = sealed(HOME).replace(b'"policy":""', b'"policy":"' + "Ü".encode() * 100 + b'"')
    with pytest.raises(MalformedError, match="not canonical"):
        record.parse(data)


def test_bytes_of_the_spec() -> None:
    assert record.encode(HOME) == (
        b'{"format":2,"kind":"home","home_id":"0f0e0d0c-0b0a-4908-8706-050403020100",'
        b'"datastore_id":"11111111-2222-4333-8444-555555555555","generation":1,"state":"encrypted",'
        b'"keys":[{"provider":"local","key_id":"key-1"}],"names":[],"policy":"","thick":false,'
        b'"clear_files":[],"operation":null}'
    )
