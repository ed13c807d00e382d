"""Passphrase slots, header restores and fillings on single containers."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ioflt import paths
from ioflt.crypto.secret import Secret
from ioflt.datastore import exchange, header, reach, recovery
from ioflt.errors import (
    AuthenticationError,
    BusyError,
    CorruptDataError,
    ExistsError,
    MalformedError,
    NotFoundError,
    UsageError,
)
from ioflt.format.luks2 import keyslot
from ioflt.format.luks2.layout import DATA_OFFSET, HEADERS_SIZE, STATE_OFFSET, STATE_SIZE
from ioflt.format.vmx import passphrase as foreign
from ioflt.wire import failure
from ioflt.wire.control import messages as m
from tests.event_log import is_event_log
from tests.operations.keyd.fake_mount import FakeMount
from tests.unit.datastore.stored import VMX, Stored, patch

BODY = bytes(range(256)) * 40  # 10240 bytes: ends inside a sector


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = keyslot.Argon2idCost(iterations=4, memory_kib=1024, lanes=2)
    monkeypatch.setattr(keyslot.make_keyslot, "__defaults__", (cost,))


@pytest.fixture
def stored(tmp_path: Path, ioflt_home: Path) -> Iterator[Stored]:
    made = Stored(tmp_path)
    yield made
    made.close()


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR)
    try:
        yield fd
    finally:
        os.close(fd)


def secret(text: str) -> Secret:
    return Secret(text.encode())


def area_of(path: Path) -> bytes:
    with opened(path) as fd:
        return recovery.read_header_area(fd)


def restore(stored: Stored, path: Path, area: bytes) -> None:
    with opened(path) as fd:
        recovery.check_restore(fd, stored.keys, area)
        recovery.restore_header(fd, stored.keys, area)


def refused(stored: Stored, path: Path, area: bytes, reason: str) -> None:
    before = path.read_bytes()
    for attempt in (recovery.check_restore, recovery.restore_header):
        with opened(path) as fd, pytest.raises(CorruptDataError) as caught:
            attempt(fd, stored.keys, area)
        assert caught.value.reason == reason
    assert path.read_bytes() == before


# Slots


def test_three_passphrases_and_no_fourth(stored: Stored) -> None:
    path = stored.put("a.vmdk", BODY)
    mtime = path.stat().st_mtime_ns
    for number, text in enumerate(("one", "two", "three")):
        with opened(path) as fd:
            assert recovery.add_slot(fd, stored.keys, secret(text)) == number
            assert recovery.find_slot(fd, secret(text)) == number
    before = path.read_bytes()
    with opened(path) as fd, pytest.raises(UsageError, match="no room"):
        recovery.add_slot(fd, stored.keys, secret("four"))
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == mtime
    assert stored.read("a.vmdk") == BODY


def test_a_full_file_system_says_so(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored.put("a.vmdk", BODY)
    write, calls = os.pwrite, []

    def half(fd: int, data: bytes, offset: int) -> int:
        if is_event_log(fd):
            return write(fd, data, offset)
        calls.append(offset)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data[: len(data) // 2], offset)

    with opened(path) as fd:
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", half)
            with pytest.raises(OSError, match="No space left"):
                recovery.add_slot(fd, stored.keys, secret("one"))
        assert recovery.slots(fd) == ()
        assert recovery.add_slot(fd, stored.keys, secret("one")) == 0
        assert recovery.find_slot(fd, secret("one")) == 0
    assert stored.read("a.vmdk") == BODY


def test_a_passphrase_that_is_there_already_changes_nothing(stored: Stored) -> None:
    path = stored.put("a.vmdk", BODY)
    with opened(path) as fd:
        recovery.add_slot(fd, stored.keys, secret("one"))
        before = path.read_bytes()
        assert recovery.add_slot(fd, stored.keys, secret("one")) == 0
    assert path.read_bytes() == before


def test_a_removed_passphrase_opens_nothing_and_its_material_is_gone(stored: Stored) -> None:
    path = stored.put("a.vmdk", BODY)
    with opened(path) as fd:
        recovery.add_slot(fd, stored.keys, secret("one"))
        recovery.add_slot(fd, stored.keys, secret("two"))
        place = keyslot.area_of(stored.header("a.vmdk"), 0)
        material = os.pread(fd, place.size, place.offset)
        assert recovery.remove_slot(fd, None, secret("one")) == 0
        overwritten = os.pread(fd, place.size, place.offset)
        assert sum(a == b for a, b in zip(material, overwritten, strict=True)) < place.size // 100
        assert recovery.find_slot(fd, secret("one")) is None
        with pytest.raises(NotFoundError, match="no slot that this passphrase opens"):
            recovery.remove_slot(fd, None, secret("one"))
        with pytest.raises(NotFoundError, match="no recovery slot 0"):
            recovery.remove_slot(fd, 0, None)
        assert recovery.remove_slot(fd, 1, None) == 1
        assert recovery.slots(fd) == ()
    assert stored.read("a.vmdk") == BODY


def test_a_header_that_somebody_else_changes_now_is_left_alone(stored: Stored) -> None:
    path = stored.put("a.vmdk", BODY)
    with opened(path) as other, opened(path) as fd:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BusyError):
            recovery.add_slot(fd, stored.keys, secret("one"))
    assert stored.header("a.vmdk").keyslots == ()


def test_a_file_open_for_writing_where_no_mount_is_reached_is_busy(stored: Stored) -> None:
    path = stored.put("a.vmdk", BODY)
    fd = reach.take(str(path))
    try:
        with pytest.raises(BusyError, match="no mount of this host has it"):
            reach.add_slot(str(path), stored.keys, secret("one"))
        with pytest.raises(BusyError):
            reach.take(str(path))
    finally:
        os.close(fd)
    assert reach.add_slot(str(path), stored.keys, secret("one")) == 0
    reach.remove_slot(str(path), 0)
    with pytest.raises(NotFoundError) as caught:
        reach.remove_slot(str(path), 0)
    assert caught.value.file == str(path)


@pytest.mark.parametrize("name", ["link.vmdk", "fifo.vmdk", "dir.vmdk"])
def test_what_is_no_regular_file_is_refused(stored: Stored, name: str) -> None:
    stored.put("a.vmdk", BODY)
    path = stored.path(name)
    {"l": lambda: path.symlink_to("a.vmdk"), "f": lambda: os.mkfifo(path), "d": path.mkdir}[name[0]]()
    with pytest.raises((MalformedError, OSError)):
        reach.add_slot(str(path), stored.keys, secret("one"))


def test_containers_of_a_home(stored: Stored) -> None:
    stored.put("a.vmx", VMX)
    stored.put("b.vmdk", BODY)
    stored.path("sub").mkdir()
    stored.path("link").symlink_to("b.vmdk")
    assert reach.containers(stored.home) == ["b.vmdk"]


class _Mount(FakeMount):
    """A mount of `datastore` at `mountpoint`."""

    def __init__(self, name: str, datastore: Path, mountpoint: Path, *, busy: bool = False) -> None:
        super().__init__(paths.find().ensure().mounts / f"{name}.sock")
        self.status = m.Status(str(datastore), str(mountpoint), 1, False, False, 0, {})
        self.busy = busy

    def _answer(self, request: m.RequestBody) -> m.ReplyBody:
        if isinstance(request, m.Hello):
            return self.status
        return failure.of(BusyError("not here")) if self.busy else super()._answer(request)


def test_the_mount_that_has_the_file_is_asked(stored: Stored, tmp_path: Path) -> None:
    path = stored.put("a.vmdk", BODY)
    area, before = area_of(path), path.read_bytes()
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(paths.find().ensure().mounts / "0.sock"))
    stale.close()
    fd = reach.take(str(path))
    try:
        with (
            _Mount("1", tmp_path / "else", tmp_path / "m1") as foreign_mount,
            _Mount("2", stored.top, tmp_path / "m2", busy=True) as other,
            _Mount("3", stored.top, tmp_path / "m3") as mount,
        ):
            assert reach.add_slot(str(path), stored.keys, secret("one")) == 1
            reach.remove_slot(str(path), 1)
            reach.restore_header(str(path), stored.keys, area)
            shown = reach.backing_path(tmp_path / "m3" / "web" / "a.vmdk")
    finally:
        os.close(fd)
    assert foreign_mount.kinds == []
    assert other.kinds == mount.kinds == ["AddKeyslot", "RemoveKeyslot", "RestoreHeader"]
    (add,) = (request for request in mount.asked if isinstance(request, m.AddKeyslot))
    assert (add.path, bytes(add.passphrase)) == ("web/a.vmdk", b"one")
    assert shown == str(path)
    assert path.read_bytes() == before


class _Crash(Exception):
    """The process ends here."""


@contextmanager
def crash_after(writes: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The write after so many writes ends everything."""
    left = [writes]
    real = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if is_event_log(fd):
            return real(fd, data, offset)
        if left[0] == 0:
            raise _Crash
        left[0] -= 1
        return real(fd, data, offset)

    with monkeypatch.context() as patched, suppress(_Crash):
        patched.setattr(os, "pwrite", pwrite)
        yield


@pytest.mark.parametrize("writes", range(4))
def test_a_crash_in_a_change_of_slots_costs_nobody_his_way_in(
    stored: Stored, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stored.put("a.vmdk", BODY)
    with opened(path) as fd:
        recovery.add_slot(fd, stored.keys, secret("one"))
    with opened(path) as fd, crash_after(writes, monkeypatch):
        recovery.add_slot(fd, stored.keys, secret("two"))
    with opened(path) as fd:
        assert recovery.slots(fd) == ((0,) if writes < 2 else (0, 1))
        assert recovery.find_slot(fd, secret("two")) == (None if writes < 2 else 1)
    with opened(path) as fd:
        recovery.add_slot(fd, stored.keys, secret("two"))
        header.check_copies(fd)
    with opened(path) as fd, crash_after(writes, monkeypatch):
        recovery.remove_slot(fd, None, secret("two"))
    with opened(path) as fd:
        assert recovery.find_slot(fd, secret("two")) == (1 if writes == 0 else None)
        with suppress(NotFoundError):
            recovery.remove_slot(fd, None, secret("two"))
        header.check_copies(fd)
        assert recovery.find_slot(fd, secret("one")) == 0


@pytest.mark.parametrize("writes", range(4))
def test_no_header_copy_leads_to_a_passphrase_that_was_being_removed(
    stored: Stored, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also to whoever takes the older copy, when the removal was cut off before it came to that."""
    path = stored.put("a.vmdk", BODY)
    with opened(path) as fd:
        recovery.add_slot(fd, stored.keys, secret("one"))
        place = keyslot.area_of(stored.header("a.vmdk"), 0)
        material = os.pread(fd, place.size, place.offset)
        with crash_after(writes, monkeypatch):
            recovery.remove_slot(fd, None, secret("one"))
        named = 0 in recovery.slots(fd)
        assert named is (writes < 2)
        assert (os.pread(fd, place.size, place.offset) == material) is (writes == 0)
    assert stored.read("a.vmdk") == BODY


@pytest.mark.parametrize("writes", range(6))
def test_a_restore_that_crashed_is_done_again(
    stored: Stored, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stored.put("a.vmdk", BODY)
    with opened(path) as fd:
        recovery.add_slot(fd, stored.keys, secret("one"))
    area = area_of(path)
    patch(path, 0, os.urandom(DATA_OFFSET))
    with crash_after(writes, monkeypatch):
        restore(stored, path, area)
    restore(stored, path, area)
    assert stored.read("a.vmdk") == BODY + bytes(-len(BODY) % 4096)
    with opened(path) as fd:
        assert recovery.find_slot(fd, secret("one")) == 0


# Header restores


@pytest.mark.parametrize("lost", [0, HEADERS_SIZE // 2, None])
def test_a_restore_brings_header_and_passphrases_back(stored: Stored, lost: int | None) -> None:
    path = stored.put("a.vmdk", BODY)
    with opened(path) as fd:
        recovery.add_slot(fd, stored.keys, secret("one"))
    area, state = area_of(path), path.read_bytes()[STATE_OFFSET:]
    mtime, file_id = path.stat().st_mtime_ns, os.stat(path).st_ino
    if lost is None:
        patch(path, 0, os.urandom(recovery.HEADER_AREA))
    else:
        patch(path, lost, bytes(HEADERS_SIZE // 2))
    os.utime(path, ns=(mtime, mtime))
    restore(stored, path, area)
    assert stored.read("a.vmdk") == BODY
    assert path.read_bytes()[STATE_OFFSET:] == state
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (mtime, file_id)
    with opened(path) as fd:
        assert recovery.find_slot(fd, secret("one")) == 0


def test_the_restored_header_counts_on(stored: Stored) -> None:
    path = stored.put("a.vmdk", BODY)
    area = area_of(path)
    with opened(path) as fd:
        for text in ("one", "two"):
            recovery.add_slot(fd, stored.keys, secret(text))
    assert stored.header("a.vmdk").sequence == 3
    restore(stored, path, area)
    assert (stored.header("a.vmdk").sequence, stored.header("a.vmdk").keyslots) == (4, ())


@pytest.mark.parametrize("thin", [True, False])
@pytest.mark.parametrize("keep_header", [True, False])
def test_without_state_blocks_the_body_is_the_length(stored: Stored, thin: bool, keep_header: bool) -> None:
    path = stored.put("a.vmdk", BODY, thin=thin)
    area = area_of(path)
    if keep_header:
        patch(path, STATE_OFFSET, os.urandom(STATE_SIZE))
    else:
        patch(path, 0, os.urandom(DATA_OFFSET))
    restore(stored, path, area)
    assert stored.read("a.vmdk") == BODY + bytes(-len(BODY) % 4096)


def test_a_backup_of_another_container_is_refused(stored: Stored) -> None:
    path, other = stored.put("a.vmdk", BODY), stored.put("b.vmdk", BODY)
    refused(stored, path, area_of(other), "another container")
    area = area_of(other)
    patch(path, 0, bytes(HEADERS_SIZE))  # then its state blocks still tell
    refused(stored, path, area, "another key epoch")


def test_a_backup_from_before_another_data_key_is_refused(stored: Stored) -> None:
    """A deep recrypt keeps the UUID."""
    path = stored.put("a.vmdk", BODY)
    area, uuid = area_of(path), stored.header("a.vmdk").uuid
    path.unlink()
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    from ioflt.datastore import newcontainer

    newcontainer.create(fd, stored.keys, stored.home.standing().keys, thin=True, uuid=uuid)
    os.close(fd)
    refused(stored, path, area, "another key epoch")


def test_a_backup_from_before_another_kek_is_refused(stored: Stored) -> None:
    """A shallow recrypt wraps the same data key anew; the old KEK is not to come back."""
    path = stored.put("a.vmdk", BODY)
    area = area_of(path)
    header = stored.header("a.vmdk")
    (token,) = header.tokens
    new = stored.keys.new_key()
    from ioflt.datastore import header as headers
    from ioflt.format.luks2.token import IofltToken, aad

    blob = stored.keys.rewrap(token.key, new, token.blob, token.aad(header.uuid), aad(header.uuid, True, new))
    with opened(path) as fd:
        headers.change(fd, lambda found: found.with_tokens([IofltToken(new, True, blob)]))
    refused(stored, path, area, "another key epoch")
    patch(path, 0, bytes(HEADERS_SIZE))
    restore(stored, path, area)
    assert stored.read("a.vmdk") == BODY


@pytest.mark.parametrize("cut", [0, 4096, recovery.HEADER_AREA - 1])
def test_a_truncated_area_is_refused(stored: Stored, cut: int) -> None:
    path = stored.put("a.vmdk", BODY)
    refused(stored, path, area_of(path)[:cut], "truncated header backup")


# Fill


@pytest.mark.parametrize("thin", [True, False])
def test_fill_leaves_no_hole_and_changes_no_byte(stored: Stored, thin: bool) -> None:
    path = stored.put("a.vmdk", b"", thin=thin)
    with opened(path) as fd:
        from ioflt.datastore.container import Container

        file = Container.open(os.dup(fd), stored.keys, writable=True)
        file.truncate(5 << 20)
        file.write(3 << 20, BODY)
        file.sync(data_only=False)
        file.close()
    plain, mtime = stored.read("a.vmdk"), path.stat().st_mtime_ns
    seen: list[int] = []
    assert recovery.fill(reach.take(str(path)), stored.keys, seen.append) == 5 << 20
    assert stored.read("a.vmdk") == plain
    assert path.stat().st_mtime_ns == mtime
    assert sum(seen) == 5 << 20
    body = path.read_bytes()[DATA_OFFSET:]
    assert not any(body[start : start + 4096] == bytes(4096) for start in range(0, len(body), 4096))


# VMX


def test_a_vmx_goes_out_and_comes_back(stored: Stored, tmp_path: Path) -> None:
    stored.put("web.vmx", VMX)
    out = tmp_path / "web.vmx"
    out.write_bytes(exchange.export(stored.volume, "web", secret("long passphrase")))
    assert b"memsize" not in out.read_bytes()
    with pytest.raises(ExistsError):
        exchange.import_(stored.volume, "web", out, secret("long passphrase"), force=False)
    with pytest.raises(AuthenticationError, match="wrong passphrase"):
        exchange.import_(stored.volume, "web", out, secret("wrong"), force=True)
    out.write_bytes(foreign.export_passphrase(VMX + b'new = "1"\n', secret("other")))
    assert exchange.import_(stored.volume, "web", out, secret("other"), force=True) == "web.vmx"
    assert stored.read("web.vmx") == VMX + b'new = "1"\n'
    assert b"memsize" not in stored.path("web.vmx").read_bytes()
    stored.path("web.vmx").unlink()
    exchange.import_(stored.volume, "web", out, secret("other"), force=False)
    assert stored.read("web.vmx") == VMX + b'new = "1"\n'


def test_a_second_vmx_is_put_beside_the_first_by_force_only(stored: Stored, tmp_path: Path) -> None:
    stored.put("web.vmx", VMX)
    out = tmp_path / "copy.vmx"
    out.write_bytes(exchange.export(stored.volume, "web", secret("one")))
    with pytest.raises(ExistsError, match=r"web\.vmx: is there already"):
        exchange.import_(stored.volume, "web", out, secret("one"), force=False)
    assert not stored.path("copy.vmx").exists()
    assert exchange.import_(stored.volume, "web", out, secret("one"), force=True) == "copy.vmx"


def test_export_needs_the_one_vmx(stored: Stored) -> None:
    with pytest.raises(NotFoundError, match="no VMX"):
        exchange.export(stored.volume, "web", secret("one"))
    stored.put("a.vmx", VMX)
    stored.put("b.vmx", VMX)
    with pytest.raises(UsageError, match=r"several VMX files: a\.vmx, b\.vmx"):
        exchange.export(stored.volume, "web", secret("one"))


def test_import_takes_only_a_vmx_of_that_form(stored: Stored, tmp_path: Path) -> None:
    for name, data in (("a.vmx", VMX), ("b.vmx", b"\0" * 4096), ("c.vmx", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CorruptDataError) as caught:
            exchange.import_(stored.volume, "web", tmp_path / name, secret("one"), force=False)
        assert caught.value.file == str(tmp_path / name)
    with pytest.raises(UsageError, match="not the name of a VMX"):
        exchange.import_(stored.volume, "web", tmp_path / "a.txt", secret("one"), force=False)
    assert sorted(os.listdir(stored.home.fd)) == [".ioflt"]
