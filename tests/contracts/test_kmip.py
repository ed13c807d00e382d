"""The kmip provider against PyKMIP's server: two processes on one database, as a cluster that replicates."""

import threading

import pytest

from ioflt.crypto.secret import Secret
from ioflt.errors import KeyNotFound, KeyNotUsable, KeyUnavailableError, ProviderUnavailable
from ioflt.keys.kmip.criterion import criterion
from ioflt.keys.kmip.provider import KmipProvider
from ioflt.testing.check_provider import check_provider
from ioflt.testing.pykmip import HOST, Authority, PyKmip, free_port
from ioflt.wire.kmip import messages as m
from ioflt.wire.kmip.enumerations import (
    CryptographicAlgorithm,
    CryptographicUsageMask,
    ObjectType,
    Operation,
    RevocationReasonCode,
    State,
)
from ioflt.wire.kmip.ttlv import Type
from tests import kmip_peers

_BOTH = CryptographicUsageMask.ENCRYPT | CryptographicUsageMask.DECRYPT

pytestmark = pytest.mark.allow_log("key server .* of ")


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return tmp_path_factory.mktemp("kmip")


@pytest.fixture(scope="module")
def server(authority, certificate, database):
    """The server that stays."""
    running = PyKmip.start(database, authority, certificate, "first")
    yield running
    running.kill()


@pytest.fixture
def store(tmp_path):
    return kmip_peers.store_in(tmp_path / "providers")


@pytest.fixture
def closing():
    """Providers to be closed at the end."""
    providers = []
    yield providers
    for provider in providers:
        provider.close()


def test_the_contract(server, store, authority, closing):
    kmip_peers.make(store, authority, server.port)

    def open_again():
        closing.append(KmipProvider(store.load("corp"), store))
        return closing[-1]

    check_provider(open_again)


def test_generations_are_silently_not_kept(server, store, authority, closing, caplog):
    """PyKMIP has no attributes of clients' own: it is tried once, and said once."""
    provider = kmip_peers.make(store, authority, server.port)
    closing.append(provider)
    key_id, home_id = provider.create(), "0f0e0d0c-0b0a-4908-8706-050403020100"
    with caplog.at_level("INFO", "ioflt.keys.kmip"):
        assert provider.generations.seen(key_id, home_id) == 0
        for generation in (1, 2):
            provider.generations.note(key_id, home_id, generation)
    assert caplog.text.count("its servers keep no generations of homes: InvalidMessage") == 1
    assert provider.generations.seen(key_id, home_id) == 0
    assert provider.status().state == "ready"


def test_one_of_two_servers_is_killed_during_2000_fetches(
    server, store, authority, certificate, database, closing
):
    other = PyKmip.start(database, authority, certificate, "second")
    try:
        provider = kmip_peers.make(store, authority, other.port, server.port)
        closing.append(provider)
        ids = [provider.create() for _ in range(20)]
        kept = dict(zip(ids, provider.get(ids), strict=True))
        started = threading.Event()
        lost = []

        def fetch(part):
            for start in range(0, 500, 4):
                wanted = [ids[(start + place + part) % 20] for place in range(4)]
                for key_id, key in zip(wanted, provider.get(wanted), strict=True):
                    if not isinstance(key, Secret) or key != kept[key_id]:
                        lost.append(key)
                if start >= 100:
                    started.set()

        threads = [threading.Thread(target=fetch, args=(part,)) for part in range(4)]
        for thread in threads:
            thread.start()
        started.wait()
        other.kill()
        for thread in threads:
            thread.join()
        assert not lost
        assert provider.status().state == "ready"
    finally:
        other.kill()


def test_all_servers_are_gone(store, authority, closing):
    ports = (free_port(), free_port())
    provider = kmip_peers.make(store, authority, *ports)
    closing.append(provider)
    (found,) = provider.get(["any"])
    assert isinstance(found, ProviderUnavailable)
    for port in ports:
        assert f"{HOST}:{port}: Connection refused" in found.message
    with pytest.raises(ProviderUnavailable):
        provider.create()
    assert provider.status().state == "unavailable"


def refused(provider, closing):
    closing.append(provider)
    (found,) = provider.get(["any"])
    assert isinstance(found, ProviderUnavailable)
    assert not isinstance(found, KeyNotFound)
    return found.message


def test_a_wrong_host_name_is_refused(store, authority, database, tmp_path, closing):
    certificate = authority.issue("elsewhere", hosts=("kms.example", "127.0.0.2"))
    running = PyKmip.start(database, authority, certificate, "wrong-name")
    try:
        told = refused(kmip_peers.make(store, authority, running.port), closing)
        assert "IP address mismatch" in told
        told = refused(kmip_peers.make(store, authority, running.port, name="dns", host="localhost"), closing)
        assert "Hostname mismatch" in told
    finally:
        running.kill()


def test_an_expired_certificate_is_refused(store, authority, database, closing):
    certificate = authority.issue("old", hosts=(HOST,), days=-1)
    running = PyKmip.start(database, authority, certificate, "expired")
    try:
        told = refused(kmip_peers.make(store, authority, running.port), closing)
        assert "certificate has expired" in told
    finally:
        running.kill()


def test_a_certificate_of_somebody_else_is_refused(server, store, authority, tmp_path, closing):
    stranger = Authority(tmp_path / "stranger", "a stranger")
    told = refused(kmip_peers.make(store, authority, server.port, trusted=stranger), closing)
    assert "its certificate is refused" in told


def test_a_client_whom_the_server_does_not_know_is_refused(server, store, authority, tmp_path, closing):
    stranger = Authority(tmp_path / "stranger", "a stranger")
    told = refused(kmip_peers.make(store, stranger, server.port, trusted=authority), closing)
    assert "unknown ca" in told


def test_states(server, store, authority, closing):
    provider = kmip_peers.make(store, authority, server.port)
    closing.append(provider)
    key_id = provider.create()
    assert provider.call(lambda keys: keys.state(key_id)) == 2
    assert key_id in provider.call(lambda keys: keys.locate([criterion("State", "active")]))
    with pytest.raises(KeyUnavailableError):
        provider.call(lambda keys: keys.destroy(key_id))
    provider.call(lambda keys: keys.revoke(key_id, 5))
    assert provider.call(lambda keys: keys.state(key_id)) == 3
    provider.call(lambda keys: keys.destroy(key_id))
    (gone,) = provider.get([key_id])
    assert isinstance(gone, KeyNotFound)


def foreign(provider, algorithm=CryptographicAlgorithm.AES, length=256, usage=_BOTH):
    """A key that somebody else had the server make, pre-active."""
    attributes = (
        m.Attribute.of("Cryptographic Algorithm", Type.ENUMERATION, algorithm),
        m.Attribute.of("Cryptographic Length", Type.INTEGER, length),
        m.Attribute.of("Cryptographic Usage Mask", Type.INTEGER, usage),
    )
    create = m.Create(
        object_type=ObjectType.SYMMETRIC_KEY, template=m.TemplateAttribute(attributes=attributes)
    )
    return provider.call(lambda keys: keys._one(Operation.CREATE, create)).id


def state(provider, key_id):
    return provider.call(lambda keys: keys.state(key_id))


def test_a_foreign_key_that_is_named_becomes_active_and_stays_so(server, store, authority, closing):
    provider = kmip_peers.make(store, authority, server.port)
    closing.append(provider)
    key_id = foreign(provider)
    assert state(provider, key_id) == State.PRE_ACTIVE
    for _ in range(2):
        provider.activate(key_id)
        assert state(provider, key_id) == State.ACTIVE


@pytest.mark.parametrize(
    ("reason", "named"),
    [
        (RevocationReasonCode.CESSATION_OF_OPERATION, "Deactivated"),
        (RevocationReasonCode.KEY_COMPROMISE, "Compromised"),
    ],
)
def test_a_revoked_key_takes_nothing_new(server, store, authority, closing, reason, named):
    provider = kmip_peers.make(store, authority, server.port)
    closing.append(provider)
    key_id = provider.create()
    provider.call(lambda keys: keys.revoke(key_id, reason, 1))
    with pytest.raises(
        KeyNotUsable, match=f"the key {key_id} of corp may protect nothing new: it is {named}"
    ):
        provider.activate(key_id)
    assert isinstance(provider.get([key_id])[0], Secret), "it still opens what it protects"


def test_a_destroyed_key_is_not_found(server, store, authority, closing):
    provider = kmip_peers.make(store, authority, server.port)
    closing.append(provider)
    key_id = foreign(provider)
    provider.call(lambda keys: keys.destroy(key_id))
    with pytest.raises(KeyNotFound):
        provider.activate(key_id)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        # 2: Triple DES
        ({"algorithm": 2, "length": 192}, "it is no AES key"),
        ({"length": 128}, "it has not 256 bits"),
        ({"usage": CryptographicUsageMask.ENCRYPT}, "its usage mask has not both Encrypt and Decrypt"),
    ],
)
def test_a_key_for_something_else_is_refused_and_not_activated(server, store, authority, closing, kind, why):
    provider = kmip_peers.make(store, authority, server.port)
    closing.append(provider)
    key_id = foreign(provider, **kind)
    with pytest.raises(KeyNotUsable, match=why):
        provider.activate(key_id)
    assert state(provider, key_id) == State.PRE_ACTIVE
