"""Whoever waits for a provider keeps nobody else waiting: the service itself, with a provider that hangs."""

import os
import threading

import pytest

from ioflt.crypto.secret import Secret
from ioflt.datastore import datakeys, newcontainer
from ioflt.datastore.header import read_header
from ioflt.errors import ProviderLocked
from ioflt.format.vmx import sealed
from ioflt.keyd import outward
from ioflt.keys.native.provider import NativeProvider
from ioflt.testing.local_keys import LocalKeys


@pytest.fixture
def service(ioflt_home):
    with LocalKeys(ioflt_home) as made:
        yield made


@pytest.fixture
def keys(service):
    """Two; in `outward.only_to` none may be asked for that is not in memory."""
    return [service.new_key() for _ in range(2)]


def test_a_vmx_opens_by_the_key_that_is_in_memory(service, keys):
    text = service.rewrap_vmx(service.seal_vmx(keys[0], b'a = "b"\n', 1), keys)
    service.forget_key(keys[0])
    with outward.only_to(frozenset()), service.config_key(text) as found:
        assert sealed.open_with(text, found) == b'a = "b"\n'


def test_a_container_opens_by_the_key_that_is_in_memory(service, keys, tmp_path):
    fd = os.open(tmp_path / "disk", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        newcontainer.create(fd, service, keys, thin=True)
        service.forget_key(keys[0])
        with outward.only_to(frozenset()):
            datakeys.unwrap(read_header(fd), service).wipe()
    finally:
        os.close(fd)


def test_a_lock_does_not_wait_for_an_unlock_and_wins(service, monkeypatch):
    asked, go_on = threading.Event(), threading.Event()
    unlock, said = NativeProvider.unlock, []

    def slow(self, passphrase: Secret | None):
        asked.set()
        assert go_on.wait(60)
        return unlock(self, passphrase)

    key = service.new_key()
    service.lock("force")
    monkeypatch.setattr(NativeProvider, "unlock", slow)

    def waits():
        try:
            service.unlock()
        except ProviderLocked as error:
            said.append(str(error))

    waiting = threading.Thread(target=waits)
    waiting.start()
    assert asked.wait(60)
    service.lock("force")
    go_on.set()
    waiting.join()
    assert said == ["keyd was locked meanwhile"]
    with pytest.raises(ProviderLocked):
        service.mac(key, "home-record", b"")
