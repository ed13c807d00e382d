"""The native provider among threads, and what it costs to ask about it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ioflt.crypto.secret import Secret
from ioflt.errors import ProviderUnavailable
from ioflt.keyd.service import Service
from ioflt.keys.cache import KeyCache
from ioflt.keys.native import credentials, slots
from ioflt.keys.native.provider import NativeProvider
from ioflt.keys.native.store import NativeStore
from ioflt.paths import Paths

THREADS = 8


@pytest.fixture
def where(tmp_path, monkeypatch):
    monkeypatch.setattr(credentials, "works", lambda: False)
    found = Paths(tmp_path / "state", tmp_path / "run", False).ensure()
    NativeStore(found.providers).create("local")
    return found


@pytest.fixture
def provider(where):
    store = NativeStore(where.providers)
    return NativeProvider(store.load("local"), store.path("local"), KeyCache(4))


def test_many_who_wait_open_a_slot_once(provider, monkeypatch):
    """Each opening may be a program, or a server that takes seconds."""
    opened, asking, go_on = [], threading.Semaphore(0), threading.Event()

    def open_by_host(*_arguments):
        opened.append(1)
        assert go_on.wait(20)
        return Secret(bytes(32))

    def ask():
        asking.release()
        return provider.create()

    monkeypatch.setattr(slots, "open_by_host", open_by_host)
    with ThreadPoolExecutor(THREADS) as pool:
        asked = [pool.submit(ask) for _ in range(THREADS)]
        for _ in range(THREADS):
            assert asking.acquire(timeout=20)
        go_on.set()
        assert len({one.result() for one in asked}) == THREADS
    assert len(opened) == 1


def test_who_asks_after_a_failure_tries_again(provider, monkeypatch):
    opened = []

    def fail(*_arguments):
        opened.append(1)
        raise ProviderUnavailable("the server does not answer")

    monkeypatch.setattr(slots, "open_by_host", fail)
    for count in (1, 2):
        with pytest.raises(ProviderUnavailable):
            provider.create()
        assert len(opened) == count


def test_warnings_open_nothing(where, monkeypatch):
    """They come with every command, which must not wait for a server that is gone."""

    def refuse(*_arguments):
        raise AssertionError("a slot was opened")

    monkeypatch.setattr(slots, "open_by_host", refuse)
    service = Service(where)
    assert [line for line in service.warnings() if "local was never backed up" in line]
    (where.providers / "bad.json").write_bytes(b"{")
    assert not any("bad" in line for line in service.warnings())
