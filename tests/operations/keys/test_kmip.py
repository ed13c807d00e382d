"""The kmip provider with a server that can be told to misbehave."""

import ssl
import threading
import time
import warnings

import msgspec
import pytest
import trio

from ioflt.crypto.secret import Secret
from ioflt.errors import KeyCorrupt, KeyNotFound, KeyNotUsable, ProviderLocked, ProviderUnavailable
from ioflt.keys.kmip import trial
from ioflt.keys.kmip.criterion import criterion
from ioflt.keys.kmip.file import KmipServer as Server
from ioflt.testing.kmip_server import KmipServer
from ioflt.testing.pykmip import HOST
from ioflt.transport import tls
from ioflt.wire.kmip import messages as m
from ioflt.wire.kmip.enumerations import Operation, ResultReason, ResultStatus, State
from ioflt.wire.kmip.tags import Tag
from ioflt.wire.kmip.ttlv import Item, Type
from tests import kmip_peers
from tests.waiting import eventually

pytestmark = pytest.mark.allow_log("key server .* of ")


@pytest.fixture
def server(authority, certificate):
    with KmipServer(certificate, authority.path) as running:
        yield running


@pytest.fixture
def store(tmp_path):
    return kmip_peers.store_in(tmp_path / "providers")


@pytest.fixture
def provider(server, store, authority):
    made = kmip_peers.make(store, authority, server.port)
    yield made
    made.close()


def operations(server):
    return [[Operation(item.operation) for item in message.items] for message in server.seen]


def keys_of(server, ids):
    return [Secret(server.keys[key_id].material) for key_id in ids]


def test_a_key_is_made_as_vsphere_makes_it(server, provider):
    key_id = provider.create()
    assert operations(server) == [
        [Operation.DISCOVER_VERSIONS],
        [Operation.CREATE],
        [Operation.GET_ATTRIBUTES],
        [Operation.ACTIVATE],
        [Operation.ADD_ATTRIBUTE] * 6,
    ]
    create = server.seen[1].items[0].payload
    names = [attribute.name for attribute in create.template.attributes]
    assert names == ["Cryptographic Algorithm", "Cryptographic Length", "Cryptographic Usage Mask"]
    tags = {name: value.value for name, (value,) in server.keys[key_id].attributes.items()}
    assert tags["x-Vendor"] == "ioflt"
    assert tags["x-Name"] == "corp"
    assert tags["x-Identifier"] == provider.file.uuid
    assert provider.call(lambda keys: keys.locate([criterion("x-Name", "corp")])) == [key_id]
    assert provider.call(lambda keys: keys.locate([criterion("x-Name", "other")])) == []


def refusing(operations, reason):
    """Edits answers: these operations fail, whatever the server did."""

    def edit(message):
        items = [
            msgspec.structs.replace(
                item, status=ResultStatus.OPERATION_FAILED, reason=reason, payload=None, message="refused"
            )
            if item.operation in operations
            else item
            for item in message.items
        ]
        return msgspec.structs.replace(message, items=tuple(items))

    return edit


def test_a_key_that_does_not_become_active_is_destroyed_again(server, provider):
    server.behaviour.refuses = frozenset({Operation.ACTIVATE})
    with pytest.raises(KeyNotUsable, match="which it just made, was destroyed again"):
        provider.create()
    assert (len(server.keys), len(server.destroyed)) == (0, 1)


def test_a_key_that_became_active_whatever_the_answer_says_is_good(server, provider):
    """As when an answer was lost: the server refuses to activate it a second time."""
    server.behaviour.edit = refusing({Operation.ACTIVATE}, ResultReason.PERMISSION_DENIED)
    key_id = provider.create()
    assert provider.get([key_id]) == keys_of(server, [key_id])


def test_a_key_whose_state_is_not_told_is_destroyed_again(server, provider):
    server.behaviour.edit = refusing({Operation.GET_ATTRIBUTES}, ResultReason.GENERAL_FAILURE)
    with pytest.raises(ProviderUnavailable, match="which it just made, was destroyed again"):
        provider.create()
    assert (len(server.keys), len(server.destroyed)) == (0, 1)


def test_a_key_that_cannot_be_destroyed_again_is_named(server, provider):
    server.behaviour.refuses = frozenset({Operation.ACTIVATE, Operation.DESTROY, Operation.REVOKE})
    with pytest.raises(KeyNotUsable) as caught:
        provider.create()
    (left,) = server.keys
    assert f"the key {left}, which it just made, is left there (" in str(caught.value)


@pytest.mark.parametrize("state", [State.DESTROYED, State.DESTROYED_COMPROMISED, 0x80000001])
def test_a_key_in_any_other_state_takes_nothing_new(server, provider, state):
    (key_id,) = server.add()
    server.keys[key_id].state = state
    named = "Destroyed" if state != 0x80000001 else "state 0x80000001"
    with pytest.raises(KeyNotUsable, match=f"it is {named}"):
        provider.activate(key_id)


def test_a_server_without_tags_still_makes_keys(server, provider):
    server.behaviour.takes_attributes = False
    key_id = provider.create()
    assert provider.get([key_id]) == keys_of(server, [key_id])


def test_many_keys_come_in_batches_over_few_connections(server, provider):
    ids = server.add(1000)
    assert provider.get(ids) == keys_of(server, ids)
    gets = [message for message in server.seen if len(message.items) > 1]
    assert len(gets) <= 1000 // 64 + 4
    assert server.most_connections <= 4


@pytest.mark.parametrize("threads", [16])
def test_never_more_than_four_connections(server, provider, threads):
    ids = server.add(threads)
    found = {}

    def fetch(key_id):
        found[key_id] = provider.get([key_id])

    running = [threading.Thread(target=fetch, args=(key_id,)) for key_id in ids]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert [found[key_id][0] for key_id in ids] == keys_of(server, ids)
    assert server.most_connections <= 4


def test_one_key_does_not_wait_behind_thousands(server, provider):
    ids = server.add(3000)
    (wanted,) = server.add(1)
    server.behaviour.hold_batches = threading.Event()
    large = threading.Thread(target=provider.get, args=(ids,))
    large.start()
    assert provider.get([wanted]) == keys_of(server, [wanted])
    assert provider.get([ids[-1]]) == keys_of(server, [ids[-1]])  # one of them, before its turn
    assert large.is_alive()
    server.behaviour.hold_batches.set()
    large.join()


def test_a_key_that_many_ask_for_is_fetched_once(server, provider):
    ids = server.add(2)
    server.behaviour.hold_batches = threading.Event()
    found = []
    threads = [threading.Thread(target=lambda: found.append(provider.get(ids))) for _ in range(8)]
    for thread in threads:
        thread.start()
    eventually(lambda: provider.call(_waiting) == 16)
    server.behaviour.hold_batches.set()
    for thread in threads:
        thread.join()
    assert found == [keys_of(server, ids)] * 8
    assert server.asked(Operation.GET) == 2


async def _waiting(keys):
    return sum(flight.waiting for flight in keys._flights.values())


@pytest.mark.parametrize("reason", [ResultReason.RESPONSE_TOO_LARGE, ResultReason.INVALID_MESSAGE])
def test_a_server_that_takes_no_batches(server, provider, reason):
    server.behaviour.max_batch, server.behaviour.too_large = 1, reason
    ids = server.add(10)
    assert provider.get(ids) == keys_of(server, ids)
    refused = sum(len(message.items) > 1 for message in server.seen)
    assert provider.get(ids) == keys_of(server, ids)
    assert refused == sum(len(message.items) > 1 for message in server.seen) == 1


def test_a_server_that_stops_at_the_first_failure(server, provider):
    def stop(answer):
        failed = [place for place, item in enumerate(answer.items) if item.status != ResultStatus.SUCCESS]
        items = answer.items[: failed[0] + 1] if failed else answer.items
        return m.ResponseMessage(msgspec.structs.replace(answer.header, count=len(items)), items)

    server.behaviour.edit = stop
    first, last = server.add(2)
    one, unknown, two = provider.get([first, "unknown", last])
    assert [one, two] == keys_of(server, [first, last])
    assert isinstance(unknown, KeyNotFound)


def test_a_server_that_answers_in_another_order(server, provider):
    def turn(answer):
        return m.ResponseMessage(answer.header, answer.items[::-1])

    server.behaviour.edit = turn
    ids = server.add(100)
    found = provider.get([*ids, "unknown"])
    assert found[:-1] == keys_of(server, ids)
    assert isinstance(found[-1], KeyNotFound)


def test_a_server_whose_answer_has_no_room_for_all(server, provider):
    def fill(answer):
        items = tuple(
            item if place < 10 else msgspec.structs.replace(item, payload=None, **TOO_LARGE)
            for place, item in enumerate(answer.items)
        )
        return m.ResponseMessage(answer.header, items)

    server.behaviour.edit = fill
    ids = server.add(30)
    assert provider.get(ids) == keys_of(server, ids)
    assert server.most_connections <= 4


TOO_LARGE = {"status": ResultStatus.OPERATION_FAILED, "reason": ResultReason.RESPONSE_TOO_LARGE}


def test_a_server_that_leaves_answers_out(server, provider):
    def leave_out(answer):
        items = answer.items[::2]
        return m.ResponseMessage(msgspec.structs.replace(answer.header, count=len(items)), items)

    server.behaviour.edit = leave_out
    for found in provider.get(server.add(4)):
        assert isinstance(found, ProviderUnavailable)
        assert f"{HOST}:{server.port}: not KMIP: an answer is missing" in found.message


def changed(payload):
    """An edit that changes the payload of each Get's answer."""

    def edit(answer):
        items = tuple(
            msgspec.structs.replace(item, payload=payload(item.payload))
            if item.operation == Operation.GET and item.status == ResultStatus.SUCCESS
            else item
            for item in answer.items
        )
        return m.ResponseMessage(answer.header, items)

    return edit


def _with_block(got, **changes):
    block = msgspec.structs.replace(got.key.block, **changes)
    return msgspec.structs.replace(got, key=m.SymmetricKey(block=block))


def _material(length):
    inner = Item(Tag.KEY_MATERIAL, Type.BYTE_STRING, Secret(bytes(length)))
    return Item(Tag.KEY_VALUE, Type.STRUCTURE, (inner,))


NONSENSE = {
    "another id": lambda got: msgspec.structs.replace(got, id="another"),
    "another object": lambda got: msgspec.structs.replace(got, object_type=7),
    "no object": lambda got: msgspec.structs.replace(got, key=None),
    "no value": lambda got: _with_block(got, value=None),
    "wrapped": lambda got: _with_block(got, wrapping=m.KeyWrappingData(method=1)),
    "16 bytes": lambda got: _with_block(got, value=_material(16)),
    "no bytes": lambda got: _with_block(got, value=_material(0)),
    "64 bytes": lambda got: _with_block(got, value=_material(64)),
    "DES": lambda got: _with_block(got, algorithm=2),
    "unknown form": lambda got: _with_block(got, format=4),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_in_the_place_of_a_key(server, provider, what):
    server.behaviour.edit = changed(NONSENSE[what])
    (found,) = provider.get(server.add(1))
    assert isinstance(found, KeyCorrupt)
    assert provider.status().state == "ready"


def test_a_transparent_key_is_a_key(server, provider):
    def transparent(got):
        key = Item(Tag.KEY, Type.BYTE_STRING, Secret(bytes(32)))
        inner = Item(Tag.KEY_MATERIAL, Type.STRUCTURE, (key,))
        return _with_block(got, format=7, value=Item(Tag.KEY_VALUE, Type.STRUCTURE, (inner,)))

    server.behaviour.edit = changed(transparent)
    assert provider.get(server.add(1)) == [Secret(bytes(32))]


def test_a_server_of_the_first_version(server, provider):
    server.behaviour.versions = ()
    ids = server.add(3)
    assert provider.get(ids) == keys_of(server, ids)
    assert {str(message.header.version) for message in server.seen[1:]} == {"1.0"}


@pytest.mark.parametrize("minor", [0, 1, 2, 3])
def test_a_server_of_one_version(server, provider, minor):
    server.behaviour.versions = (m.Version(major=1, minor=minor),)
    key_id = provider.create()
    assert provider.get([key_id]) == keys_of(server, [key_id])
    assert {str(message.header.version) for message in server.seen[1:]} == {f"1.{minor}"}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_of_one_version_of_tls(authority, certificate, store, version):
    server = KmipServer(certificate, authority.path)
    server.context.minimum_version = server.context.maximum_version = version
    with server:
        provider = kmip_peers.make(store, authority, server.port)
        key_id = provider.create()
        assert provider.get([key_id]) == keys_of(server, [key_id])
        told = []
        assert trial.try_out(provider.file, store.trust(provider.file), [], told.append)
        assert told[0].result == version.name.replace("_", ".")
        provider.close()


def test_a_server_of_an_old_version_of_tls_is_refused(authority, certificate, store):
    server = KmipServer(certificate, authority.path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        server.context.minimum_version = server.context.maximum_version = ssl.TLSVersion.TLSv1_1
    server.context.set_ciphers("ALL:@SECLEVEL=0")
    with server:
        provider = kmip_peers.make(store, authority, server.port)
        (found,) = provider.get(["any"])
        assert isinstance(found, ProviderUnavailable)
        assert f"{HOST}:{server.port}: TLS: " in found.message
        provider.close()


def test_a_server_with_no_version_of_ours(server, provider):
    server.behaviour.versions = (m.Version(major=3, minor=0),)
    (found,) = provider.get(server.add(1))
    assert isinstance(found, ProviderUnavailable)
    assert "no common version" in found.message


def test_servers_that_hang_are_given_up_in_time(authority, certificate, store):
    with (
        KmipServer(certificate, authority.path) as one,
        KmipServer(certificate, authority.path) as two,
    ):
        one.behaviour.hangs = two.behaviour.hangs = True
        provider = kmip_peers.make(store, authority, one.port, two.port, seconds=0.3)
        start = time.monotonic()
        found = provider.get([f"id-{number}" for number in range(500)])
        took = time.monotonic() - start
        assert all(isinstance(each, ProviderUnavailable) for each in found)
        for server in (one, two):
            assert f"{HOST}:{server.port}: no answer within 0.3 seconds" in found[0].message
        assert took < 10 * 0.3 + 5  # the second part is for a busy machine
        two.behaviour.hangs = False
        two.keys = one.keys
        ids = two.add(1)
        eventually(lambda: provider.get(ids) == keys_of(two, ids))
        asked = len(one.seen)
        assert provider.get(ids) == keys_of(two, ids)
        assert len(one.seen) == asked, "the server that answered is asked first"
        provider.close()


def test_a_server_that_greets_and_gives_no_keys_hangs(authority, certificate, store):
    with KmipServer(certificate, authority.path) as server:
        provider = kmip_peers.make(store, authority, server.port, seconds=0.3)
        ids = server.add(100)
        server.behaviour.hangs_after = 1
        assert "no answer within" in provider.get(ids)[0].message
        eventually(lambda: server.asked(Operation.GET) >= len(ids) + 2)  # again, one key
        assert "no answer within" in provider.get(ids)[0].message
        server.behaviour.hangs_after = None
        eventually(lambda: provider.get(ids) == keys_of(server, ids))
        provider.close()


def test_kept_connections_that_the_server_cuts_lose_nothing(server, provider):
    server.behaviour.cut_after = 3
    ids = server.add(200)
    for key_id in ids[:20]:
        assert provider.get([key_id]) == keys_of(server, [key_id])
    assert provider.get(ids) == keys_of(server, ids)


def test_a_server_that_closes_after_each_answer(server, provider):
    server.behaviour.close_after = 2  # that to the greeting is the first
    ids = [*server.add(200), provider.create()]
    for key_id in ids[:20]:
        assert provider.get([key_id]) == keys_of(server, [key_id])
    assert provider.get(ids) == keys_of(server, ids)
    assert server.asked(Operation.CREATE) == 1


def test_a_server_that_closes_after_the_greeting(server, provider):
    server.behaviour.close_after = 1
    (found,) = provider.get(server.add(1))
    assert isinstance(found, ProviderUnavailable)
    assert f"{HOST}:{server.port}: the server ended the connection" in found.message


@pytest.mark.parametrize("greeted", [False, True])
def test_a_server_that_drips_is_given_up_in_time(server, store, authority, greeted):
    provider = kmip_peers.make(store, authority, server.port, seconds=0.5)
    ids = server.add(1)
    if greeted:
        assert provider.get(ids) == keys_of(server, ids)
    server.behaviour.drip = 0.1  # never silent for longer: only the sum shows that it hangs
    start = time.monotonic()
    (found,) = provider.get(ids)
    assert time.monotonic() - start < 4 * 0.5 + 5  # the second part is for a busy machine
    assert isinstance(found, ProviderUnavailable)
    assert f"{HOST}:{server.port}: no answer within 0.5 seconds" in found.message
    provider.close()


def test_trying_out_a_server_that_hangs_ends_in_time(server, provider, store):
    file = msgspec.structs.replace(provider.file, timeout=0.3)
    server.behaviour.hangs_after = 1
    told = []
    start = time.monotonic()
    assert not trial.try_out(file, store.trust(file), [], told.append)
    assert time.monotonic() - start < 3 * 0.3 + 5  # the second part is for a busy machine
    assert [step.step for step in told] == ["connect", "certificate", "version", "make a key"]
    assert "did not answer (no answer within 0.3 seconds)" in told[-1].error


def test_a_key_is_never_made_twice(server, provider):
    provider.get(server.add(1))
    requests = len(server.seen)
    server.behaviour.cut_after = requests  # a kept connection is dead: it shows before anything is asked
    key_id = provider.create()
    assert server.asked(Operation.CREATE) == 1
    assert key_id in server.keys
    provider.close()
    server.behaviour.cut_after = 1  # after the greeting: the request is read, and never answered
    with pytest.raises(ProviderUnavailable, match="not known"):
        provider.create()
    assert server.asked(Operation.CREATE) == 2


def test_lock_closes_and_unlock_opens(server, provider):
    ids = server.add(1)
    provider.get(ids)
    provider.lock()
    (found,) = provider.get(ids)
    assert isinstance(found, ProviderLocked)
    provider.unlock(None)
    assert provider.get(ids) == keys_of(server, ids)


def test_a_renewed_certificate_is_used_at_once(server, provider, store, authority):
    ids = server.add(1)
    provider.get(ids)
    before = store.certificate("corp")
    request = store.renew("corp", csr=True)
    provider.change(store.load("corp"))
    assert store.certificate("corp") == before, "the old one is in use until the new one is installed"
    store.install("corp", authority.sign(request, days=900))
    provider.change(store.load("corp"))
    assert provider.get(ids) == keys_of(server, ids)
    assert store.certificate("corp") != before
    assert provider.warnings() == []


def test_files_that_change_during_a_fetch_do_not_fail_it(server, provider, store, authority):
    ids = server.add(10)
    server.behaviour.hold_batches = threading.Event()
    found = []
    thread = threading.Thread(target=lambda: found.extend(provider.get(ids)))
    thread.start()
    eventually(lambda: server.asked(Operation.GET) == 10)
    store.install("corp", authority.sign(store.renew("corp", csr=True)))
    provider.change(store.load("corp"))
    server.behaviour.hold_batches.set()
    thread.join()
    assert found == keys_of(server, ids)


def test_warned_of_certificates_that_expire(server, provider, store, authority):
    assert "the client certificate of the provider corp expires on" in provider.warnings()[0]
    store.install("corp", authority.sign(store.renew("corp", csr=True), days=-1))
    assert "expired on" in provider.warnings()[0]


def test_pinned_servers(server, provider, store, authority, certificate):
    host = Server(host=HOST, port=server.port)

    async def look():
        return await tls.peek(host.host, host.port, store.identity("corp"))

    der = trio.run(look)
    store.trust_servers("corp", {host: der})
    provider.change(store.load("corp"))
    ids = server.add(1)
    assert provider.get(ids) == keys_of(server, ids), "the server's own certificate is the anchor"
    other = msgspec.structs.replace(store.load("corp").servers[0], fingerprint=":".join(["AA"] * 32))
    provider.change(msgspec.structs.replace(store.load("corp"), servers=(other,)))
    (found,) = provider.get(ids)
    assert isinstance(found, ProviderUnavailable)
    assert "not the pinned one" in found.message


def test_not_trusted_yet(store):
    store.create("corp", [Server(host=HOST)], 5.0, csr=True)
    from ioflt.keys.kmip.provider import KmipProvider

    provider = KmipProvider(store.load("corp"), store)
    with pytest.raises(ProviderUnavailable, match="not trusted yet"):
        provider.create()
    assert provider.status().state == "unavailable"
