"""Other keys for a home whose files are in use, and what a mount makes of a recrypt that was killed."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ioflt.datastore import wrapping
from ioflt.datastore.standing import stored_as
from ioflt.format.record import record as form
from ioflt.format.record.record import HomeRecord
from ioflt.types import KeyRef
from tests.mounted.place import Place
from tests.mounted.second import second_mount
from tests.waiting import eventually

pytestmark = [pytest.mark.fuse]

EROFS = os.strerror(errno.EROFS)


def record(home: Path) -> HomeRecord:
    return form.parse_home((home / ".ioflt").read_bytes()).record


def named(home: Path) -> dict[str, tuple[KeyRef, ...]]:
    """The keys by which each file of the home says it opens."""
    found = {}
    for path in sorted(home.rglob("*")):
        if path.is_file() and not str(path.relative_to(home)).startswith(".ioflt"):
            with path.open("rb") as file:
                found[path.name] = wrapping.named_keys(file.fileno(), stored_as(path.name))
    return found


@pytest.fixture
def home(place: Place) -> Path:
    """As the mount shows it."""
    made = place.mount() / "vm"
    made.mkdir()
    (made / "disk").write_bytes(b"disk" * 5000)
    (made / "vm.vmx").write_bytes(b'a = "b"\n')
    (made / "vm.log").write_bytes(b"line\n")
    return made


@contextmanager
def at_work(home: Path) -> Iterator[list[int]]:
    """A VM at work: disk and VMX open for writing and written, snapshot files made, moved, removed."""
    stop, errors, rounds = threading.Event(), list[BaseException](), [0]

    def work() -> None:
        try:
            with (home / "disk").open("r+b", buffering=0) as disk, (home / "vm.vmx").open("r+b") as vmx:
                while not stop.is_set():
                    rounds[0] += 1
                    os.pwrite(disk.fileno(), b"%08d" % rounds[0], 4096 * (rounds[0] % 50))
                    os.pwrite(vmx.fileno(), b'a = "%08d"\n' % rounds[0], 0)
                    os.fsync(vmx.fileno())
                    (home / f"new-{rounds[0]}").write_bytes(b"new")
                    (home / f"new-{rounds[0]}").rename(home / f"old-{rounds[0]}")
                    (home / f"old-{rounds[0] - 5}").unlink(missing_ok=True)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield rounds
    finally:
        stop.set()
        thread.join()
    assert errors == []


def test_while_the_vm_runs(place: Place, home: Path) -> None:
    stored = place.datastore / "vm"
    with at_work(home) as rounds:
        for _ in range(3):
            before = rounds[0]
            place.ioflt("vm", "recrypt", stored)
            assert rounds[0] > before
    (key,) = record(stored).keys
    assert set(named(stored).values()) == {(key,)}
    assert (home / "vm.vmx").read_bytes() == b'a = "%08d"\n' % rounds[0]
    place.remount()
    assert (home / "vm.vmx").read_bytes() == b'a = "%08d"\n' % rounds[0]
    assert (home / "disk").read_bytes()[4096 * (rounds[0] % 50) :].startswith(b"%08d" % rounds[0])
    assert place.complaints() == []


def test_a_vmx_that_is_not_committed_yet(place: Place, home: Path) -> None:
    """Its new key safe is on the medium at once, its text once it is committed, all under one number."""
    stored = place.datastore / "vm"
    number = (home / "vm.vmx").stat().st_ino
    with (home / "vm.vmx").open("r+b", buffering=0) as vmx:
        vmx.write(b'x = "y"\n')
        place.ioflt("vm", "recrypt", stored)
        assert named(stored)["vm.vmx"] == record(stored).keys
        assert (home / "vm.vmx").stat().st_ino == number
    assert named(stored)["vm.vmx"] == record(stored).keys
    place.remount()
    assert (home / "vm.vmx").read_bytes() == b'x = "y"\n'
    assert (home / "vm.vmx").stat().st_ino == number


def test_two_mounts(place: Place, home: Path) -> None:
    """Each has a file open for writing; both learn of the new key for what they make."""
    stored = place.datastore / "vm"
    with second_mount(place) as top:
        other = top / "vm"
        with (
            (home / "disk").open("r+b"),
            (other / "vm.log").open("r+b"),
            (other / "vm.vmx").open("r+b") as vmx,
        ):
            place.ioflt("vm", "recrypt", stored)
            vmx.write(b'from = "two"\n')
        for number, where in enumerate((home, other)):
            (where / f"new{number}").write_bytes(b"new")
            (where / f"new{number}.vmx").write_bytes(b"")
        assert set(named(stored).values()) == {record(stored).keys}
        assert (home / "vm.vmx").read_bytes() == b'from = "two"\n'
    assert place.complaints() == []


def test_a_new_provider_beside_the_old(place: Place, home: Path, tmp_path: Path) -> None:
    stored = place.datastore / "vm"
    (tmp_path / "pass").write_bytes(b"pass\n")
    (tmp_path / "pass").chmod(0o600)
    place.ioflt("provider", "create", "native", "corp", "--passphrase-file", tmp_path / "pass")
    options = ("--passphrase-file", tmp_path / "pass", "--provider-passphrase-file", tmp_path / "pass")
    place.ioflt("provider", "backup", "corp", tmp_path / "corp.p12", *options)
    place.ioflt("keyd", "unlock", "corp", "--passphrase-file", tmp_path / "pass")
    with at_work(home):
        place.ioflt("vm", "recrypt", stored, "--add-provider", "corp")
    keys = record(stored).keys
    assert [key.provider for key in keys] == ["local", "corp"]
    (home / "late.vmx").write_bytes(b"late")
    (home / "late").write_bytes(b"late")
    assert set(named(stored).values()) == {keys}
    place.umount()
    place.mount()  # which removes what the last kill left over
    place.umount()
    report = json.loads(place.ioflt("check", place.datastore, "--json", check=False).stdout)
    assert [entry for entry in report["entries"] if entry["finding"]] == []


def test_a_locked_mount_is_busy(place: Place, home: Path) -> None:
    with (home / "disk").open("r+b"):
        place.ioflt("keyd", "lock", "--suspend")
        try:
            done = place.ioflt("vm", "recrypt", place.datastore / "vm", check=False)
            assert done.returncode != 0
            assert "locked" in done.stderr
        finally:
            place.ioflt("keyd", "unlock")


@pytest.mark.interop("strace")
def test_a_mount_finishes_what_was_interrupted(place: Place, home: Path) -> None:
    """Also for files that are opened in it as soon as it is there."""
    stored = place.datastore / "vm"
    place.umount()
    inject = "inject=pwrite64:signal=SIGKILL:when=4"
    ioflt = [sys.executable, "-m", "ioflt", "vm", "recrypt", str(stored)]
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", inject, *ioflt]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -9
    assert record(stored).operation is not None
    place.mount()
    with (home / "disk").open("r+b"), (home / "vm.vmx").open("r+b"), (home / "new").open("wb"):
        eventually(lambda: "vm: its interrupted recrypt is complete" in place.log)
        assert record(stored).operation is None
        assert set(named(stored).values()) == {record(stored).keys}
    assert place.complaints() == []


def test_an_older_home_put_back(place: Place, home: Path) -> None:
    """It can be read and not written, others are as ever; accepted, it can be written without a new mount."""
    stored, old = place.datastore / "vm", place.base / "old"
    other = home.parent / "other"
    other.mkdir()
    place.umount()
    subprocess.run(["cp", "-a", stored, old], check=True)
    place.ioflt("vm", "recrypt", stored)
    subprocess.run(["rm", "-r", stored], check=True)
    subprocess.run(["mv", old, stored], check=True)
    place.mount()
    assert (home / "disk").read_bytes() == b"disk" * 5000
    for action in (lambda: (home / "disk").open("r+b"), lambda: (home / "new").touch()):
        with pytest.raises(OSError, match=EROFS):
            action()
    (other / "file").write_bytes(b"as ever")
    assert "rolled back" in place.ioflt("vm", "recrypt", stored, check=False).stderr
    place.ioflt("vm", "register", stored, "--accept-rollback")
    (home / "disk").write_bytes(b"written")
    assert "rolled back, and accepted" in place.log


def test_a_raw_copy_beside_a_mount(place: Place, home: Path) -> None:
    copy = place.datastore / "copy"
    (home / "disk").write_bytes(b"written")
    subprocess.run(["cp", "-a", place.datastore / "vm", copy], check=True)
    assert (home.parent / "copy" / "disk").read_bytes() == b"written"
    for name in ("copy", "vm"):
        with pytest.raises(OSError, match=EROFS):
            (home.parent / name / "disk").open("r+b")
    subprocess.run(["rm", "-r", copy], check=True)
    (home / "disk").write_bytes(b"again")


def copied(place: Place) -> Path:
    """A raw copy of the home, made behind the back of the mount that may be there."""
    copy = place.datastore / "copy"
    subprocess.run(["cp", "-a", place.datastore / "vm", copy], check=True)
    return copy


def takes_no_writes(*homes: Path) -> None:
    for home in homes:
        with pytest.raises(OSError, match=EROFS):
            (home / "disk").open("r+b")
        assert (home / "disk").read_bytes() == b"disk" * 5000


def test_a_raw_copy_made_before_the_mount(place: Place, home: Path) -> None:
    """Nobody has looked at the copy yet when the original is opened."""
    place.umount()
    copy = copied(place)
    place.mount()
    takes_no_writes(home, home.parent / "copy")
    assert "the same VM is in" in place.log
    subprocess.run(["rm", "-r", copy], check=True)
    (home / "disk").write_bytes(b"again")


@pytest.mark.parametrize(
    "look", [os.listdir, lambda top: (top / "copy").exists()], ids=["listed", "looked up"]
)
def test_a_raw_copy_made_beside_a_mount_is_seen_at_the_first_look(place: Place, home: Path, look) -> None:
    (home / "disk").open("r+b").close()
    copied(place)
    look(home.parent)
    takes_no_writes(home, home.parent / "copy")


def test_a_raw_copy_gets_a_life_of_its_own(place: Place, home: Path) -> None:
    place.umount()
    copy = copied(place)
    place.mount()
    place.ioflt("vm", "recrypt", "--deep", copy)
    for name in ("vm", "copy"):
        (home.parent / name / "disk").write_bytes(name.encode())
    assert record(copy).home_id != record(place.datastore / "vm").home_id
