"""Other keys for a datastore itself: its record, the records of clear homes, the files at its root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ioflt.datastore import check, clone, files, lifecycle, newhome, recrypt, resume, seen, wrapping
from ioflt.datastore.home import Home
from ioflt.datastore.standing import Treatment
from ioflt.datastore.volume import Volume
from ioflt.errors import AuthenticationError, BusyError, KeyUnavailableError, ReadOnlyError, UsageError
from ioflt.format.record import record as form
from ioflt.format.record.record import Recrypt
from ioflt.keys.native.store import NativeStore
from ioflt.policy.bundled import DATASTORE_DEFAULT
from ioflt.types import HomeState, KeyRef
from tests.unit.datastore.lacking import Keys
from tests.unit.datastore.test_lifecycle import interrupt

FILES = {"top.img": b"top" * 5000, "top.vmx": b'a = "b"\n'}


@pytest.fixture
def keys(tmp_path: Path, ioflt_home: Path) -> Iterator[Keys]:
    (tmp_path / "keys").mkdir()
    with Keys(tmp_path / "keys") as made:
        store = NativeStore(tmp_path / "keys" / "state" / "providers")
        store.create("corp")
        store.mark_backed_up("corp")
        made.reload()
        yield made


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return tmp_path / "ds"


@pytest.fixture
def volume(top: Path, keys: Keys) -> Iterator[Volume]:
    """Encrypting, with files at its root, an encrypted home and two clear ones."""
    Volume.init(top, HomeState.ENCRYPTED, keys, provider="local")
    with Volume.open(top, keys) as made:
        for name, data in FILES.items():
            put(made.root, name, data)
        made.make_home("vm", 0o755)
        put(made.home("vm"), "disk", b"disk")
        for name in ("clear", "other"):
            made.make_home(name, 0o755)
            lifecycle.decrypt(made, name)
            (top / name / "disk").write_bytes(b"disk")
        yield made


def put(home: Home, name: str, data: bytes) -> None:
    fd = files.create(home, home.fd, name, mode=0o644)
    treatment, place = home.treatment(name, fd), (home.fd, home.fd, name)
    file = files.open_file(home, fd, treatment, writable=True, place=lambda: place)
    file.write(0, data)
    file.sync(data_only=False)
    file.close()


def named(volume: Volume) -> set[tuple[KeyRef, ...]]:
    """The lists of keys that the files at the root name."""
    found = set()
    for name in FILES:
        with open(os.path.join(volume.path, name), "rb") as file:
            found.add(wrapping.named_keys(file.fileno(), volume.root.treatment(name)))
    return found


def top_files(volume: Volume) -> dict[str, bytes]:
    found = {}
    for name in FILES:
        fd = os.open(os.path.join(volume.path, name), os.O_RDONLY)
        opened = files.open_file(
            volume.root, fd, volume.root.treatment(name), writable=False, place=lambda: None
        )
        found[name] = bytes(opened.read(0, opened.length))
        opened.close()
    return found


def assert_sound(volume: Volume, keys: Keys) -> None:
    """Everything opens, the clear homes are clear, and are told as such."""
    with Volume.open(volume.path, keys) as fresh:
        assert top_files(fresh) == FILES
        for name in ("clear", "other"):
            standing = fresh.home(name).standing()
            assert (standing.state, standing.problem) == (HomeState.CLEAR, None)
        assert fresh.home("vm").standing().problem is None


def test_a_new_key(volume: Volume, keys: Keys) -> None:
    (old,), vm = volume.record.keys, volume.home("vm").standing().keys
    generation = volume.record.generation
    (new,) = recrypt.recrypt_datastore(volume, provider="corp")
    assert new.provider == "corp"
    assert volume.record.keys == (new,)
    assert volume.record.generation == generation + 3
    assert volume.record.operation is None
    assert named(volume) == {(new,)}
    assert volume.home("vm").standing().keys == vm
    keys.gone = {old}
    assert_sound(volume, keys)
    findings = {one.path: one.finding for one in check.run(volume.path, keys).entries if one.finding}
    assert set(findings) == {"clear/.ioflt", "other/.ioflt"}  # clear in a datastore that encrypts
    volume.make_home("later", 0o755)
    assert volume.home("later").standing().key.provider == "corp"


def test_two_keys_and_a_given_one(volume: Volume, keys: Keys) -> None:
    (old,) = volume.record.keys
    both = recrypt.recrypt_datastore(volume, add="corp")
    assert (both[0], both[1].provider) == (old, "corp")
    assert named(volume) == {both}
    for gone in both:
        keys.gone = {gone}
        assert_sound(volume, keys)
    keys.gone = set()
    with pytest.raises(UsageError, match="has a key of the provider corp already"):
        recrypt.recrypt_datastore(volume, add="corp")
    assert recrypt.recrypt_datastore(volume, key_id=both[1].key_id, provider="corp") == (both[1],)
    assert_sound(volume, keys)
    with pytest.raises(UsageError, match="has that key already"):
        recrypt.recrypt_datastore(volume, key_id=both[1].key_id)
    with pytest.raises(KeyUnavailableError):
        recrypt.recrypt_datastore(volume, provider="nobody")
    with Volume.open(volume.path, keys, read_only=True) as view, pytest.raises(ReadOnlyError):
        recrypt.recrypt_datastore(view)
    with volume.root.recrypting(), pytest.raises(BusyError, match="another command changes its keys"):
        recrypt.recrypt_datastore(volume)


def test_the_provider_of_before_is_free(volume: Volume, keys: Keys) -> None:
    recrypt.recrypt_datastore(volume, provider="corp")
    recrypt.recrypt(volume, "vm", provider="corp")
    assert [use for use in seen.uses(seen.survey(), "local") if use.path == volume.path] == []
    assert {use.path for use in seen.uses(seen.survey(), "corp")} == {
        volume.path,
        *(os.path.join(volume.path, name) for name in ("vm", "clear", "other")),
    }


@pytest.mark.slow
@pytest.mark.parametrize("add", [None, "corp"])
def test_interrupted_anywhere(volume: Volume, keys: Keys, add: str | None) -> None:
    at, reached, cut = 0, True, 0
    while reached:
        at += 1
        options = {"add": add} if at == 1 and add else {}
        reached = interrupt(lambda options=options: recrypt.recrypt_datastore(volume, **options), at)
        assert_sound(volume, keys)
        with Volume.open(volume.path, keys) as fresh:
            begun = fresh.record.operation
            cut += begun is not None
            if isinstance(begun, Recrypt) and begun.old and fresh.record.keys != begun.to:
                keys.gone = set(begun.to)  # all opens as before
                assert_sound(volume, keys)
            elif isinstance(begun, Recrypt) and begun.old:
                keys.gone = set(begun.old)
                assert_sound(volume, keys)
            keys.gone = set()
            put(fresh.root, "made", b"made")
            assert resume.interrupted(fresh) == ([] if begun is None else [("", "recrypt")])
            now = fresh.record.keys
        assert named(volume) == {now}
        os.unlink(os.path.join(volume.path, "made"))
        assert_sound(volume, keys)
    assert at > 40
    assert cut > 20


def test_who_has_it_open_meanwhile(volume: Volume, keys: Keys) -> None:
    """Another process with the record of before: it sees the new one when it needs it."""
    with Volume.open(volume.path, keys) as other:
        assert other.home("clear").standing().problem is None
        old = other.record.keys
        new = recrypt.recrypt_datastore(volume)
        assert other.home("clear").standing().problem is None
        assert other.record.keys == new
        recrypt.recrypt_datastore(volume)
        put(other.root, "made", b"made")
        with open(os.path.join(volume.path, "made"), "rb") as file:
            assert wrapping.named_keys(file.fileno(), Treatment.CONTAINER) == volume.record.keys != old
        recrypt.recrypt_datastore(volume)
        other.home("clear").before_rename("renamed")
        os.rename("clear", "renamed", src_dir_fd=other.fd, dst_dir_fd=other.fd)
        other.home("renamed").after_rename("renamed")
        assert volume.home("renamed").standing().problem is None


def test_a_home_that_is_made_meanwhile(volume: Volume, keys: Keys) -> None:
    first = volume.fresh_record("new", DATASTORE_DEFAULT)
    with newhome.new_home(volume, "new", first) as home:
        (Path(os.readlink(f"/proc/self/fd/{home.fd}")) / "disk").write_bytes(b"disk")
        recrypt.recrypt_datastore(volume)
    assert volume.home("new").standing().problem is None
    assert clone.clone(volume, "new", volume, "clone").state == "encrypted"


def test_a_record_is_not_changed_by_two(volume: Volume, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recrypt, "_WRITER_WAIT_S", 0)
    with volume.home("clear").exclusive(), pytest.raises(BusyError):
        recrypt.recrypt_datastore(volume)
    assert_sound(volume, keys)
    assert resume.interrupted(volume) == [("", "recrypt")]
    assert_sound(volume, keys)


def test_a_forged_clear_record_stays_one(volume: Volume, top: Path, keys: Keys) -> None:
    data = (top / "clear" / ".ioflt").read_bytes()
    forged = form.seal(form.parse(data).payload, [bytes(32)])
    (top / "clear" / ".ioflt").write_bytes(forged)
    recrypt.recrypt_datastore(volume)
    assert (top / "clear" / ".ioflt").read_bytes() == forged
    assert "bad MAC" in (volume.home("clear").standing().problem or "")


def test_an_encrypted_home_is_no_less_strict_meanwhile(volume: Volume, top: Path, keys: Keys) -> None:
    """Who has one of its keys does not speak for the other one, also while the datastore is recrypted."""
    recrypt.recrypt(volume, "vm", add="corp")
    assert interrupt(lambda: recrypt.recrypt_datastore(volume), 60)
    found = form.parse_home((top / "vm" / ".ioflt").read_bytes())
    forged = form.seal(found.payload, [found.tags[0], bytes(32)])
    (top / "vm" / ".ioflt").write_bytes(forged)
    with Volume.open(top, keys) as fresh:
        assert fresh.record.operation is not None
        assert "bad MAC" in (fresh.home("vm").standing().problem or "")


@pytest.mark.allow_log("not valid any more|rolled back, and accepted|record is gone")
def test_an_older_record_put_back(volume: Volume, top: Path, keys: Keys) -> None:
    before = (top / ".ioflt").read_bytes()
    clear = (top / "clear" / ".ioflt").read_bytes()
    recrypt.recrypt_datastore(volume, provider="corp")
    (top / ".ioflt").write_bytes(before)
    with pytest.raises(ReadOnlyError, match="rolled back"):
        put(volume.root, "made", b"")
    with pytest.raises(AuthenticationError, match="rolled back") as caught:
        Volume.open(top, keys)
    assert caught.value.file == str(top)
    (finding,) = check.run(top, keys).entries
    assert "rolled back" in (finding.finding or "")
    assert (top / ".ioflt").read_bytes() == before
    (top / "clear" / ".ioflt").write_bytes(clear)
    Volume.accept_rollback(top, keys)
    with Volume.open(top, keys) as fresh:
        assert fresh.record.key.provider == "local"
        assert fresh.home("clear").standing().problem is None
        assert "bad MAC" in (fresh.home("other").standing().problem or "")
    with pytest.raises(UsageError, match="was not rolled back"):
        Volume.accept_rollback(top, keys)


@pytest.mark.allow_log("not valid any more|rolled back, and accepted|record is gone")
def test_a_record_spoilt_under_an_open_datastore(volume: Volume, top: Path, keys: Keys) -> None:
    good = (top / ".ioflt").read_bytes()
    for bad in (b"", good.replace(b"encrypted", b"clear"), good[:-9]):
        (top / ".ioflt").write_bytes(bad)
        with pytest.raises(ReadOnlyError, match="not valid any more"):
            put(volume.root, "made", b"")
        assert top_files(volume) == FILES
    (top / ".ioflt").unlink()
    with pytest.raises(ReadOnlyError, match="record is gone"):
        put(volume.root, "made", b"")
    (top / ".ioflt").write_bytes(good)
    put(volume.root, "made", b"")


def test_format_1_is_read_and_gives_way(volume: Volume, top: Path, keys: Keys) -> None:
    record = volume.record
    payload = form._payload(replace(record, generation=0), 1)
    data = form.seal(payload, [keys.mac(record.key, form.DATASTORE_LABEL, payload)])
    (Path(volume.memory._directory) / record.datastore_id).unlink()  # an older version remembered none
    (top / ".ioflt").write_bytes(data)
    assert_sound(volume, keys)
    with Volume.open(top, keys) as old:
        assert old.record == replace(record, generation=0)
        recrypt.recrypt_datastore(old)
        assert old.record.generation == 3
    assert (top / ".ioflt").read_bytes().startswith(b'{"format":2,')
    assert_sound(volume, keys)
