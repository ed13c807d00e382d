"""Which VMs need a provider: from the records of datastores that were opened here."""

import shutil

import pytest

from ioflt import paths
from ioflt.datastore import lifecycle, seen
from ioflt.datastore.seen import Use
from ioflt.datastore.volume import Volume
from ioflt.types import HomeState


@pytest.fixture
def directory(tmp_path, keys):
    """A datastore with one encrypted VM and one clear one."""
    path = tmp_path / "datastore"
    Volume.init(path, HomeState.ENCRYPTED, keys)
    with Volume.open(path, keys) as volume:
        volume.make_home("web01", 0o755)
        volume.make_home("plain01", 0o755)
        lifecycle.decrypt(volume, "plain01")
    return path


def notes():
    return {path.name: path.read_text() for path in paths.find().datastores.iterdir()}


def test_a_datastore_is_noted_when_it_is_made_and_where_it_is_opened(tmp_path, keys):
    path, moved = tmp_path / "one", tmp_path / "two"
    Volume.init(path, HomeState.CLEAR, keys)
    assert list(notes().values()) == [f"{path}\n"]
    path.rename(moved)
    with Volume.open(moved, keys) as volume:
        assert notes() == {volume.record.datastore_id: f"{moved}\n"}


def test_the_uses_of_a_provider(directory):
    used = [
        Use(str(directory), locks=True, is_datastore=True),
        Use(str(directory / "plain01"), locks=True),  # its record is by the datastore's key
        Use(str(directory / "web01"), locks=True),
    ]
    found = seen.survey()
    assert found.unknown == []
    assert seen.uses(found, "local") == used
    assert seen.uses(found, "another") == []


def test_a_home_with_keys_of_two_providers_is_not_locked(directory, keys, monkeypatch):
    with Volume.open(directory, keys) as volume:
        home = volume.home("web01")
        record = home.standing().record
    other = type(record.keys[0])("another", "id")
    monkeypatch.setattr(seen, "_also", lambda _record: [other])
    for provider in ("another", record.keys[0].provider):
        assert Use(str(directory / "web01"), locks=False) in seen.uses(seen.survey(), provider)


@pytest.mark.parametrize("gone", ["removed", "replaced", "record changed", "record removed"])
def test_a_datastore_that_cannot_be_read_is_unknown(directory, keys, gone, tmp_path):
    if gone == "removed":
        shutil.rmtree(directory)
    elif gone == "replaced":
        shutil.rmtree(directory)
        other = tmp_path / "other"
        Volume.init(other, HomeState.CLEAR, keys)
        other.rename(directory)
    elif gone == "record changed":
        (directory / ".ioflt").write_bytes(b"no record")
    else:
        (directory / ".ioflt").unlink()
    found = seen.survey()
    assert str(directory) in [path for path, _ in found.unknown]
    assert str(directory) not in [one.path for one in found.protected]


def test_a_home_that_cannot_be_read_is_unknown(directory):
    (directory / "web01" / ".ioflt").write_bytes(b"no record")
    (directory / "stray").mkdir()
    (directory / "stray" / "disk.img").write_bytes(b"x")
    (directory / "empty").mkdir()
    found = seen.survey()
    assert found.unknown == [
        (str(directory / "stray"), "it has no record (.ioflt)"),
        (str(directory / "web01"), "its record: not two lines"),
    ]


def test_what_is_made_where_another_was_is_no_stranger(directory, keys):
    """Not even where its making ended before it was noted."""
    shutil.rmtree(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seen, "note", lambda *_, **__: None)
        Volume.init(directory, HomeState.CLEAR, keys)
    with Volume.open(directory, keys) as volume:
        assert seen.at(str(directory)) == volume.record.datastore_id


@pytest.mark.allow_log("cannot remember where the datastore is")
def test_a_note_that_cannot_be_written_is_no_obstacle(directory, keys, tmp_path):
    moved = tmp_path / "moved"
    directory.rename(moved)
    where = paths.find().datastores
    (note,) = where.iterdir()
    note.unlink()
    note.mkdir()
    with Volume.open(moved, keys):
        pass
