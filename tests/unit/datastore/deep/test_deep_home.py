"""Deep recrypt of homes: what changes and what is kept, what an interruption leaves, what is refused."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ioflt.crypto.secret import Secret
from ioflt.datastore import (
    atomic,
    check,
    datakeys,
    files,
    headers,
    inspect,
    reach,
    recovery,
    registration,
    resume,
    stateblocks,
)
from ioflt.datastore.container import Container
from ioflt.datastore.deep import disk, home, journal, replacement
from ioflt.datastore.deep.home import OldWays
from ioflt.datastore.header import read_header
from ioflt.datastore.vmx import read_sealed
from ioflt.datastore.volume import Volume
from ioflt.errors import (
    AuthenticationError,
    BusyError,
    CorruptDataError,
    KeyUnavailableError,
    MalformedError,
    StorageError,
    UnsupportedError,
    UsageError,
)
from ioflt.format.luks2 import keyslot, state
from ioflt.format.luks2.layout import DATA_OFFSET
from ioflt.format.record.record import Deep, Mode
from ioflt.format.vmx import sealed
from ioflt.types import HomeState
from tests.unit.datastore.stored import DESCRIPTOR, VMX, Stored, patch, snapshot
from tests.unit.datastore.test_lifecycle import interrupt

CANARY = b"the canary sings"
MTIME = 1_500_000_000_123_456_789
MODES: tuple[Mode, ...] = ("copy", "journal")


@pytest.fixture
def stored(tmp_path: Path, ioflt_home: Path) -> Iterator[Stored]:
    made = Stored(tmp_path)
    fill(made)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small file has several."""
    monkeypatch.setattr(journal, "SEGMENT", 64 << 10)


def fill(stored: Stored) -> None:
    """A VM with a snapshot chain, holes, a thick disk, hard links, an odd length, nothing at all."""
    stored.put("web.vmx", VMX + b'annotation = "' + CANARY + b'"\n')
    stored.put("disk.vmdk", DESCRIPTOR)
    stored.put("disk-flat.vmdk", CANARY * 20000 + b"odd")
    stored.put("disk-000001.vmdk", CANARY * 5000)
    stored.put("thick.raw", CANARY * 10000, thin=False)
    stored.put("empty", b"")
    sparse = stored.put("sparse.raw", CANARY)
    with sparse_file(stored, "sparse.raw") as file:
        file.write(700_000, CANARY * 3)
        file.truncate(3 << 20)
        file.sync(data_only=False)
    (stored.top / "web" / "snapshots").mkdir()
    os.link(stored.path("disk.vmdk"), stored.path("snapshots/twin"))
    os.link(stored.path("disk.vmdk"), stored.path("third"))
    for number, path in enumerate(paths(stored)):
        path.chmod(0o600 | number)
        os.utime(path, ns=(MTIME + 1, MTIME + number))
    assert sparse.stat().st_blocks < 200


def sparse_file(stored: Stored, name: str) -> Open:
    return Open(stored, name)


class Open:
    """A container open for writing."""

    def __init__(self, stored: Stored, name: str) -> None:
        fd = os.open(stored.path(name), os.O_RDWR)
        self.file = Container.open(fd, stored.keys, writable=True)

    def __enter__(self) -> Container:
        return self.file

    def __exit__(self, *_: object) -> None:
        self.file.close()


def paths(stored: Stored, name: str = "web") -> list[Path]:
    top = stored.top / name
    return [
        path
        for path in sorted(top.rglob("*"))
        if path.is_file() and ".ioflt" not in str(path.relative_to(top))
    ]


@dataclass(frozen=True)
class Seen:
    """What a user sees of a file, and must stay."""

    contents: bytes
    file_id: int
    mode: int
    mtime: int
    holes: list[bool]
    links: int


def seen(stored: Stored, name: str = "web") -> dict[str, Seen]:
    found = {}
    for path in paths(stored, name):
        fd = os.open(path, os.O_RDONLY)
        info = os.fstat(fd)
        kind = home.stored_as(path.name)
        file = files.open_file(stored.home, fd, kind, writable=False, place=lambda: None)
        contents = bytes(file.read(0, file.length))
        holes = []
        if isinstance(file, Container) and file.thin:
            body = os.pread(fd, 1 << 23, DATA_OFFSET)
            holes = [not any(body[start : start + 4096]) for start in range(0, len(body), 4096)]
        found[str(path.relative_to(stored.top / name))] = Seen(
            contents, file.file_id, info.st_mode, info.st_mtime_ns, holes, info.st_nlink
        )
        file.close()
    return found


def secrets(stored: Stored) -> dict[str, bytes]:
    """What must differ afterwards: each DEK, each VMX's key safe."""
    found = {}
    for path in paths(stored):
        with path.open("rb") as file:
            if path.suffix == ".vmx":
                found[path.name] = sealed.peek(read_sealed(file.fileno())).safe.encode()
            else:
                with datakeys.unwrap(read_header(file.fileno()), stored.keys) as dek:
                    found[path.name] = bytes(dek.view())
    return found


def sound(stored: Stored) -> bool:
    report = check.run(stored.top, stored.keys)
    assert report.sound, [entry for entry in report.entries if entry.finding]
    return True


@pytest.mark.parametrize("mode", MODES)
def test_new_keys_and_nothing_else(stored: Stored, mode: Mode) -> None:
    before, old = seen(stored), secrets(stored)
    told: list[int] = []
    assert home.recrypt(stored.volume, "web", mode=mode, progress=told.append) == mode
    assert seen(stored) == before
    new = secrets(stored)
    assert set(new) == set(old)
    assert not set(new.values()) & set(old.values())
    assert len(set(new.values())) == len(new) - 2  # two more names of one file
    assert stored.path("disk.vmdk").samefile(stored.path("snapshots/twin"))
    assert stored.path("disk.vmdk").samefile(stored.path("third"))
    assert os.listdir(stored.top / "web" / ".ioflt.d") == []
    standing = stored.home.standing()
    assert (standing.problem, standing.record.operation) == (None, None)
    lengths = {name: len(one.contents) for name, one in before.items()}
    assert sum(told) >= sum(lengths.values()) - lengths["third"] - lengths["snapshots/twin"]
    assert sound(stored)
    assert all(CANARY not in path.read_bytes() for path in stored.top.rglob("*") if path.is_file())


@pytest.mark.parametrize("mode", MODES)
def test_again_and_again(stored: Stored, mode: Mode) -> None:
    before = seen(stored)
    for _ in range(4):
        home.recrypt(stored.volume, "web", mode=mode)
    assert seen(stored) == before
    assert sound(stored)


def test_in_place_keeps_the_inode_and_a_copy_does_not(stored: Stored) -> None:
    inode = stored.path("disk-flat.vmdk").stat().st_ino
    home.recrypt(stored.volume, "web", mode="journal")
    assert stored.path("disk-flat.vmdk").stat().st_ino == inode
    home.recrypt(stored.volume, "web", mode="copy")
    assert stored.path("disk-flat.vmdk").stat().st_ino != inode


def test_the_mode_follows_the_room(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home.recrypt(stored.volume, "web") == "copy"
    real = os.fstatvfs(stored.home.fd)
    few = os.statvfs_result((*real[:4], 100, *real[5:]))
    monkeypatch.setattr(os, "fstatvfs", lambda _fd: few)
    assert home.recrypt(stored.volume, "web") == "journal"
    assert sound(stored)


@pytest.mark.parametrize("mode", MODES)
def test_to_another_key(stored: Stored, mode: Mode) -> None:
    before = seen(stored)
    old, new = stored.home.standing().keys, (stored.keys.new_key(None), stored.keys.new_key(None))
    home.recrypt(stored.volume, "web", mode=mode, to=new)
    assert stored.home.standing().keys == new
    assert seen(stored) == before
    assert sound(stored)
    with stored.path("disk-flat.vmdk").open("rb") as file:
        assert {token.key for token in read_header(file.fileno()).tokens} == set(new)
    with stored.path("web.vmx").open("rb") as file:
        assert not set(sealed.peek(read_sealed(file.fileno())).keys) & set(old)


@pytest.mark.parametrize("mode", MODES)
def test_a_half_filled_thick_disk(stored: Stored, mode: Mode) -> None:
    with sparse_file(stored, "thick.raw") as file:
        file.truncate(400_000)
        assert file.unfilled
        file.sync(data_only=False)
    before = seen(stored)
    home.recrypt(stored.volume, "web", mode=mode)
    assert seen(stored) == before
    with sparse_file(stored, "thick.raw") as file:
        assert file.unfilled == (mode == "journal")
    assert sound(stored)


@pytest.mark.parametrize("mode", MODES)
def test_a_raw_copy_becomes_a_home_of_its_own(stored: Stored, mode: Mode) -> None:
    before = seen(stored)
    stored.home.standing()  # this host knows where it is
    subprocess.run(["cp", "-a", stored.top / "web", stored.top / "twin"], check=True)
    assert "raw copy" in stored.volume.home("twin").standing().problem
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(journal.Journal, "_settle", fail)
        monkeypatch.setattr(replacement.Replacement, "_write_front", fail)
        with pytest.raises(StorageError):
            home.recrypt(stored.volume, "twin", mode=mode)
    assert resume.interrupted(stored.volume) == [("twin", "deep recrypt")]
    assert stored.home.standing().problem is stored.volume.home("twin").standing().problem is None
    assert seen(stored) == before
    after = seen(stored, "twin")
    assert {name: one.contents for name, one in after.items()} == {
        name: one.contents for name, one in before.items()
    }
    assert not {one.file_id for one in after.values()} & {one.file_id for one in before.values()}
    assert sound(stored)


# Recovery slots


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [1, 3])
def test_recovery_slots_are_made_again(stored: Stored, mode: Mode, count: int) -> None:
    before = seen(stored)
    for number in range(count):
        add_slot(stored, "disk-flat.vmdk", f"old {number}")
    untouched = snapshot(stored.top)
    with pytest.raises(UsageError, match="has recovery slots") as caught:
        home.recrypt(stored.volume, "web", mode=mode)
    assert caught.value.file == str(stored.path("disk-flat.vmdk"))
    assert snapshot(stored.top) == untouched
    material = old_material(stored, "disk-flat.vmdk")
    with Secret(b"the new one") as passphrase:
        home.recrypt(stored.volume, "web", mode=mode, ways=OldWays(passphrase))
        with stored.path("disk-flat.vmdk").open("rb") as file:
            (number,) = recovery.slots(file.fileno())
            assert recovery.find_slot(file.fileno(), passphrase) == number
        with stored.path("disk.vmdk").open("rb") as file:
            assert recovery.slots(file.fileno()) == ()
    now = stored.path("disk-flat.vmdk").read_bytes()
    assert not any(piece in now for piece in material)
    assert {name: one.contents for name, one in seen(stored).items()} == {
        name: one.contents for name, one in before.items()
    }
    assert sound(stored)


@pytest.mark.parametrize("mode", MODES)
def test_recovery_slots_are_dropped(stored: Stored, mode: Mode) -> None:
    add_slot(stored, "disk-flat.vmdk", "old")
    material = old_material(stored, "disk-flat.vmdk")
    home.recrypt(stored.volume, "web", mode=mode, ways=OldWays(drop=True))
    with stored.path("disk-flat.vmdk").open("rb") as file:
        assert recovery.slots(file.fileno()) == ()
    assert not any(piece in stored.path("disk-flat.vmdk").read_bytes() for piece in material)
    assert sound(stored)


def add_slot(stored: Stored, name: str, passphrase: str) -> None:
    with Secret(passphrase.encode()) as secret, stored.path(name).open("r+b") as file:
        recovery.add_slot(file.fileno(), stored.keys, secret)


def old_material(stored: Stored, name: str) -> list[bytes]:
    """Some of each present slot's area."""
    with stored.path(name).open("rb") as file:
        header = read_header(file.fileno())
        areas = [keyslot.area_of(header, number) for number in header.keyslots]
        return [os.pread(file.fileno(), 64, area.offset + 4096) for area in areas]


# Interrupted


def stop_in_place(stored: Stored, name: str = "disk-flat.vmdk", *, after: int = 3) -> None:
    """Leave that container in the middle of a recrypt in place."""
    real, count = os.pwrite, 0
    target = os.stat(stored.path(name)).st_ino

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        nonlocal count
        if os.fstat(fd).st_ino == target and offset >= DATA_OFFSET:
            count += 1
            if count > after:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, data, offset)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(os, "pwrite", pwrite)
        with pytest.raises(StorageError, match="Input/output error") as caught:
            home.recrypt(stored.volume, "web", mode="journal")
    assert caught.value.file == str(stored.path(name))


def test_in_the_middle_nobody_opens_it(stored: Stored) -> None:
    before = seen(stored)
    backup = headers.backup(stored.volume, "web")
    stop_in_place(stored)
    left = snapshot(stored.top)
    path = stored.path("disk-flat.vmdk")
    with pytest.raises(UnsupportedError, match="recrypt under way"):
        stored.read("disk-flat.vmdk")
    with Secret(b"x") as passphrase, pytest.raises(UsageError, match="comes first"):
        reach.add_slot(str(path), stored.keys, passphrase)
    with path.open("r+b") as file:
        saved = next(one for one in backup.headers if one.path == "disk-flat.vmdk")
        with pytest.raises(AuthenticationError, match="another key epoch"):
            recovery.restore_header(file.fileno(), stored.keys, saved.area)
    described = inspect.describe(path)
    assert (described.kind, described.problem) == ("LUKS2 container of ioflt", "recrypt under way")
    found = {entry.path: entry.finding for entry in check.run(stored.top, stored.keys).entries}
    assert "recrypt under way" in found["web/disk-flat.vmdk"]
    (beside,) = [finding for path, finding in found.items() if "recrypt-" in path]
    assert "deep recrypt" in beside
    assert "deep recrypt was interrupted" in stored.home.standing().problem
    assert snapshot(stored.top) == left
    assert resume.interrupted(stored.volume) == [("web", "deep recrypt")]
    assert seen(stored) == before
    assert sound(stored)


def test_a_container_begun_in_place_goes_on_in_place(stored: Stored) -> None:
    before = seen(stored)
    stop_in_place(stored)
    assert home.recrypt(stored.volume, "web", mode="copy") == "copy"
    assert seen(stored) == before
    assert sound(stored)


def test_a_home_that_lost_its_record_meanwhile(stored: Stored) -> None:
    before = seen(stored)
    stop_in_place(stored)
    stored.path(".ioflt").unlink()
    assert registration.register(stored.volume, "web", clear=False) == []
    assert home.recrypt(stored.volume, "web") == "copy"
    assert seen(stored) == before
    assert sound(stored)


@pytest.mark.allow_log("an interrupted deep recrypt cannot be resumed now")
def test_the_passphrase_is_needed_again_for_files_not_begun(stored: Stored) -> None:
    add_slot(stored, "disk-000001.vmdk", "old")
    before = seen(stored)
    with Secret(b"new") as passphrase:
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(journal.Journal, "run", fail)
            with pytest.raises(StorageError):
                home.recrypt(stored.volume, "web", mode="journal", ways=OldWays(passphrase))
        assert resume.interrupted(stored.volume) == []  # it says so in the log
        with pytest.raises(UsageError, match="has recovery slots"):
            home.recrypt(stored.volume, "web")
        home.recrypt(stored.volume, "web", ways=OldWays(passphrase))
    assert seen(stored) == before
    assert sound(stored)


@pytest.mark.allow_log("an interrupted deep recrypt cannot be resumed now")
def test_slots_of_files_not_begun_can_be_dropped_instead(stored: Stored) -> None:
    for name in ("disk-000001.vmdk", "disk-flat.vmdk"):
        add_slot(stored, name, "old")
    before = seen(stored)
    with Secret(b"lost") as passphrase, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(journal.Journal, "run", fail)
        with pytest.raises(StorageError):
            home.recrypt(stored.volume, "web", mode="journal", ways=OldWays(passphrase))
    assert resume.interrupted(stored.volume) == []  # it says so in the log
    home.recrypt(stored.volume, "web", ways=OldWays(drop=True))
    for name in ("disk-000001.vmdk", "disk-flat.vmdk"):
        with stored.path(name).open("rb") as file:
            assert recovery.slots(file.fileno()) == ()
    assert seen(stored) == before
    assert sound(stored)


@pytest.mark.parametrize("drop", [False, True])
def test_a_vmx_that_a_passphrase_opens_is_refused_before_anything_is_done(stored: Stored, drop: bool) -> None:
    """Nothing here opens it. So whoever goes on with a deep recrypt never meets one."""
    text = stored.path("web.vmx").read_bytes()
    safe = sealed.peek(text).safe
    phrase = safe.replace("list/(", "list/(pair/(phrase/id/pass2key%3dx,HMAC%2dSHA%2d1,QUJD),")
    stored.path("web.vmx").write_bytes(text.replace(safe.encode(), phrase.encode()))
    assert sealed.peek(stored.path("web.vmx").read_bytes()).locators[0] == "passphrase"
    if drop:
        add_slot(stored, "disk-flat.vmdk", "old")
    before = snapshot(stored.top)
    with pytest.raises(MalformedError, match="foreign key safe") as caught:
        home.recrypt(stored.volume, "web", ways=OldWays(drop=drop))
    assert str(caught.value.file).endswith("web/web.vmx")
    assert snapshot(stored.top) == before


def interrupted_with_slots_left(stored: Stored) -> None:
    for name in ("disk-000001.vmdk", "disk-flat.vmdk"):
        add_slot(stored, name, "old")
    with Secret(b"new") as passphrase, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(journal.Journal, "run", fail)
        with pytest.raises(StorageError):
            home.recrypt(stored.volume, "web", mode="journal", ways=OldWays(passphrase))


@pytest.mark.allow_log("an interrupted deep recrypt cannot be resumed now")
def test_it_is_said_who_resumes_it(stored: Stored) -> None:
    """A mount cannot where a passphrase is wanted again; it can when that file is done."""
    interrupted_with_slots_left(stored)
    assert stored.home.standing().problem == (
        "its deep recrypt was interrupted; `ioflt vm recrypt --deep` resumes it, told again what becomes of"
        " the recovery slots of disk-000001.vmdk and others"
    )
    with stored.path("disk-000001.vmdk").open("r+b") as one, stored.path("disk-flat.vmdk").open("r+b") as two:
        for file in (one, two):
            recovery.remove_slot(file.fileno(), 0, None)
    with Volume.open(stored.top, stored.keys) as again:
        assert again.home("web").standing().problem == (
            "its deep recrypt was interrupted; `ioflt vm recrypt --deep` or the next mount resumes it"
        )
    assert resume.interrupted(stored.volume) == [("web", "deep recrypt")]
    assert stored.home.standing().problem is None


def test_slots_that_were_made_already_ask_for_nothing(stored: Stored) -> None:
    """Cut off in the file that has the new slot: whoever comes goes on with it."""
    add_slot(stored, "disk-000001.vmdk", "old")
    with Secret(b"new") as passphrase, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(journal.Journal, "_convert", fail)
        with pytest.raises(StorageError):
            home.recrypt(stored.volume, "web", mode="journal", ways=OldWays(passphrase))
    assert "or the next mount resumes it" in (stored.home.standing().problem or "")
    assert resume.interrupted(stored.volume) == [("web", "deep recrypt")]


def test_no_passphrase_is_added_that_would_be_dropped_again(stored: Stored) -> None:
    """Also to files that were rewritten already: what is asked for is one passphrase for all."""
    before = seen(stored)
    stop_in_place(stored)
    for name in ("disk.vmdk", "disk-flat.vmdk"):
        path = os.path.realpath(stored.path(name))
        with Secret(b"late") as passphrase, pytest.raises(UsageError, match="comes first") as caught:
            reach.add_slot(path, stored.keys, passphrase)
        assert caught.value.file == os.path.dirname(path)
    home.recrypt(stored.volume, "web")
    assert seen(stored) == before
    with Secret(b"late") as passphrase:
        assert reach.add_slot(os.path.realpath(stored.path("disk.vmdk")), stored.keys, passphrase) == 0
    assert sound(stored)


def fail(*_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_removed_file_is_no_obstacle(stored: Stored) -> None:
    before = seen(stored)
    stop_in_place(stored, "thick.raw", after=1)
    stored.path("thick.raw").unlink()
    home.recrypt(stored.volume, "web")
    del before["thick.raw"]
    assert seen(stored) == before
    assert os.listdir(stored.top / "web" / ".ioflt.d") == []
    assert sound(stored)


def test_other_keys_than_it_began_with(stored: Stored) -> None:
    stop_in_place(stored)
    with pytest.raises(UsageError, match="goes to other keys"):
        home.recrypt(stored.volume, "web", to=[stored.keys.new_key(None)])


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_interrupted_anywhere(tmp_path: Path, ioflt_home: Path, mode: Mode) -> None:
    at, reached = 0, True
    while reached:
        at += 1
        stored = Stored(tmp_path / str(at)) if (tmp_path / str(at)).mkdir() is None else None
        assert stored is not None
        stored.put("web.vmx", VMX)
        stored.put("disk.vmdk", CANARY * 9000)
        os.link(stored.path("disk.vmdk"), stored.path("twin"))
        os.link(stored.path("disk.vmdk"), stored.path("a-third"))
        before = seen(stored)
        reached = interrupt(lambda stored=stored: home.recrypt(stored.volume, "web", mode=mode), at)
        operation = stored.home.standing().record.operation
        assert isinstance(operation, Deep) or operation is None
        assert resume.interrupted(stored.volume) == ([("web", "deep recrypt")] if operation else [])
        assert seen(stored) == before, at
        atomic.remove_drafts(stored.home.fd)  # as the next mount does: nothing was begun
        assert sound(stored)
        assert not any(name.startswith("recrypt-") for name in private(stored))
        assert stored.path("disk.vmdk").samefile(stored.path("twin"))
        assert stored.path("disk.vmdk").samefile(stored.path("a-third"))
        stored.close()
        shutil.rmtree(tmp_path / str(at))
    assert at > 30


def private(stored: Stored) -> list[str]:
    directory = stored.top / "web" / ".ioflt.d"
    return os.listdir(directory) if directory.exists() else []


# Refused


def test_a_clear_home_has_no_keys(tmp_path: Path, ioflt_home: Path) -> None:
    stored = Stored(tmp_path, HomeState.CLEAR)
    with pytest.raises(UsageError, match="is clear"):
        home.recrypt(stored.volume, "web")
    stored.close()


def test_refused_in_use(stored: Stored) -> None:
    left = snapshot(stored.top)
    stored.home.enter()
    with pytest.raises(BusyError):
        home.recrypt(stored.volume, "web")
    stored.home.leave()
    assert snapshot(stored.top) == left


def test_refused_while_a_header_is_changed(stored: Stored) -> None:
    fd = reach.take(str(stored.path("disk-flat.vmdk")))
    with pytest.raises(BusyError, match="header is being changed"):
        home.recrypt(stored.volume, "web")
    os.close(fd)
    home.recrypt(stored.volume, "web")
    assert sound(stored)


def test_refused_while_stock_cryptsetup_has_the_header(stored: Stored) -> None:
    import fcntl

    with stored.path("disk-flat.vmdk").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="another program"):
            home.recrypt(stored.volume, "web", mode="journal")
    assert resume.interrupted(stored.volume) == [("web", "deep recrypt")]
    assert sound(stored)


def test_nothing_begins_unless_every_file_opens(stored: Stored) -> None:
    patch(stored.path("disk.vmdk"), 0, bytes(32768))
    left = snapshot(stored.top)
    with pytest.raises(MalformedError, match="no header"):
        home.recrypt(stored.volume, "web")
    assert snapshot(stored.top) == left


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "no recrypt sidecar"),
        (lambda path: path.write_bytes(b""), "truncated recrypt slot"),
        (lambda path: path.write_bytes(bytes(1 << 20)), "no valid recrypt slot"),
        (lambda path: patch(path, 131072, bytes(131072)), "no valid recrypt journal"),
    ],
)
def test_a_sidecar_that_is_gone_or_forged_changes_nothing(
    stored: Stored, damage: Callable[[Path], object], reason: str
) -> None:
    stop_in_place(stored)
    (name,) = private(stored)
    assert name.startswith(disk.SIDECAR)
    damage(stored.top / "web" / ".ioflt.d" / name)
    left = snapshot(stored.top)
    with pytest.raises(CorruptDataError, match=reason):
        home.recrypt(stored.volume, "web")
    assert {path: what for path, what in snapshot(stored.top).items() if ".ioflt" not in path} == {
        path: what for path, what in left.items() if ".ioflt" not in path
    }


def test_a_body_cut_meanwhile_changes_nothing(stored: Stored) -> None:
    stop_in_place(stored)
    os.truncate(stored.path("disk-flat.vmdk"), DATA_OFFSET + 4096)
    left = stored.path("disk-flat.vmdk").read_bytes()
    with pytest.raises(MalformedError, match="body changed"):
        home.recrypt(stored.volume, "web")
    assert stored.path("disk-flat.vmdk").read_bytes() == left


@pytest.mark.parametrize("mode", MODES)
def test_a_full_file_system(stored: Stored, mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space for draft or sidecar: nothing of the file has changed, and it opens."""
    before = seen(stored)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("ioflt.syscalls.fallocate", full)
        patched.setattr(os, "ftruncate", full)
        with pytest.raises(StorageError, match="No space left"):
            home.recrypt(stored.volume, "web", mode=mode)
    assert seen(stored) == before
    assert not any(name.startswith(disk.SIDECAR) for name in private(stored))
    assert resume.interrupted(stored.volume) == [("web", "deep recrypt")]
    assert seen(stored) == before


def test_state_blocks_of_before_are_worthless(stored: Stored) -> None:
    """What `stat` sees without a key is the block that verifies."""
    home.recrypt(stored.volume, "web", mode="journal")
    with stored.path("disk-flat.vmdk").open("rb") as file:
        header = read_header(file.fileno())
        with datakeys.unwrap(header, stored.keys) as dek, state.mac_key(dek, header.uuid) as key:
            block = stateblocks.load(file.fileno(), key)
    assert state.peek(*_slots(stored)) == block


def _slots(stored: Stored) -> tuple[bytes, bytes]:
    with stored.path("disk-flat.vmdk").open("rb") as file:
        return stateblocks.read_slots(file.fileno())


def test_keys_out_of_reach(stored: Stored) -> None:
    stored.keys.lock("force")
    left = snapshot(stored.top)
    with pytest.raises(KeyUnavailableError):
        home.recrypt(stored.volume, "web")
    assert snapshot(stored.top) == left
