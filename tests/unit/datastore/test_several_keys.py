"""A home of several keys: any of them opens it, and no edit of its record passes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ioflt.datastore import check, files
from ioflt.datastore.home import Home
from ioflt.datastore.standing import Treatment
from ioflt.datastore.volume import Volume
from ioflt.errors import AuthenticationError, KeyUnavailableError, ReadOnlyError
from ioflt.format.record import record as form
from ioflt.format.record.record import HomeRecord
from ioflt.format.vmx import sealed
from ioflt.types import HomeState
from tests.unit.datastore.lacking import Keys


@pytest.fixture
def keys(tmp_path: Path, ioflt_home: Path) -> Iterator[Keys]:
    (tmp_path / "keys").mkdir()
    with Keys(tmp_path / "keys") as made:
        yield made


@pytest.fixture
def volume(tmp_path: Path, keys: Keys) -> Iterator[Volume]:
    Volume.init(tmp_path / "ds", HomeState.ENCRYPTED, keys)
    with Volume.open(tmp_path / "ds", keys) as made:
        yield made


@pytest.fixture
def home(volume: Volume) -> Home:
    """An encrypted home of two keys with two files."""
    home = volume.make_home("vm", 0o755)
    home.store(replace(record_of(home), keys=(*record_of(home).keys, volume.keys.new_key())))
    for name in ("disk.vmdk", "vm.vmx"):
        os.close(files.create(home, home.fd, name, mode=0o600))
        with_file(home, name, b"first")
    return home


def record_of(home: Home) -> HomeRecord:
    record = home.standing().record
    assert record is not None
    return record


def with_file(home: Home, name: str, data: bytes | None = None) -> bytes:
    """Read the file, after writing it where there is something to write."""
    fd = files.open_regular(home.fd, name, os.O_RDWR)
    place = (home.fd, home.fd, name)
    file = files.open_file(home, fd, home.treatment(name, fd), writable=True, place=lambda: place, name=name)
    if data is not None:
        file.write(0, data)
        file.sync(data_only=False)
    found = bytes(file.read(0, file.length))
    file.close()
    return found


def test_new_files_are_under_both(home: Home) -> None:
    both = record_of(home).keys
    with open(os.path.join(home.volume.path, "vm", "disk.vmdk"), "rb") as file:
        from ioflt.datastore.header import read_header

        assert tuple(token.key for token in read_header(file.fileno()).tokens) == both
    with open(os.path.join(home.volume.path, "vm", "vm.vmx"), "rb") as file:
        assert sealed.peek(file.read()).keys == both


@pytest.mark.parametrize("which", [0, 1])
def test_either_opens_and_writes(home: Home, keys: Keys, which: int) -> None:
    keys.gone = {record_of(home).keys[which]}
    with Volume.open(home.volume.path, keys) as volume:
        again = volume.home("vm")
        assert again.standing().problem is None
        for name in ("disk.vmdk", "vm.vmx"):
            assert with_file(again, name) == b"first"
            assert with_file(again, name, b"second") == b"second"
    keys.gone = set()
    assert with_file(home, "vm.vmx") == b"second"
    found = check.run(home.volume.path, keys)
    assert [entry for entry in found.entries if entry.finding] == []


def test_no_key_can_be_had(home: Home, keys: Keys) -> None:
    keys.gone = set(record_of(home).keys)
    with Volume.open(home.volume.path, keys) as volume, pytest.raises(KeyUnavailableError):
        volume.home("vm").standing()


def test_a_record_needs_all_keys_to_be_written(home: Home, keys: Keys) -> None:
    record = record_of(home)
    keys.gone = {record.keys[1]}
    with pytest.raises(KeyUnavailableError):
        home.store(replace(record, thick=True))
    assert record_of(home) == record


def test_one_key_does_not_speak_for_the_other(home: Home, keys: Keys) -> None:
    """Who has one of the keys makes a record with a right MAC of his and any other for the rest."""
    record = replace(record_of(home), policy="mine")
    payload = form.encode(record)
    tag = keys.mac(record.keys[0], "home-record", payload)
    path = Path(home.volume.path, "vm", ".ioflt")
    path.write_bytes(form.seal(payload, [tag, tag]))
    with pytest.raises(ReadOnlyError, match="bad MAC"):
        home.check_writable()


def test_keys_turned_round(home: Home) -> None:
    path = Path(home.volume.path, "vm", ".ioflt")
    first, second = (form.encode(record_of(home)).index(key.key_id.encode()) for key in record_of(home).keys)
    data = bytearray(path.read_bytes())
    size = len(record_of(home).keys[0].key_id)
    data[first : first + size], data[second : second + size] = (
        data[second : second + size],
        data[first : first + size],
    )
    path.write_bytes(data)
    with pytest.raises(ReadOnlyError, match="bad MAC"):
        home.check_writable()


def test_a_pair_of_a_vmx_that_was_changed(home: Home, keys: Keys) -> None:
    path = Path(home.volume.path, "vm", "vm.vmx")
    other = keys.seal_vmx(record_of(home).keys[1], b"planted", sealed.peek(path.read_bytes()).file_id)
    mine, planted = (sealed.peek(text).safe for text in (path.read_bytes(), other))
    pairs = mine.removeprefix("vmware:key/list/(").removesuffix(")").split(",pair/")
    swapped = f"vmware:key/list/({pairs[0]},{planted.removeprefix('vmware:key/list/(')}"
    path.write_bytes(path.read_bytes().replace(mine.encode(), swapped.encode()))
    assert with_file(home, "vm.vmx") == b"first"
    keys.gone = {record_of(home).keys[0]}
    with pytest.raises(AuthenticationError):
        with_file(home, "vm.vmx")


def test_files_that_are_clear_on_purpose(home: Home) -> None:
    Path(home.volume.path, "vm", "tools.iso").write_bytes(b"public")
    home.store(replace(record_of(home), clear_files=("tools.iso",)))
    assert home.treatment("tools.iso") is Treatment.CLEAR
    assert home.treatment("disk.vmdk") is Treatment.CONTAINER
    assert with_file(home, "tools.iso") == b"public"


def test_generations(home: Home) -> None:
    record = record_of(home)
    assert home.store(record).generation == record.generation + 1
    assert home.store(record, counts=False).generation == record.generation


def test_a_record_of_format_1_is_rewritten(home: Home, keys: Keys) -> None:
    record = replace(record_of(home), keys=record_of(home).keys[:1], generation=0)
    import json

    from ioflt.format.record import homes

    payload = json.dumps(homes.to_json_1(record), separators=(",", ":")).encode()
    path = Path(home.volume.path, "vm", ".ioflt")
    path.write_bytes(form.seal(payload, [keys.mac(record.keys[0], "home-record", payload)]))
    assert record_of(home) == record
    home.store(record_of(home), counts=False)
    assert b'"format":2' in path.read_bytes()
    assert record_of(home) == replace(record, generation=1)
