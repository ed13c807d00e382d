"""Key servers that hang: they take connections and never answer. Nobody waits for them but who needs a key of
theirs, and that once.

PyKMIP's servers, stopped by SIGSTOP.
"""

import logging
import select
import threading
from contextlib import ExitStack

import pytest
import trio

from ioflt import paths
from ioflt.crypto.secret import Secret
from ioflt.errors import ProviderLocked, ProviderUnavailable
from ioflt.keyd.server import MAX_THREADS
from ioflt.keys.client import KeyClient
from ioflt.keys.kmip.cluster import Cluster
from ioflt.keys.kmip.store import KmipStore
from ioflt.keys.link import Link
from ioflt.keys.native.store import NativeStore
from ioflt.testing.pykmip import HOST, Authority, PyKmip
from ioflt.transport import tls
from ioflt.wire import failure
from ioflt.wire.frame import Pause
from ioflt.wire.keyd import requests, values
from tests import kmip_peers

pytestmark = pytest.mark.allow_log("key server .* of corp: no answer within")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def servers(authority, tmp_path):
    """Two servers with the same keys."""
    (tmp_path / "kmip").mkdir()
    certificate = authority.issue("server", hosts=(HOST,))
    with ExitStack() as running:
        found = []
        for name in ("one", "two"):
            server = PyKmip.start(tmp_path / "kmip", authority, certificate, name)
            running.callback(server.kill)
            found.append(server)
        yield found


@pytest.fixture
def provider(servers, authority, tmp_path):
    store = kmip_peers.store_in(tmp_path / "providers")
    made = kmip_peers.make(store, authority, *(server.port for server in servers), seconds=0.5)
    yield made
    made.close()


@pytest.fixture
def answers_again():
    """Set when the log says that a server answers again."""
    found = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record):
            if "answers again" in record.getMessage():
                found.set()

    log, handler = logging.getLogger("ioflt.keys.kmip.cluster"), Handler()
    level = log.level
    log.setLevel("INFO")
    log.addHandler(handler)
    yield found
    log.removeHandler(handler)
    log.setLevel(level)


def refused(provider, key_id):
    (found,) = provider.get([key_id])
    assert isinstance(found, ProviderUnavailable)
    return found.message


def test_only_the_first_who_asks_waits(provider, servers, monkeypatch, answers_again):
    key_id = provider.create()
    (key,) = provider.get([key_id])
    for server in servers:
        server.hang()
    first = refused(provider, key_id)
    opened = []
    connect = tls.connect

    async def spy(*arguments):
        opened.append(trio.lowlevel.current_task().name)
        return await connect(*arguments)

    monkeypatch.setattr(tls, "connect", spy)
    for told in (first, refused(provider, key_id), refused(provider, "another")):
        for server in servers:
            assert f"{HOST}:{server.port}: no answer within 0.5 seconds" in told
    with pytest.raises(ProviderUnavailable):
        provider.create()
    looks = f"{Cluster.__module__}.{Cluster._look_after.__qualname__}"
    assert set(opened) <= {looks}, "who asks opens no connection to a server that hangs"
    servers[1].go_on()
    assert answers_again.wait(30)
    assert provider.get([key_id]) == [key]
    servers[0].go_on()


def test_one_that_hangs_is_passed_over(provider, servers, answers_again):
    key_id = provider.create()
    (key,) = provider.get([key_id])
    servers[0].hang()
    for _ in range(3):
        assert provider.get([key_id]) == [key]
    servers[1].hang()
    told = refused(provider, key_id)
    assert all(str(server.port) in told for server in servers)
    for server in servers:
        server.go_on()
    assert answers_again.wait(30)
    assert provider.get([key_id]) == [key]


class TestInKeyd:
    """A provider with much patience, and more requests that wait for it than keyd has threads for each."""

    @pytest.fixture
    def where(self, ioflt_home):
        return paths.find().ensure()

    @pytest.fixture
    def pending(self, servers, authority, where):
        """Connections of requests that wait for servers that hang; a key that is cached; a native key."""
        NativeStore(where.providers).create("local")
        store = KmipStore(where.providers)
        kmip_peers.make(store, authority, *(server.port for server in servers), seconds=60.0)
        with KeyClient.connect() as keys:
            cached = keys.new_key("corp")
            ((_, blob),) = keys.generate(cached, [b"a"])
            native = keys.new_key("local")
            others = [keys.new_key("corp") for _ in range(MAX_THREADS + 8)]
            for server in servers:
                server.hang()
            links = [Link.open(where.keyd_socket) for _ in others]
            try:
                for link, key in zip(links, others, strict=True):
                    send(link, requests.Generate(values.Key.of(key), (b"a",)))
                yield keys, links, (cached, blob, b"a"), native
            finally:
                for link in links:
                    link.close()

    def test_nobody_else_waits(self, pending):
        keys, links, cached, native = pending
        (dek,) = keys.unwrap([cached])
        assert isinstance(dek, Secret)
        assert keys.generate(cached[0], [b"text"])
        assert keys.generate(native, [b"a"])
        assert keys.new_key("local").provider == "local"
        (known,) = keys.key_states([cached[0]], ask=False)
        assert known.source == "provider"
        assert {one.name for one in keys.status().providers} == {"corp", "local"}
        assert {one.key.ref for one in keys.cached_keys()} == {cached[0], native}
        keys.warnings()
        assert not answered(links), "the others still wait"

    def test_a_lock_ends_the_wait(self, pending):
        keys, links, _, native = pending
        keys.lock("refuse")
        for link in links:
            assert isinstance(failure.rebuild(receive(link)), ProviderLocked | ProviderUnavailable)
        with pytest.raises(ProviderLocked):
            keys.generate(native, [b"a"])
        keys.unlock()
        assert keys.generate(native, [b"a"])


def send(link, request):
    """Half of `Link.call`."""
    link._socket.sendall(link._connection.send(request))


def receive(link):
    """The other half."""
    while (event := link._connection.next_event()) is Pause.NEED_DATA:
        link._connection.receive_data(link._socket.recv(65536))
    return event


def answered(links):
    return select.select([link._socket for link in links], [], [], 0)[0]
