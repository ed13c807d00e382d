"""`keyd lock` over mounts: all or none, and nothing needs a key while it is locked."""

import socket

import pytest

from ioflt.crypto.rng import new_uuid
from ioflt.crypto.secret import Secret
from ioflt.datastore.vmx import open_sealed
from ioflt.errors import BusyError, ProviderLocked
from ioflt.format.record import record as form
from ioflt.format.record.record import DatastoreRecord
from ioflt.keys.mounts import MountControl
from ioflt.keys.native.store import NativeStore
from ioflt.types import HomeState, KeyRef
from ioflt.wire.control import messages as m
from tests.operations.keyd.fake_mount import FakeMount


def test_locked_nothing_that_needs_a_key_is_done(keys):
    key = keys.new_key()
    [(dek, blob)] = keys.generate(key, [b""])
    sealed = keys.seal_vmx(key, b"", 1)
    payload = form.encode(DatastoreRecord(new_uuid(), HomeState.ENCRYPTED, (key,), ""))
    keys.lock("refuse")
    for ask in (
        keys.new_key,
        lambda: keys.generate(key, [b""]),
        lambda: keys.unwrap([(key, blob, b"")]),
        lambda: keys.rewrap(key, key, blob, b"", b""),
        lambda: keys.seal_record([key], None, payload),
        lambda: keys.seal_vmx(key, b"", 1),
        lambda: keys.config_key(sealed),
    ):
        with pytest.raises(ProviderLocked, match="keyd is locked"):
            ask()
    assert (keys.status().state, keys.status().cached_keys) == ("locked", 0)
    keys.unlock()
    assert keys.unwrap([(key, blob, b"")]) == [dek]
    assert keys.status().state == "open"


def test_status_opens_no_provider_while_it_is_locked(keys, where):
    keys.lock("refuse")
    NativeStore(where.providers).create("new")
    keys.reload()
    assert [provider.state for provider in keys.status().providers] == ["locked"]
    keys.unlock()
    assert [provider.state for provider in keys.status().providers] == ["ready"]


def test_mounts_are_locked_and_unlocked(keys, where):
    with FakeMount(where.mounts / "a.sock") as one, FakeMount(where.mounts / "b.sock") as two:
        locked = keys.lock("refuse")
        assert (locked.open, locked.unflushed) == ((), ())
        assert one.kinds == two.kinds == ["Lock"]
        keys.unlock()
        assert one.kinds == two.kinds == ["Lock", "Unlock"]


def test_one_with_open_files_refuses_for_all(keys, where):
    key = keys.new_key()
    with (
        FakeMount(where.mounts / "a.sock") as free,
        FakeMount(where.mounts / "b.sock", ("web/web.vmdk",)) as busy,
        FakeMount(where.mounts / "c.sock") as not_asked,
    ):
        with pytest.raises(BusyError, match="files are open: web/web"):
            keys.lock("refuse")
        assert free.kinds == ["Lock", "Unlock"]
        assert busy.kinds == ["Lock"]
        assert not_asked.kinds == []
    assert keys.status().state == "open"
    assert len(keys.generate(key, [b""])) == 1


@pytest.mark.parametrize("mode", ["suspend", "force"])
def test_open_files_and_what_was_not_flushed_are_told(keys, where, mode):
    with FakeMount(where.mounts / "a.sock", ("web/web.vmdk", "web/web.vmx"), ("web/web.vmx",)) as mount:
        locked = keys.lock(mode)
        assert locked.open == ("/mnt/web/web.vmdk", "/mnt/web/web.vmx")
        assert locked.unflushed == ("/mnt/web/web.vmx",)
        assert [request.mode for request in mount.asked if isinstance(request, m.Lock)] == [mode]
        assert keys.status().state == "locked"


def test_from_suspend_to_force(keys, where):
    with FakeMount(where.mounts / "a.sock", ("a",)) as mount:
        keys.lock("suspend")
        with pytest.raises(BusyError):
            keys.lock("refuse")
        assert keys.status().state == "locked"
        keys.lock("force")
        assert mount.kinds == ["Lock", "Lock", "Lock"]


def test_a_mount_may_end_what_it_began(keys, where):
    key = keys.new_key()
    sealed = []
    with FakeMount(where.mounts / "a.sock") as mount:
        mount.during_lock = lambda: sealed.append(keys.seal_vmx(key, b'a = "b"\n', 1))
        keys.lock("refuse")
    keys.unlock()
    assert open_sealed(keys, sealed[0]) == b'a = "b"\n'


def test_a_mount_that_comes_meanwhile_is_locked_too(keys, where):
    late = FakeMount(where.mounts / "late.sock.not-yet")
    with FakeMount(where.mounts / "a.sock") as mount, late:
        mount.during_lock = lambda: (where.mounts / "late.sock.not-yet").rename(where.mounts / "late.sock")
        keys.lock("refuse")
        assert late.kinds == ["Lock"]


def test_one_that_comes_meanwhile_and_refuses(keys, where):
    key = keys.new_key()
    late = FakeMount(where.mounts / "z.sock.not-yet", ("a",))
    with FakeMount(where.mounts / "a.sock") as mount, late:
        mount.during_lock = lambda: (where.mounts / "z.sock.not-yet").rename(where.mounts / "z.sock")
        with pytest.raises(BusyError):
            keys.lock("refuse")
        assert mount.kinds == ["Lock", "Unlock"]
    assert len(keys.generate(key, [b""])) == 1


def test_a_stale_socket_is_passed_over(keys, where):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(where.mounts / "dead.sock"))
    assert keys.lock("refuse").open == ()
    keys.unlock()


def test_every_control_request(where):
    with FakeMount(where.mounts / "a.sock") as mount, MountControl(where.mounts / "a.sock") as control:
        assert control.status.mountpoint == "/mnt"
        assert control.add_keyslot("a", Secret(b"passphrase")) == 1
        control.remove_keyslot("a", 1)
        control.restore_header("a", b"header")
        control.rewrap("a", [KeyRef("local", "key-1")], [])
        control.quiesce()
        control.resume()
        control.invalidate("a")
        assert control.refresh().datastore == "/ds"
        assert mount.asked[1] == m.AddKeyslot("a", bytearray(b"passphrase"))
        assert mount.kinds == [
            "AddKeyslot",
            "RemoveKeyslot",
            "RestoreHeader",
            "Rewrap",
            "Quiesce",
            "Resume",
            "Invalidate",
        ]
