"""Conversion of homes: what is kept, what an interruption at every step leaves, what is refused."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ioflt import paths
from ioflt.datastore import convert, files, lifecycle, regular, summary
from ioflt.datastore.fileid import file_id_of, uuid_of
from ioflt.datastore.home import Home
from ioflt.datastore.standing import Treatment, stored_as
from ioflt.datastore.volume import Volume
from ioflt.errors import (
    AuthenticationError,
    BusyError,
    CorruptDataError,
    IofltError,
    KeyUnavailableError,
    MalformedError,
    NotFoundError,
    ProviderLocked,
    ReadOnlyError,
    StorageError,
    UsageError,
)
from ioflt.format.record import record as form
from ioflt.testing.local_keys import LocalKeys
from ioflt.types import HomeState
from tests.event_log import is_event_log

CANARY = b"the canary sings"
MTIME = 1_500_000_000_123_456_789

#: Calls that change the datastore, or that make it durable: what an interruption comes before or after.
CALLS = ("pwrite", "ftruncate", "fsync", "fdatasync", "rename", "link", "unlink", "utime", "fchmod", "mkdir")


@pytest.fixture
def keys(tmp_path: Path, ioflt_home: Path) -> Iterator[LocalKeys]:
    directory = tmp_path / "keys"
    directory.mkdir()
    with LocalKeys(directory) as made:
        yield made


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return tmp_path / "ds"


@pytest.fixture
def volume(top: Path, keys: LocalKeys) -> Iterator[Volume]:
    Volume.init(top, HomeState.CLEAR, keys)
    with Volume.open(top, keys) as made:
        yield made


def fill(home: Path) -> None:
    """Files of every kind: hard links over directories, holes, an odd length, nothing at all."""
    (home / "vm.vmx").write_bytes(b'displayName = "vm"\nannotation = "' + CANARY + b'"\n')
    (home / "vm.vmdk").write_bytes(CANARY * 300)
    (home / "empty").touch()
    (home / "snapshots").mkdir()
    os.link(home / "vm.vmdk", home / "snapshots" / "twin")
    os.link(home / "vm.vmdk", home / "third")
    with (home / "sparse.raw").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(300_000)
        file.write(CANARY)
    os.symlink("vm.vmdk", home / "link")
    os.mkfifo(home / "fifo")
    for number, path in enumerate(sorted(home.rglob("*"))):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o600 | number)
            os.utime(path, ns=(MTIME + 1, MTIME))


@pytest.fixture
def clear(volume: Volume, top: Path) -> Path:
    """A clear home with files."""
    volume.make_home("vm", 0o755)
    fill(top / "vm")
    return top / "vm"


@pytest.fixture
def encrypted(volume: Volume, clear: Path) -> Path:
    """The same, encrypted."""
    lifecycle.encrypt(volume, "vm")
    return clear


def contents(volume: Volume, name: str = "vm") -> dict[str, bytes]:
    """What the mount would show: every file, as it can be read now."""
    home = volume.home(name)
    found = {}
    for entry in regular.regular_files(home):
        fd = regular.open_file(home, entry.path)
        treatment = home.treatment(entry.path, fd)
        file = files.open_file(home, fd, treatment, writable=False, place=lambda: None, name=entry.path)
        found[entry.path] = bytes(file.read(0, file.length))
        file.close()
    return found


def raw(home: Path) -> dict[str, bytes]:
    """Every byte of the home, records included."""
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in sorted(home.rglob("*"))
        if path.is_file() and not path.is_symlink() and not path.is_fifo()
    }


def looks(home: Path) -> dict[str, tuple[int, int, int]]:
    """Mode, mtime and number of names of every file."""
    return {
        str(path.relative_to(home)): (info.st_mode, info.st_mtime_ns, info.st_nlink)
        for path in sorted(home.rglob("*"))
        if ".ioflt" not in str(path) and not stat.S_ISDIR((info := path.lstat()).st_mode)
    }


def has_canary(home: Path) -> list[str]:
    return [name for name, data in raw(home).items() if CANARY in data]


class Interruption(Exception):
    """The power is cut here."""


class Cut:
    """Counts calls of `os` in this thread; the one of number `at` fails, and so do all later ones: nothing is
    cleaned up.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.count = 0
        self.at = at
        self.thread = threading.get_ident()
        self.armed = True
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrap(getattr(os, name)))

    def _wrap(self, call: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*args: object, **kwargs: object) -> object:
            if not self.armed or threading.get_ident() != self.thread:
                return call(*args, **kwargs)
            self.count += 1
            if self.count >= self.at:
                raise Interruption
            return call(*args, **kwargs)

        return wrapped


def interrupt(action: Callable[[], object], at: int) -> bool:
    """Run `action`, cut at the call of that number; whether it was reached."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        cut = Cut(monkeypatch, at)
        try:
            action()
        except Interruption:
            return True
        finally:
            cut.armed = False
    return False


# Whole conversions


@pytest.mark.parametrize("thick", [False, True])
def test_there_and_back(volume: Volume, clear: Path, thick: bool) -> None:
    before, looked = contents(volume), looks(clear)
    told: list[int] = []
    lifecycle.encrypt(volume, "vm", thick=thick, progress=told.append)
    assert sum(told) == sum(len(data) for path, data in before.items() if path not in ("third", "vm.vmdk"))
    assert has_canary(clear) == []
    assert contents(volume) == before
    assert looks(clear) == looked
    assert (clear / "vm.vmdk").samefile(clear / "snapshots" / "twin")
    assert (clear / "vm.vmdk").samefile(clear / "third")
    standing = volume.home("vm").standing()
    assert (standing.state, standing.thick, standing.problem) == (HomeState.ENCRYPTED, thick, None)
    sparse = (clear / "sparse.raw").stat()
    assert (sparse.st_blocks * 512 > 1 << 20) == thick
    assert os.readlink(clear / "link") == "vm.vmdk"
    lifecycle.decrypt(volume, "vm")
    assert contents(volume) == before
    assert {name: data for name, data in raw(clear).items() if name != ".ioflt"} == before
    assert looks(clear) == looked
    assert (clear / "vm.vmdk").samefile(clear / "third")
    assert volume.home("vm").standing().state is HomeState.CLEAR
    assert os.listdir(clear / ".ioflt.d") == []


def test_thin_decrypts_to_holes(volume: Volume, encrypted: Path) -> None:
    lifecycle.decrypt(volume, "vm")
    assert (encrypted / "sparse.raw").stat().st_blocks * 512 < 64 << 10


def test_thick_is_initialised(volume: Volume, clear: Path) -> None:
    lifecycle.encrypt(volume, "vm", thick=True)
    assert b"\0" * 4096 not in (clear / "sparse.raw").read_bytes()[1 << 20 :]


def test_every_encryption_has_a_key_of_its_own(volume: Volume, clear: Path) -> None:
    lifecycle.encrypt(volume, "vm")
    first = volume.home("vm").standing().key
    lifecycle.decrypt(volume, "vm")
    lifecycle.encrypt(volume, "vm")
    assert volume.home("vm").standing().key != first


def test_what_looks_like_a_container_is_bytes(volume: Volume, encrypted: Path, top: Path) -> None:
    volume.make_home("other", 0o755)
    nested = (encrypted / "vm.vmdk").read_bytes()
    (top / "other" / "disk").write_bytes(nested)
    (top / "other" / "a.vmx").write_bytes((encrypted / "vm.vmx").read_bytes())
    before = contents(volume, "other")
    lifecycle.encrypt(volume, "other")
    assert contents(volume, "other") == before
    lifecycle.decrypt(volume, "other")
    assert (top / "other" / "disk").read_bytes() == nested


def test_names_that_are_not_text(volume: Volume, clear: Path) -> None:
    path = os.fsdecode(b"b\xffd\n.vmdk")
    (clear / path).write_bytes(CANARY)
    lifecycle.encrypt(volume, "vm")
    assert contents(volume)[path] == CANARY
    assert has_canary(clear) == []


def test_done_already(volume: Volume, clear: Path) -> None:
    with pytest.raises(UsageError, match="vm: is clear already"):
        lifecycle.decrypt(volume, "vm")
    lifecycle.encrypt(volume, "vm")
    before = raw(clear)
    with pytest.raises(UsageError, match="vm: is encrypted already"):
        lifecycle.encrypt(volume, "vm")
    assert raw(clear) == before


# Interruptions


@pytest.mark.slow
@pytest.mark.parametrize("back", [False, True])
def test_encrypt_interrupted_anywhere(volume: Volume, top: Path, back: bool) -> None:
    """Cut at each call in turn; what can be read is the same; then resumed, or taken back."""
    at, reached = 0, True
    while reached:
        at += 1
        name = f"vm{at}"
        volume.make_home(name, 0o755)
        fill(top / name)
        before, looked = contents(volume, name), looks(top / name)
        reached = interrupt(lambda name=name: lifecycle.encrypt(volume, name), at)
        assert contents(volume, name) == before
        operation = operation_of(volume.home(name))
        if back and volume.home(name).standing().state is HomeState.ENCRYPTED:
            lifecycle.decrypt(volume, name)
            assert {path: data for path, data in raw(top / name).items() if path != ".ioflt"} == before
        else:
            assert lifecycle.resume_encryptions(volume) == ([name] if operation else [])
            if volume.home(name).standing().state is HomeState.CLEAR:
                lifecycle.encrypt(volume, name)
            assert has_canary(top / name) == []
        assert contents(volume, name) == before
        assert looks(top / name) == looked
        assert volume.home(name).standing().problem is None
        assert (top / name / "vm.vmdk").samefile(top / name / "third")
        assert os.listdir(top / name / ".ioflt.d") == []
        volume.forget(volume.home(name))
        shutil.rmtree(top / name)
    assert at > 60
    assert operations() == []


@pytest.mark.slow
@pytest.mark.parametrize("back", [False, True])
def test_decrypt_interrupted_anywhere(volume: Volume, top: Path, back: bool) -> None:
    at, reached = 0, True
    while reached:
        at += 1
        name = f"vm{at}"
        volume.make_home(name, 0o755)
        fill(top / name)
        lifecycle.encrypt(volume, name)
        before, looked = contents(volume, name), looks(top / name)
        key = volume.home(name).standing().key
        reached = interrupt(lambda name=name: lifecycle.decrypt(volume, name), at)
        assert contents(volume, name) == before
        assert lifecycle.resume_encryptions(volume) == []
        home = volume.home(name)
        if operation_of(home) is not None:
            with pytest.raises(ReadOnlyError, match="decryption was interrupted"):
                home.check_writable()
        if back and home.standing().state is HomeState.ENCRYPTED and operation_of(home):
            lifecycle.encrypt(volume, name)
            assert home.standing().key == key
            assert has_canary(top / name) == []
        elif home.standing().state is HomeState.ENCRYPTED:
            lifecycle.decrypt(volume, name)
            assert {path: data for path, data in raw(top / name).items() if path != ".ioflt"} == before
        assert contents(volume, name) == before
        assert looks(top / name) == looked
        assert home.standing().problem is None
        assert (top / name / "vm.vmdk").samefile(top / name / "third")
        assert os.listdir(top / name / ".ioflt.d") == []
        volume.forget(volume.home(name))
        shutil.rmtree(top / name)
    assert at > 40


def operations() -> list[str]:
    return os.listdir(paths.find().ensure().operations)


def operation_of(home: Home) -> object:
    record = home.standing().record
    return None if record is None else record.operation


# Failures in the middle


def failing(monkeypatch: pytest.MonkeyPatch, name: str, at: int, failure: Exception) -> Callable[[], None]:
    """Let call number `at` of `os.<name>` fail once."""
    real = getattr(os, name)
    count = iter(range(1, 1_000_000))

    def call(*args: object, **kwargs: object) -> object:
        if not is_event_log(args[0]) and next(count) == at:
            raise failure
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, call)
    return lambda: monkeypatch.setattr(os, name, real)


@pytest.mark.parametrize("at", [4, 9, 14])
def test_no_space(volume: Volume, clear: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    before = contents(volume)
    heal = failing(monkeypatch, "pwrite", at, OSError(errno.ENOSPC, "full"))
    with pytest.raises(StorageError, match="No space left") as caught:
        lifecycle.encrypt(volume, "vm")
    heal()
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.file is not None
    assert caught.value.file.startswith(str(clear))
    assert contents(volume) == before
    assert not (clear / ".ioflt.d").exists() or os.listdir(clear / ".ioflt.d") == []
    with pytest.raises(ReadOnlyError, match="encryption was interrupted"):
        volume.home("vm").check_writable()
    lifecycle.encrypt(volume, "vm")
    assert contents(volume) == before


def test_no_space_for_plaintext(volume: Volume, encrypted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(volume)
    heal = failing(monkeypatch, "rename", 3, OSError(errno.ENOSPC, "full"))
    with pytest.raises(StorageError):
        lifecycle.decrypt(volume, "vm")
    heal()
    assert has_canary(encrypted) == []
    lifecycle.encrypt(volume, "vm")
    assert contents(volume) == before


def test_keys_lost_on_the_way(volume: Volume, clear: Path, keys: LocalKeys) -> None:
    before = contents(volume)

    def lock_after(limit: int) -> Callable[[int], None]:
        seen: list[int] = []

        def progress(count: int) -> None:
            seen.append(count)
            if len(seen) == limit:
                keys.lock("force")

        return progress

    with pytest.raises(KeyUnavailableError):
        lifecycle.encrypt(volume, "vm", progress=lock_after(3))
    with pytest.raises(ProviderLocked):
        lifecycle.encrypt(volume, "vm")
    keys.unlock()
    assert contents(volume) == before
    assert lifecycle.resume_encryptions(volume) == ["vm"]
    with pytest.raises(KeyUnavailableError):
        lifecycle.decrypt(volume, "vm", progress=lock_after(3))
    keys.unlock()
    assert contents(volume) == before
    lifecycle.decrypt(volume, "vm")
    assert contents(volume) == before


def test_changed_while_converted(volume: Volume, clear: Path) -> None:
    def write(_count: int) -> None:
        for path in clear.rglob("*"):
            if path.is_file():
                os.utime(path)

    with pytest.raises(BusyError, match="changed while it was converted"):
        lifecycle.encrypt(volume, "vm", progress=write)
    lifecycle.encrypt(volume, "vm")


def test_files_that_came_or_went(volume: Volume, clear: Path) -> None:
    """While a home is half encrypted, somebody works on the datastore itself."""
    assert interrupt(lambda: lifecycle.encrypt(volume, "vm"), 30)
    (clear / "planted").write_bytes(b"mine")
    (clear / "sparse.raw").unlink()
    (clear / "empty").unlink()
    lifecycle.encrypt(volume, "vm")
    assert (clear / "planted").read_bytes() == b"mine"  # never taken for a file of the home
    with pytest.raises(CorruptDataError):
        contents(volume)
    (clear / "planted").unlink()
    assert set(contents(volume)) == {"vm.vmx", "vm.vmdk", "third", "snapshots/twin"}


# Refused before anything changed


def refused(
    volume: Volume, home: Path, kind: type[IofltError], message: str, action: Callable[..., None]
) -> None:
    before = raw(home)
    with pytest.raises(kind, match=message):
        action(volume, "vm")
    assert raw(home) == before
    assert volume.home("vm").standing().problem is None


def test_large_vmx(volume: Volume, clear: Path) -> None:
    (clear / "snapshots" / "old.VMX").write_bytes(bytes((1 << 20) + 1))
    refused(volume, clear, MalformedError, r"snapshots/old.VMX: too large", lifecycle.encrypt)


@pytest.mark.parametrize("name", ["vm.vmdk", "vm.vmx", "snapshots/twin"])
def test_a_bad_file_is_named(volume: Volume, encrypted: Path, name: str) -> None:
    data = bytearray((encrypted / name).read_bytes())
    data[:400] = bytes(400)
    data[16384:16800] = bytes(416)
    (encrypted / name).write_bytes(data)
    refused(volume, encrypted, CorruptDataError, "vm/", lifecycle.decrypt)


def test_a_clear_file_in_an_encrypted_home(volume: Volume, encrypted: Path) -> None:
    (encrypted / "planted").write_bytes(b"mine")
    refused(volume, encrypted, CorruptDataError, "vm/planted: truncated header", lifecycle.decrypt)


def test_in_use(volume: Volume, clear: Path, keys: LocalKeys) -> None:
    with Volume.open(volume.path, keys) as mount:
        mount.home("vm").enter()
        refused(volume, clear, BusyError, "in use", lifecycle.encrypt)
        mount.home("vm").leave()
    lifecycle.encrypt(volume, "vm")


def test_a_mount_that_makes_a_file_just_now(
    volume: Volume, clear: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = regular.regular_files

    def then_make(home: Home) -> list[regular.Entry]:
        found = real(home)
        (clear / "new").touch()
        return found

    monkeypatch.setattr(regular, "regular_files", then_make)
    with pytest.raises(BusyError, match="just now"):
        lifecycle.encrypt(volume, "vm")
    assert volume.home("vm").standing().state is HomeState.CLEAR


def test_a_decryption_that_did_not_begin_is_forgotten(
    volume: Volume, encrypted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = regular.regular_files

    def then_make(home: Home) -> list[regular.Entry]:
        found = real(home)
        (encrypted / "new").touch()
        return found

    monkeypatch.setattr(regular, "regular_files", then_make)
    with pytest.raises(BusyError, match="just now"):
        lifecycle.decrypt(volume, "vm")
    assert operations() == []
    assert operation_of(volume.home("vm")) is None


def test_read_only_and_missing(volume: Volume, clear: Path, keys: LocalKeys) -> None:
    with Volume.open(volume.path, keys, read_only=True) as view:
        for action in (lifecycle.encrypt, lifecycle.decrypt):
            refused(view, clear, ReadOnlyError, "read-only", action)
        with pytest.raises(ReadOnlyError):
            lifecycle.register(view, "vm", clear=True)
        assert lifecycle.resume_encryptions(view) == []
    with pytest.raises(NotFoundError):
        lifecycle.encrypt(volume, "none")


def test_no_record(volume: Volume, clear: Path) -> None:
    (clear / ".ioflt").unlink()
    for action in (lifecycle.encrypt, lifecycle.decrypt):
        with pytest.raises(ReadOnlyError, match="it has no record"):
            action(volume, "vm")


# Old states put back


def copy_of(home: Path) -> dict[str, bytes]:
    return {name: data for name, data in raw(home).items() if not name.startswith(".ioflt.d")}


def put_back(home: Path, state: dict[str, bytes]) -> None:
    for name, data in state.items():
        (home / name).unlink(missing_ok=True)
        (home / name).write_bytes(data)


def forget() -> None:
    """A host that never saw any home."""
    for path in paths.find().homes.iterdir():
        path.unlink()


def test_a_half_decrypted_state_put_back(volume: Volume, encrypted: Path) -> None:
    assert interrupt(lambda: lifecycle.decrypt(volume, "vm"), 40)
    half = copy_of(encrypted)
    lifecycle.encrypt(volume, "vm")
    put_back(encrypted, half)
    for action in (lifecycle.encrypt, lifecycle.decrypt):
        with pytest.raises(ReadOnlyError, match="rolled back"):
            action(volume, "vm")
    forget()
    with pytest.raises(ReadOnlyError, match="never started"):
        volume.home("vm").check_writable()
    for action in (lifecycle.encrypt, lifecycle.decrypt):
        with pytest.raises(AuthenticationError, match="unknown operation"):
            action(volume, "vm")
    assert lifecycle.resume_encryptions(volume) == []
    assert copy_of(encrypted) == half


def test_an_old_record_put_back_wraps_nothing_twice(volume: Volume, clear: Path) -> None:
    assert interrupt(lambda: lifecycle.encrypt(volume, "vm"), 12)
    record = (clear / ".ioflt").read_bytes()
    lifecycle.encrypt(volume, "vm")
    (clear / ".ioflt").write_bytes(record)
    before = {name: data for name, data in copy_of(clear).items() if name != ".ioflt"}
    with pytest.raises(ReadOnlyError, match="rolled back"):
        lifecycle.encrypt(volume, "vm")
    forget()
    with pytest.raises(AuthenticationError, match="replayed record"):
        lifecycle.encrypt(volume, "vm")
    assert {name: data for name, data in copy_of(clear).items() if name != ".ioflt"} == before


def test_the_clear_record_of_before_put_back(volume: Volume, clear: Path) -> None:
    """It would make the mount write plaintext."""
    record = (clear / ".ioflt").read_bytes()
    lifecycle.encrypt(volume, "vm")
    good = (clear / ".ioflt").read_bytes()
    (clear / ".ioflt").write_bytes(record)
    with pytest.raises(ReadOnlyError, match="rolled back"):
        volume.home("vm").check_writable()
    with pytest.raises(UsageError, match="its files are encrypted"):
        lifecycle.register(volume, "vm", accept_rollback=True)
    forget()
    home_id = form.parse_home(record).record.home_id
    paths.find().outdated.mkdir()
    (paths.find().outdated / home_id).touch()  # as earlier versions remembered it
    with pytest.raises(ReadOnlyError, match="outdated record"):
        volume.home("vm").check_writable()
    with pytest.raises(UsageError, match="its files are encrypted"):
        lifecycle.register(volume, "vm", clear=True)
    (clear / ".ioflt").write_bytes(good)
    lifecycle.decrypt(volume, "vm")
    volume.home("vm").check_writable()
    (clear / ".ioflt").write_bytes(record)
    with pytest.raises(ReadOnlyError, match="outdated record"):
        volume.home("vm").check_writable()


def test_raw_copy_of_a_container_is_no_hard_link(volume: Volume, encrypted: Path) -> None:
    """Two files with one UUID and other contents, and a cut between them."""
    copy = encrypted / "copy.raw"
    copy.write_bytes((encrypted / "sparse.raw").read_bytes())
    home = volume.home("vm")
    fd = os.open(copy, os.O_RDWR)
    file = files.open_file(home, fd, Treatment.CONTAINER, writable=True, place=lambda: None)
    file.write(0, b"changed since")
    file.sync(data_only=False)
    file.close()
    before = contents(volume)
    for at in range(1, 200):
        if not interrupt(lambda: lifecycle.decrypt(volume, "vm"), at):
            break
        if home.standing().state is HomeState.CLEAR:  # cut behind its end
            break
        if operation_of(home) is not None:
            assert contents(volume) == before
    assert contents(volume) == before


# The next start of a mount


@pytest.mark.allow_log("cannot be resumed now: .*/broken")
def test_one_bad_home_stops_no_other(volume: Volume, top: Path) -> None:
    for name in ("broken", "fine", "idle", "strange"):
        volume.make_home(name, 0o755)
        fill(top / name)
    for name in ("broken", "fine"):
        assert interrupt(lambda name=name: lifecycle.encrypt(volume, name), 12)
    (top / "strange" / ".ioflt").write_bytes(b"nonsense")
    (top / "broken" / "vm.vmx").unlink()
    (top / "broken" / "vm.vmx").mkdir()
    (top / "broken" / "vm.vmdk").unlink()
    os.mkfifo(top / "broken" / "vm.vmdk")
    assert lifecycle.resume_encryptions(volume) == ["fine"]
    assert volume.home("idle").standing().state is HomeState.CLEAR
    assert has_canary(top / "fine") == []


def test_a_home_in_use_is_left_alone(volume: Volume, clear: Path, keys: LocalKeys) -> None:
    assert interrupt(lambda: lifecycle.encrypt(volume, "vm"), 12)
    with Volume.open(volume.path, keys) as other, other.home("vm").exclusive():
        assert lifecycle.resume_encryptions(volume) == []
    assert lifecycle.resume_encryptions(volume, but="vm") == []
    assert lifecycle.resume_encryptions(volume) == ["vm"]


def test_two_at_once(volume: Volume, clear: Path) -> None:
    before = contents(volume)
    results: list[str] = []

    def work() -> None:
        try:
            lifecycle.encrypt(volume, "vm")
            results.append("done")
        except (BusyError, UsageError):
            results.append("refused")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["done", "refused", "refused", "refused"]
    assert contents(volume) == before


# Registration


def test_register_encrypted(volume: Volume, encrypted: Path) -> None:
    before, key = contents(volume), volume.home("vm").standing().key
    (encrypted / ".ioflt").unlink()
    (encrypted / "planted").write_bytes(b"mine")
    assert lifecycle.register(volume, "vm", clear=False) == ["planted"]
    (encrypted / "planted").unlink()
    assert volume.home("vm").standing().key == key
    assert volume.home("vm").standing().problem is None
    assert contents(volume) == before


def test_register_clear(volume: Volume, clear: Path, top: Path) -> None:
    before = contents(volume)
    clear.rename(top / "copy")
    with pytest.raises(ReadOnlyError, match="another home"):
        volume.home("copy").check_writable()
    assert lifecycle.register(volume, "copy", clear=True) == []
    assert contents(volume, "copy") == before
    assert volume.home("copy").standing().problem is None


def test_register_a_home_that_names_a_key_of_nobody(volume: Volume, encrypted: Path) -> None:
    record = (encrypted / ".ioflt").read_bytes()
    (encrypted / ".ioflt").write_bytes(record.replace(b'"provider":"local"', b'"provider":"nobody"'))
    with pytest.raises(KeyUnavailableError):
        volume.home("vm").check_writable()
    lifecycle.register(volume, "vm", clear=False)
    volume.home("vm").check_writable()


def test_register_refuses(volume: Volume, encrypted: Path, top: Path) -> None:
    with pytest.raises(UsageError, match="valid record, which says that it is encrypted"):
        lifecycle.register(volume, "vm", clear=False)
    (encrypted / ".ioflt").unlink()
    before = raw(encrypted)
    with pytest.raises(UsageError, match="its files are encrypted under local:"):
        lifecycle.register(volume, "vm", clear=True)
    volume.make_home("clear", 0o755)
    fill(top / "clear")
    (top / "clear" / ".ioflt").unlink()
    with pytest.raises(UsageError, match="none of its files is encrypted"):
        lifecycle.register(volume, "clear", clear=False)
    lifecycle.register(volume, "clear", clear=True)
    lifecycle.encrypt(volume, "clear")
    (encrypted / "alien").write_bytes((top / "clear" / "empty").read_bytes())
    with pytest.raises(UsageError, match=r"no key in common: .*alien: local:.*vm\.vmdk: local:"):
        lifecycle.register(volume, "vm", clear=False)
    (encrypted / "alien").unlink()
    assert raw(encrypted) == before


def test_register_names_a_file_that_does_not_verify(volume: Volume, encrypted: Path) -> None:
    (encrypted / ".ioflt").unlink()
    text = (encrypted / "vm.vmx").read_bytes()
    (encrypted / "vm.vmx").write_bytes(text.replace(b":length=", b":length=1"))
    with pytest.raises(CorruptDataError, match=r"vm/vm\.vmx: "):
        lifecycle.register(volume, "vm", clear=False)


def test_register_keeps_what_can_be_resumed(volume: Volume, clear: Path) -> None:
    assert interrupt(lambda: lifecycle.encrypt(volume, "vm"), 30)
    for as_clear in (True, False):
        with pytest.raises(UsageError, match="interrupted"):
            lifecycle.register(volume, "vm", clear=as_clear)


# Summaries and small things


def test_summary(volume: Volume, encrypted: Path, top: Path) -> None:
    (encrypted / "planted").write_bytes(b"mine")
    (top / "bad").mkdir()
    (top / "bad" / ".ioflt").write_bytes(b"nonsense")
    bad, vm = summary.homes(volume)
    assert bad.problem is not None
    assert "unusable" in bad.problem
    assert (vm.state, vm.policy, vm.thick, vm.problem) == ("encrypted", "VM Encryption Policy", False, None)
    assert vm.keys == list(map(str, volume.home("vm").standing().keys))
    found = {file.path: (file.stored_as, file.length) for file in vm.files}
    assert found["vm.vmx"][0] == "sealed VMX"
    assert found["snapshots/twin"] == ("container", len(CANARY) * 300)
    assert found["sparse.raw"] == ("container", 1 << 20)
    assert found["planted"] == ("container", None)
    assert next(file.problem for file in vm.files if file.path == "planted") is not None


def test_summary_of_a_half_encrypted_home(volume: Volume, clear: Path) -> None:
    assert interrupt(lambda: lifecycle.encrypt(volume, "vm"), 45)
    vm = summary.home(volume, "vm")
    assert {file.stored_as for file in vm.files} >= {"clear", "container"}
    assert [file.problem for file in vm.files if file.problem] == []


def test_uuids_for_file_ids() -> None:
    for file_id in (1 << 62, (1 << 63) - 1, 0x5555_5555_5555_5555):
        assert file_id_of(uuid_of(file_id)) == file_id
        assert uuid_of(file_id) != uuid_of(file_id)


def test_named_keys_of_strange_files(volume: Volume, clear: Path) -> None:
    for path in ("vm.vmx", "vm.vmdk", "empty"):
        with regular.opened(volume.home("vm"), path) as fd:
            assert convert.named_keys(fd, stored_as(path)) == ()


def test_thick_stays_with_the_operation(volume: Volume, clear: Path) -> None:
    assert interrupt(lambda: lifecycle.encrypt(volume, "vm", thick=True), 30)
    lifecycle.encrypt(volume, "vm")
    assert volume.home("vm").standing().thick
    record = volume.home("vm").standing().record
    assert record is not None
    assert replace(record, operation=None) == record
    assert (clear / "sparse.raw").stat().st_blocks * 512 > 1 << 20
