"""A datastore whose own key cannot be had: homes with other keys go on, nothing is made or believed by it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ioflt import paths
from ioflt.crypto.rng import new_uuid
from ioflt.datastore import check, clone, erase, files, lifecycle, move, recrypt, resume, seen, summary
from ioflt.datastore.home import Home
from ioflt.datastore.volume import Volume
from ioflt.errors import (
    AuthenticationError,
    BusyError,
    IofltError,
    KeyUnavailableError,
    MalformedError,
    UsageError,
)
from ioflt.format.record import record as form
from ioflt.format.record.record import DatastoreRecord
from ioflt.types import HomeState, KeyRef
from tests.unit.datastore.lacking import Keys
from tests.unit.datastore.test_lifecycle import interrupt
from tests.unit.datastore.test_recrypt_datastore import put

CONTENT = b"content" * 1000


@pytest.fixture
def keys(ioflt_home: Path) -> Iterator[Keys]:
    with Keys(ioflt_home) as made:
        yield made


@pytest.fixture
def top(tmp_path: Path, keys: Keys) -> Path:
    """Encrypting, with a file at its top, an encrypted home, a clear one, one without a record."""
    path = tmp_path / "ds"
    Volume.init(path, HomeState.ENCRYPTED, keys)
    with Volume.open(path, keys) as volume:
        put(volume.root, "top.img", CONTENT)
        put(volume.make_home("vm", 0o755), "disk", CONTENT)
        volume.make_home("clear", 0o755)
        lifecycle.decrypt(volume, "clear")
        (path / "clear" / "disk").write_bytes(CONTENT)
        (path / "stray").mkdir()
        (path / "stray" / "disk").write_bytes(CONTENT)
    return path


def record_of(top: Path) -> DatastoreRecord:
    return form.parse_datastore((top / ".ioflt").read_bytes()).record


def forge(top: Path, record: DatastoreRecord) -> None:
    """Put a record there that no key vouches for."""
    (top / ".ioflt").write_bytes(form.seal(form.encode(record), [bytes(32)] * len(record.keys)))


def opened(top: Path, keys: Keys, *, read_only: bool = False) -> Volume:
    return Volume.open(top, keys, read_only=read_only, locked=lambda *_: None)


@pytest.fixture
def volume(top: Path, keys: Keys) -> Iterator[Volume]:
    """Opened without the datastore's key."""
    keys.gone = set(record_of(top).keys)
    with opened(top, keys) as made:
        assert not made.root.is_verified
        yield made


def read(home: Home, name: str) -> bytes:
    fd = files.open_regular(home.fd, name, os.O_RDONLY)
    file = files.open_file(home, fd, home.treatment(name, fd), writable=False, place=lambda: None)
    try:
        return bytes(file.read(0, file.length))
    finally:
        file.close()


def test_whoever_needs_it_says_so(top: Path, keys: Keys) -> None:
    keys.gone = set(record_of(top).keys)
    with pytest.raises(KeyUnavailableError) as caught:
        Volume.open(top, keys)
    assert caught.value.file == str(top)
    told: list[tuple[DatastoreRecord, IofltError]] = []
    Volume.open(top, keys, locked=lambda *why: told.append(why)).close()
    ((record, why),) = told
    assert record == record_of(top)
    assert str(record.key) in why.message


def test_homes_with_other_keys_go_on(volume: Volume) -> None:
    home = volume.home("vm")
    assert read(home, "disk") == CONTENT
    put(home, "new", CONTENT)
    recrypt.recrypt(volume, "vm")
    assert read(home, "new") == CONTENT
    home.before_rename("vm2")
    os.rename("vm", "vm2", src_dir_fd=volume.fd, dst_dir_fd=volume.fd)
    home.after_rename("vm2")
    assert read(volume.home("vm2"), "disk") == CONTENT


def test_what_needs_it_is_locked(volume: Volume) -> None:
    for name in ("clear", "stray"):
        with pytest.raises(KeyUnavailableError):
            read(volume.home(name), "disk")
    with pytest.raises(KeyUnavailableError) as caught:
        read(volume.root, "top.img")
    assert caught.value.file == volume.path


def test_what_is_told_of_it(top: Path, keys: Keys) -> None:
    key = record_of(top).key
    keys.remove_key(key)
    why = "the key was removed from this host"
    with opened(top, keys) as volume:
        shown = {home.name: home for home in summary.homes(volume)}
        own = summary.own(volume)
    assert shown["vm"].problem is None
    assert shown["clear"].problem == f"its datastore's key cannot be had: {why}"
    assert shown["stray"].problem == "its record cannot be verified"
    assert (own.verified, own.problem) == (False, f"its own key cannot be had: {why}")
    for missing in (own.missing, shown["clear"].missing):
        ((name, provider, reason, since),) = (
            (one.key, one.provider, one.reason, one.since) for one in missing
        )
        assert (name, provider, reason) == (str(key), "local", why)
        assert since is not None


def test_nothing_is_made_by_it(volume: Volume, top: Path, tmp_path: Path, keys: Keys) -> None:
    before = sorted(os.listdir(top))
    (top / "empty").mkdir()
    with pytest.raises(KeyUnavailableError):
        volume.make_home("new", 0o755)
    with pytest.raises(KeyUnavailableError):
        clone.clone(volume, "vm", volume, "new")
    with pytest.raises(KeyUnavailableError):
        lifecycle.register(volume, "stray", clear=True)
    with pytest.raises(KeyUnavailableError):
        put(volume.root, "new", CONTENT)
    with pytest.raises(KeyUnavailableError):
        volume.home("empty").check_writable()
    with pytest.raises(KeyUnavailableError):
        recrypt.recrypt_datastore(volume)
    Volume.init(tmp_path / "other", HomeState.ENCRYPTED, keys)
    with Volume.open(tmp_path / "other", keys) as other:
        put(other.make_home("web", 0o755), "disk", CONTENT)
        with pytest.raises(KeyUnavailableError):
            move.move(other, "web", volume, "web")
        assert read(other.home("web"), "disk") == CONTENT
    (top / "empty").rmdir()  # it got no record
    assert sorted({*os.listdir(top)} - {".ioflt.d"}) == sorted({*before} - {".ioflt.d"})
    assert os.listdir(top / ".ioflt.d") == []


def test_it_unlocks_when_the_key_is_back(volume: Volume, keys: Keys) -> None:
    with pytest.raises(KeyUnavailableError):
        volume.make_home("new", 0o755)
    keys.gone = set()
    assert read(volume.root, "top.img") == CONTENT
    assert volume.root.is_verified
    assert read(volume.home("clear"), "disk") == CONTENT
    assert volume.home("stray").standing().problem == "it has no record; `ioflt vm register` makes one"
    put(volume.make_home("new", 0o755), "disk", CONTENT)
    assert volume.home("new").standing().state is HomeState.ENCRYPTED


def test_nothing_becomes_clear_without_it(volume: Volume, top: Path, keys: Keys) -> None:
    """A clear VM's record is under its keys: begun, the decryption would not come to its end."""
    before = (top / "vm" / ".ioflt").read_bytes(), (top / "vm" / "disk").read_bytes()
    with pytest.raises(KeyUnavailableError):
        lifecycle.decrypt(volume, "vm")
    assert ((top / "vm" / ".ioflt").read_bytes(), (top / "vm" / "disk").read_bytes()) == before
    gone, keys.gone = keys.gone, set()
    assert interrupt(lambda: lifecycle.decrypt(volume, "vm"), 30)
    with Volume.open(top, keys) as fresh:
        keys.gone = gone
        with opened(top, keys) as locked:
            before = (top / "vm" / ".ioflt").read_bytes(), (top / "vm" / "disk").read_bytes()
            with pytest.raises(KeyUnavailableError):
                lifecycle.decrypt(locked, "vm")
            assert ((top / "vm" / ".ioflt").read_bytes(), (top / "vm" / "disk").read_bytes()) == before
        keys.gone = set()
        lifecycle.decrypt(fresh, "vm")
    assert (top / "vm" / "disk").read_bytes() == CONTENT


def test_what_has_no_record_is_locked_by_it(volume: Volume, top: Path) -> None:
    assert volume.home("stray").unverified().locked
    (top / "stray" / ".ioflt").write_bytes(b"no record")
    assert not volume.home("stray").unverified().locked


@pytest.mark.allow_log("record is gone")
def test_a_home_that_can_get_no_record_is_told_of(top: Path, keys: Keys) -> None:
    with Volume.open(top, keys) as volume:
        (top / "empty").mkdir()
        own = (top / ".ioflt").read_bytes()
        (top / ".ioflt").unlink()
        assert "record is gone" in (volume.home("empty").unverified().problem or "")
        (top / ".ioflt").write_bytes(own)
        assert volume.home("empty").standing().problem is None


@pytest.mark.parametrize("back", [False, True])
def test_who_forges_its_record_gains_nothing(top: Path, keys: Keys, back: bool) -> None:
    """He names a key that cannot be had, so that nobody sees that the record is not valid, or not at once."""
    gone = KeyRef("local", "nobody's")
    keys.gone = {gone} | set(record_of(top).keys)
    forge(top, replace(record_of(top), default=HomeState.CLEAR, keys=(gone,), generation=1 << 40))
    with opened(top, keys) as volume:
        if back:
            keys.gone = set()
        with pytest.raises((KeyUnavailableError, AuthenticationError)):
            volume.make_home("new", 0o755)
        assert not os.path.lexists(top / "new")
        for name in ("clear", "stray"):  # else his plaintext would pass for a VM's
            with pytest.raises((KeyUnavailableError, AuthenticationError)):
                read(volume.home(name), "disk")
            assert volume.home(name).unverified().problem is not None
        with pytest.raises((KeyUnavailableError, AuthenticationError)):
            put(volume.root, "new", CONTENT)
        assert read(volume.home("vm"), "disk") == CONTENT
        put(volume.home("vm"), "new", CONTENT)
        assert not volume.root.is_verified
        datastore_id = volume.claimed.datastore_id
        assert volume.memory.look(datastore_id).generation == 1  # nothing of it is remembered


def test_the_record_of_another_datastore_gains_nothing(
    top: Path, volume: Volume, keys: Keys, tmp_path: Path
) -> None:
    """Valid, with a key that this host has, and clear."""
    other = tmp_path / "other"
    Volume.init(other, HomeState.CLEAR, keys)
    own = record_of(top)
    (top / ".ioflt").write_bytes((other / ".ioflt").read_bytes())
    for _ in range(2):  # what is told of it in between makes no difference
        with pytest.raises(AuthenticationError, match="another datastore"):
            volume.make_home("new", 0o755)
        for name in ("clear", "stray"):
            with pytest.raises(AuthenticationError, match="another datastore"):
                read(volume.home(name), "disk")
        assert not volume.root.unverified().locked
        assert volume.claimed == own
    assert not volume.root.is_verified
    keys.gone = set(record_of(top).keys)  # not to be had either: still it is another's
    with pytest.raises(KeyUnavailableError):
        volume.make_home("new", 0o755)
    assert volume.root.unverified().problem is not None
    assert volume.claimed == own


def test_another_datastore_where_one_was(top: Path, keys: Keys, tmp_path: Path) -> None:
    """It opens only when the user says so, also while its own key cannot be had."""
    other = tmp_path / "other"
    Volume.init(other, HomeState.CLEAR, keys)
    ids = [record_of(path).datastore_id for path in (top, other)]
    (top / ".ioflt").write_bytes((other / ".ioflt").read_bytes())
    for gone in (set(), set(record_of(other).keys)):
        keys.gone = gone
        with pytest.raises(AuthenticationError, match="another datastore") as caught:
            opened(top, keys)
        assert caught.value.file == str(top)
        assert all(one in caught.value.message for one in ids)
    keys.gone = set()
    assert (seen.place(ids[0]), seen.place(ids[1])) == (str(top), str(other))


@pytest.mark.allow_log("another datastore, and accepted")
def test_another_datastore_is_accepted(top: Path, keys: Keys, tmp_path: Path) -> None:
    other = tmp_path / "other"
    Volume.init(other, HomeState.CLEAR, keys)
    own = (top / ".ioflt").read_bytes()
    (top / ".ioflt").write_bytes((other / ".ioflt").read_bytes())
    Volume.accept_rollback(top, keys)
    with Volume.open(top, keys) as volume:
        assert volume.record == record_of(other)
    with pytest.raises(UsageError, match="was not rolled back"):
        Volume.accept_rollback(top, keys)
    (top / ".ioflt").write_bytes(own)  # the one that was there before is another one now
    with pytest.raises(AuthenticationError, match="another datastore"):
        Volume.open(top, keys)


def test_a_new_datastore_in_the_place_of_a_removed_one(top: Path, keys: Keys) -> None:
    own = (top / ".ioflt").read_bytes()
    shutil.rmtree(top)
    Volume.init(top, HomeState.ENCRYPTED, keys)
    opened(top, keys).close()
    (top / ".ioflt").write_bytes(own)
    with pytest.raises(AuthenticationError, match="another datastore"):
        Volume.open(top, keys)
    assert [path for path, _ in seen.survey().unknown if path == str(top)]  # still somebody's keys


def test_one_that_was_only_claimed_hinders_nobody(top: Path, keys: Keys) -> None:
    for note in paths.find().datastores.iterdir():
        note.unlink()
    own = (top / ".ioflt").read_bytes()
    gone = KeyRef("local", "nobody's")
    keys.gone = {gone}
    forge(top, replace(record_of(top), datastore_id=new_uuid(), keys=(gone,)))
    opened(top, keys).close()
    (top / ".ioflt").write_bytes(own)
    Volume.open(top, keys).close()


def test_one_that_was_claimed_is_known_once_it_is_verified(top: Path, keys: Keys, tmp_path: Path) -> None:
    for note in paths.find().datastores.iterdir():
        note.unlink()
    moved, own = tmp_path / "moved", record_of(top)
    keys.gone = set(own.keys)
    opened(top, keys).close()
    top.rename(moved)
    with opened(moved, keys) as volume:
        assert seen.place(own.datastore_id) == str(top)
        keys.gone = set()
        assert volume.record == own
        assert (seen.place(own.datastore_id), seen.at(str(moved))) == (str(moved), own.datastore_id)


def test_a_forged_record_has_no_other_datastore_forgotten(top: Path, keys: Keys, tmp_path: Path) -> None:
    mine, thine = tmp_path / "mine", tmp_path / "thine"
    thine.mkdir()
    Volume.init(mine, HomeState.ENCRYPTED, keys)
    gone = KeyRef("local", "nobody's")
    keys.gone = {gone}
    forge(thine, replace(record_of(mine), keys=(gone,)))
    opened(thine, keys).close()
    assert seen.place(record_of(mine).datastore_id) == str(mine)


def test_one_that_was_never_seen_is_remembered(top: Path, keys: Keys) -> None:
    for note in paths.find().datastores.iterdir():
        note.unlink()
    keys.gone = set(record_of(top).keys)
    opened(top, keys).close()
    assert str(top / "vm") in [one.path for one in seen.survey().protected]


@pytest.mark.allow_log("not valid any more")
def test_an_older_record_put_back(top: Path, keys: Keys) -> None:
    before = (top / ".ioflt").read_bytes()
    with Volume.open(top, keys) as volume:
        recrypt.recrypt_datastore(volume)
    newest = (top / ".ioflt").read_bytes()
    keys.gone = set(form.parse_datastore(before).record.keys) | set(record_of(top).keys)
    (top / ".ioflt").write_bytes(before)
    with pytest.raises(AuthenticationError, match="rolled back") as caught:  # it says so itself
        opened(top, keys)
    assert caught.value.file == str(top)
    (top / ".ioflt").write_bytes(newest)
    with opened(top, keys) as volume:
        (top / ".ioflt").write_bytes(before)
        keys.gone = set()
        with pytest.raises(AuthenticationError, match="rolled back"):
            volume.make_home("new", 0o755)
        assert "rolled back" in (volume.home("clear").unverified().problem or "")
        (top / ".ioflt").write_bytes(newest)
        assert volume.home("clear").standing().problem is None


def test_other_keys_meanwhile(top: Path, volume: Volume, keys: Keys) -> None:
    """By another host, say."""
    gone, keys.gone = keys.gone, set()
    with Volume.open(top, keys) as other:
        recrypt.recrypt_datastore(other)
    keys.gone = gone | set(record_of(top).keys)
    assert volume.root.unverified().keys == volume.claimed.keys == record_of(top).keys
    keys.gone = gone
    assert volume.record == record_of(top)


def test_a_record_that_went_meanwhile(top: Path, volume: Volume) -> None:
    (top / ".ioflt").unlink()
    with pytest.raises(MalformedError, match="record is gone"):
        volume.make_home("new", 0o755)
    assert "record is gone" in (summary.own(volume).problem or "")


def test_what_was_interrupted_is_finished_where_keys_are_there(top: Path, keys: Keys) -> None:
    with Volume.open(top, keys) as volume:
        lifecycle.decrypt(volume, "vm")
        assert interrupt(lambda: lifecycle.encrypt(volume, "vm"), 30)
        assert "was interrupted" in (volume.home("vm").standing().problem or "")
    keys.gone = set(record_of(top).keys)
    with opened(top, keys) as volume:
        assert resume.interrupted(volume) == [("vm", "encryption")]
        assert read(volume.home("vm"), "disk") == CONTENT


@pytest.mark.allow_log("an interrupted recrypt cannot be resumed now")
def test_its_own_recrypt_is_finished_when_the_key_is_back(top: Path, keys: Keys) -> None:
    with Volume.open(top, keys) as volume:
        assert interrupt(lambda: recrypt.recrypt_datastore(volume), 60)
        assert volume.record.operation is not None
    keys.gone = set(record_of(top).keys)
    with opened(top, keys) as volume:
        assert resume.interrupted(volume) == []
        keys.gone = set()
        assert resume.interrupted(volume) == [("", "recrypt")]


def test_check_says_what_was_not_verified(top: Path, volume: Volume, keys: Keys) -> None:
    report = check.run(top, keys)
    missing = f"no key {volume.claimed.key}"
    assert {entry.path: entry.finding for entry in report.entries if entry.finding} == {
        ".ioflt": f"not verified, nor are files at the top and clear VMs: {missing}",
        "clear/.ioflt": missing,
        "stray/.ioflt": missing,
    }
    assert {entry.path: entry.state for entry in report.entries}["vm/disk"] == "encrypted"


def test_erase_needs_no_key(volume: Volume, top: Path, keys: Keys) -> None:
    key = volume.home("vm").standing().key
    fd = os.open(top / "vm" / "disk", os.O_RDONLY)
    before = os.pread(fd, 1 << 20, 0)
    keys.gone.add(key)
    with opened(top, keys) as fresh:
        receipt = erase.erase(fresh, "vm")
        assert not receipt.verified
        assert (receipt.keys[0].key, receipt.unknown) == (str(key), [f"{top}/stray"])
        assert not (top / "vm").exists()
        assert fresh.homes() == ["clear", "stray"]
    after = os.pread(fd, 1 << 20, 0)
    os.close(fd)
    written = [at for at in range(0, len(before), 512) if any(before[at : at + 512])]
    assert written
    assert all(before[at : at + 512] != after[at : at + 512] for at in written)


def test_a_key_that_a_neighbour_has_is_not_destroyed(top: Path, keys: Keys) -> None:
    """Also where this host never verified the datastore, and its record claims to be another one's."""

    def never(key: KeyRef) -> bool:
        raise AssertionError(key)

    with Volume.open(top, keys) as volume:
        clone.clone(volume, "vm", volume, "twin", same_key=True)
    shutil.rmtree(paths.find().datastores)
    other = top.parent / "other"
    Volume.init(other, HomeState.ENCRYPTED, keys)
    gone = KeyRef("local", "nobody's")
    keys.gone = {gone}
    forge(top, replace(record_of(other), keys=(gone,)))
    with opened(top, keys) as volume, pytest.raises(BusyError, match=f"also opens {top}/twin"):
        erase.erase(volume, "vm", destroy=never)
