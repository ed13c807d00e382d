"""Shallow recrypt: which keys open what, at every step and after every interruption."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ioflt.crypto.secret import Secret
from ioflt.datastore import check, files, headers, lifecycle, recovery, recrypt, wrapping
from ioflt.datastore.header import read_header
from ioflt.datastore.home import Home
from ioflt.datastore.volume import Volume
from ioflt.errors import (
    BusyError,
    CorruptDataError,
    IofltError,
    KeyUnavailableError,
    ReadOnlyError,
    StorageError,
    UsageError,
)
from ioflt.format.record.record import HomeRecord, Recrypt
from ioflt.keys.native.store import NativeStore
from ioflt.types import HomeState, KeyRef
from tests.unit.datastore.lacking import Keys
from tests.unit.datastore.test_lifecycle import contents, failing, fill, interrupt, looks, raw


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
    Volume.init(top, HomeState.CLEAR, keys, provider="local")
    with Volume.open(top, keys) as made:
        yield made


@pytest.fixture
def vm(volume: Volume, top: Path) -> Path:
    """An encrypted home with files of every kind."""
    return make(volume, top, "vm")


def make(volume: Volume, top: Path, name: str) -> Path:
    volume.make_home(name, 0o755)
    fill(top / name)
    lifecycle.encrypt(volume, name)
    return top / name


def record_of(volume: Volume, name: str = "vm") -> HomeRecord:
    record = volume.home(name).standing().record
    assert record is not None
    return record


def named(volume: Volume, name: str = "vm") -> set[tuple[KeyRef, ...]]:
    """The lists of keys that the files of the home name."""
    home = volume.home(name)
    found = set()
    for node in recrypt._encrypted(home):
        with open(os.path.join(volume.path, name, node.path), "rb") as file:
            fd = file.fileno()
            found.add(wrapping.named_keys(fd, home.treatment(node.path, fd)))
    return found


def bodies(home: Path) -> dict[str, bytes]:
    """What a recrypt never touches: the data, and state blocks."""
    return {path: data[896 << 10 :] for path, data in raw(home).items() if not path.startswith(".ioflt")}


def only(volume: Volume, keys: Keys, key: KeyRef, name: str = "vm") -> dict[str, bytes]:
    """The contents as they can be read with just that key."""
    keys.gone = set(record_of(volume, name).keys) | {k for some in named(volume, name) for k in some}
    keys.gone -= {key}
    try:
        with Volume.open(volume.path, keys) as view:
            return contents(view, name)
    finally:
        keys.gone = set()


# Whole recrypts


def test_a_new_key(volume: Volume, vm: Path, keys: Keys) -> None:
    before, looked, data, old = contents(volume), looks(vm), bodies(vm), record_of(volume)
    told: list[int] = []
    (new,) = recrypt.recrypt(volume, "vm", progress=told.append)
    assert new != old.keys[0]
    assert new.provider == "local"
    assert record_of(volume) == replace(old, keys=(new,), generation=old.generation + 3)
    assert named(volume) == {(new,)}
    assert (contents(volume), looks(vm), bodies(vm)) == (before, looked, data)
    assert only(volume, keys, new) == before
    assert sum(told) == recrypt.files(volume, "vm") - 4  # three names of one file
    assert (vm / "vm.vmdk").samefile(vm / "third")
    assert {entry.path for entry in check.run(volume.path, keys).entries if entry.finding} == {"vm/fifo"}


def test_a_given_key_and_a_new_provider(volume: Volume, vm: Path, keys: Keys) -> None:
    before, mine = contents(volume), keys.new_key("local")
    assert recrypt.recrypt(volume, "vm", key_id=mine.key_id) == (mine,)
    assert contents(volume) == before
    (corp,) = recrypt.recrypt(volume, "vm", provider="corp")
    assert corp.provider == "corp"
    assert only(volume, keys, corp) == before
    assert recrypt.recrypt(volume, "vm", key_id=mine.key_id, provider="local") == (mine,)
    assert only(volume, keys, mine) == before


def test_two_providers(volume: Volume, vm: Path, keys: Keys) -> None:
    before, old = contents(volume), record_of(volume).keys[0]
    both = recrypt.recrypt(volume, "vm", add="corp")
    assert (both[0], both[1].provider) == (old, "corp")
    assert named(volume) == {both}
    assert [only(volume, keys, key) for key in both] == [before, before]
    with pytest.raises(UsageError, match="has a key of the provider corp already"):
        recrypt.recrypt(volume, "vm", add="corp")
    home = volume.home("vm")
    os.close(files.create(home, home.fd, "new.log", mode=0o600))
    assert named(volume) == {both}
    again = recrypt.recrypt(volume, "vm")
    assert [key.provider for key in again] == ["local", "corp"]
    assert set(again).isdisjoint(both)
    assert recrypt.recrypt(volume, "vm", key_id=again[1].key_id, provider="corp") == (again[1],)
    assert {path: data for path, data in contents(volume).items() if path != "new.log"} == before


def test_what_is_refused(volume: Volume, vm: Path, keys: Keys, top: Path) -> None:
    (key,) = record_of(volume).keys
    volume.make_home("clear", 0o755)
    cases: list[tuple[type[IofltError], str, dict[str, str]]] = [
        (UsageError, "vm: has that key already", {"key_id": key.key_id}),
        (UsageError, "provider local already", {"add": "local"}),
        (KeyUnavailableError, "nobody", {"provider": "nobody"}),
        (KeyUnavailableError, "nobody", {"add": "nobody"}),
    ]
    before = raw(vm)
    for kind, text, options in cases:
        with pytest.raises(kind, match=text):
            recrypt.recrypt(volume, "vm", **options)
    with pytest.raises(UsageError, match="clear: is clear: it has no keys"):
        recrypt.recrypt(volume, "clear")
    with Volume.open(volume.path, keys, read_only=True) as view, pytest.raises(ReadOnlyError):
        recrypt.recrypt(view, "vm")
    with volume.home("vm").exclusive(), pytest.raises(BusyError):
        recrypt.recrypt(volume, "vm")
    with volume.home("vm").recrypting(), pytest.raises(BusyError, match="another command"):
        recrypt.recrypt(volume, "vm")
    (vm / "planted").write_bytes(b"mine")
    with pytest.raises(CorruptDataError) as caught:
        recrypt.recrypt(volume, "vm")
    assert caught.value.file == str(vm / "planted")
    (vm / "planted").unlink()
    assert raw(vm) == before


def test_header_without_room(volume: Volume, vm: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    before = raw(vm)
    monkeypatch.setattr(keys, "new_key", lambda _provider=None: KeyRef("local", "k" * 1024))
    home = volume.home("vm")
    record = record_of(volume)
    with pytest.raises(UsageError, match="header is full"):
        wrap_many(home, record)
    assert raw(vm) == before


def wrap_many(home: Home, record: HomeRecord) -> None:
    many = tuple(KeyRef("local", f"{number}" * 341) for number in range(100, 112))
    for node in recrypt._encrypted(home):
        recrypt._check(home, node, wrapping.Change(record.keys + many, ()))


def test_passphrases_and_state_stay(volume: Volume, vm: Path, keys: Keys) -> None:
    with (vm / "sparse.raw").open("r+b") as file, Secret(b"passphrase") as passphrase:
        slot = recovery.add_slot(file.fileno(), keys, passphrase)
    recrypt.recrypt(volume, "vm")
    with (vm / "sparse.raw").open("r+b") as file, Secret(b"passphrase") as passphrase:
        assert recovery.find_slot(file.fileno(), passphrase) == slot


def test_a_header_backup_of_before_is_refused(volume: Volume, vm: Path) -> None:
    saved = headers.backup(volume, "vm")
    recrypt.recrypt(volume, "vm")
    with pytest.raises(CorruptDataError, match="another key epoch"):
        headers.restore(volume, "vm", saved)


def test_decrypt_after_it(volume: Volume, vm: Path) -> None:
    before = contents(volume)
    recrypt.recrypt(volume, "vm", add="corp")
    lifecycle.decrypt(volume, "vm")
    assert contents(volume) == before
    lifecycle.encrypt(volume, "vm")
    assert contents(volume) == before


# Interruptions


def test_no_old_token_stays_in_a_copy_of_the_header(volume: Volume, vm: Path) -> None:
    """A write that was cut between the copies leaves the old token in one of them."""
    (old,) = record_of(volume).keys
    path = vm / "sparse.raw"
    before = path.read_bytes()[: 16 << 10]
    recrypt.recrypt(volume, "vm")
    record = record_of(volume)
    with path.open("r+b") as file:
        file.write(before)
    home = volume.home("vm")
    home.store(replace(record, operation=Recrypt(record.home_id, (old,), record.keys)))
    assert recrypt.resume(volume) == ["vm"]
    assert old.key_id.encode() not in path.read_bytes()


def pending(volume: Volume, name: str) -> bool:
    return isinstance(record_of(volume, name).operation, Recrypt)


def modes(home: Path) -> dict[str, tuple[int, int]]:
    """Mode and number of names; a cut may come before a header's writer puts the mtime back."""
    return {path: (mode, names) for path, (mode, _, names) in looks(home).items()}


def opening(record: HomeRecord) -> tuple[KeyRef, ...]:
    """The keys each of which opens every file."""
    operation = record.operation
    if not isinstance(operation, Recrypt) or record.keys != operation.to:
        return record.keys if operation is None else operation.old  # type: ignore[union-attr]
    return operation.to if operation.old else operation.to[:1]


@pytest.mark.slow
@pytest.mark.parametrize("add", [None, "corp"])
def test_interrupted_anywhere(volume: Volume, top: Path, keys: Keys, add: str | None) -> None:
    """Cut at each call in turn: all opens as before, new files too, and it is resumed by itself."""
    make(volume, top, "vm")
    home = volume.home("vm")
    before, looked = contents(volume), modes(top / "vm")
    at, reached, cut = 0, True, 0
    while reached:
        at += 1
        old = record_of(volume).keys
        options = {"add": add} if at == 1 and add else {}
        reached = interrupt(lambda options=options: recrypt.recrypt(volume, "vm", **options), at)
        with Volume.open(volume.path, keys) as fresh:
            assert contents(fresh) == before
            assert fresh.home("vm").standing().problem is None
            interrupted = pending(fresh, "vm")
            cut += interrupted
            for key in opening(record_of(fresh)):
                assert only(fresh, keys, key) == before
            os.close(files.create(fresh.home("vm"), home.fd, "made", mode=0o600))
            assert recrypt.resume(fresh) == (["vm"] if interrupted else [])
            now = record_of(fresh).keys
            assert named(fresh) == {now}
            assert not set(now) & set(old) or now == old or add
            assert only(fresh, keys, now[0]) == before | {"made": b""}
        (top / "vm" / "made").unlink()
        assert contents(volume) == before
        assert modes(top / "vm") == looked
    assert at > 60
    assert cut > 40


def test_no_token_goes_before_all_files_have_the_new_one(volume: Volume, vm: Path, keys: Keys) -> None:
    """At each change of a file: as long as one lacks the new token, none lacks the old."""
    (old,) = record_of(volume).keys
    seen: list[bool] = []

    def look(_count: int) -> None:
        lists = named(volume)
        lacks_new = any(set(one) <= {old} for one in lists)
        lacks_old = any(old not in one for one in lists)
        seen.append(lacks_new)
        assert not (lacks_new and lacks_old)

    recrypt.recrypt(volume, "vm", progress=look)
    assert True in seen
    assert False in seen


@pytest.mark.allow_log("cannot remember the home")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "code"), [("pwrite", errno.ENOSPC), ("pwrite", errno.EIO), ("fsync", errno.EIO)]
)
def test_a_failing_medium(
    volume: Volume, vm: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    """The datastore's, or that of the host's memory, which costs a warning."""
    before, failures = contents(volume), list[StorageError]()
    for at in range(1, 61, 2):
        heal = failing(monkeypatch, call, at, OSError(code, os.strerror(code)))
        try:
            recrypt.recrypt(volume, "vm")
        except StorageError as error:
            failures.append(error)
        heal()
        assert contents(volume) == before
        recrypt.resume(volume)
        assert not pending(volume, "vm")
        assert len(named(volume)) == 1
    assert contents(volume) == before
    assert len(failures) > 5
    assert all(failure.errno == code and failure.file for failure in failures)


def test_keys_lost_on_the_way_and_back_to_the_old_one(volume: Volume, vm: Path, keys: Keys) -> None:
    before, (old,) = contents(volume), record_of(volume).keys
    corp = keys.new_key("corp")

    def lose(_count: int) -> None:
        keys.gone = {corp}

    with pytest.raises(KeyUnavailableError):
        recrypt.recrypt(volume, "vm", key_id=corp.key_id, provider="corp", progress=lose)
    assert pending(volume, "vm")
    assert contents(volume) == before
    with pytest.raises(KeyUnavailableError):
        recrypt.recrypt(volume, "vm")
    assert recrypt.recrypt(volume, "vm", key_id=old.key_id, provider="local") == (old,)
    assert named(volume) == {(old,)}
    assert contents(volume) == before
    assert record_of(volume).operation is None


@pytest.mark.allow_log("cannot be resumed now: .*/broken")
def test_one_bad_home_stops_no_other(volume: Volume, top: Path) -> None:
    for name in ("broken", "fine"):
        make(volume, top, name)
        assert interrupt(lambda name=name: recrypt.recrypt(volume, name), 20)
    for path in (top / "broken").glob("*.vmdk"):
        path.write_bytes(b"damaged")
    assert recrypt.resume(volume, but="fine") == []
    assert recrypt.resume(volume) == ["fine"]


def test_conversions_wait(volume: Volume, vm: Path) -> None:
    assert interrupt(lambda: recrypt.recrypt(volume, "vm"), 20)
    for action in (lifecycle.encrypt, lifecycle.decrypt):
        with pytest.raises(UsageError, match="recrypt was interrupted"):
            action(volume, "vm")
    recrypt.recrypt(volume, "vm")
    lifecycle.decrypt(volume, "vm")


# Files that come and go meanwhile


def test_files_made_moved_and_removed_meanwhile(volume: Volume, vm: Path, keys: Keys) -> None:
    """Makers work by what they know of the record, in this process and in others."""
    stop, errors, total = threading.Event(), list[BaseException](), list[str]()
    (vm / "dir").mkdir()

    def work(number: int) -> None:
        with Volume.open(volume.path, keys) as own:
            home, made = own.home("vm"), list[str]()
            try:
                while not stop.is_set():
                    name = f"w{number}-{len(made)}" + (".vmx" if len(made) % 5 == 0 else "")
                    made.append(name)
                    total.append(name)
                    os.close(files.create(home, home.fd, name, mode=0o600))
                    with home.acting():
                        os.rename(name, f"dir/{name}", src_dir_fd=home.fd, dst_dir_fd=home.fd)
                    if len(made) > 4:
                        os.unlink(f"dir/{made[-5]}", dir_fd=home.fd)
            except BaseException as error:
                errors.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(3):
            now = recrypt.recrypt(volume, "vm")
            assert record_of(volume).operation is None
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert errors == []
    assert named(volume) == {now}
    assert len(total) > 20


def test_a_vmx_committed_by_another_mount_meanwhile(volume: Volume, vm: Path, keys: Keys) -> None:
    """It was opened before, and keeps the key safe that it finds when it writes."""
    home = volume.home("vm")
    place = (home.fd, home.fd, "vm.vmx")

    def opened() -> files.OpenFile:
        fd = files.open_regular(home.fd, "vm.vmx", os.O_RDWR)
        return files.open_file(home, fd, home.treatment("vm.vmx"), writable=True, place=lambda: place)

    other = opened()
    steps: list[Callable[[], None]] = [lambda: None]

    def commit(_count: int) -> None:
        writer = opened()
        writer.write(0, b'a = "b"\n')
        writer.flush()
        writer.close()

    (new,) = recrypt.recrypt(volume, "vm", progress=commit)
    assert steps
    other.close()
    assert named(volume) == {(new,)}
    assert contents(volume)["vm.vmx"].startswith(b'a = "b"\n')


def test_a_file_that_another_program_has_is_waited_for(
    volume: Volume, vm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ioflt import syscalls

    monkeypatch.setattr(recrypt, "_WRITER_WAIT_S", 0.2)
    (vm / "vm.vmdk").chmod(0o600)
    with (vm / "vm.vmdk").open("r+b") as file:
        assert syscalls.try_write_lock(file.fileno())
        with pytest.raises(BusyError, match="no mount of this host"):
            recrypt.recrypt(volume, "vm")
        assert pending(volume, "vm")
        timer = threading.Timer(0.05, lambda: syscalls.unlock(file.fileno()))
        timer.start()
        recrypt.recrypt(volume, "vm")
        timer.join()
    assert len(named(volume)) == 1


def test_stock_cryptsetup_holding_the_lock_is_waited_for(volume: Volume, vm: Path) -> None:
    import fcntl

    (vm / "vm.vmdk").chmod(0o600)
    with (vm / "vm.vmdk").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        timer = threading.Timer(0.1, lambda: fcntl.flock(file, fcntl.LOCK_UN))
        timer.start()
        recrypt.recrypt(volume, "vm")
        timer.join()
        assert len(read_header(file.fileno()).tokens) == 1
