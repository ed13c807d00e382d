"""Both sides of the keyd protocol, joined by nothing but bytes."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.errors import PeerError
from ioflt.types import MAX_KEY_ID, KeyRef
from ioflt.wire.failure import Failure
from ioflt.wire.frame import CLOSED, NEED_DATA, CutShort, LocalProtocolError, RemoteProtocolError, write_frame
from ioflt.wire.keyd import access, providers
from ioflt.wire.keyd import messages as m
from ioflt.wire.keyd.connection import ClientConnection, ServerConnection, State, welcome

KEY = m.Key("local", "id-1")

PROVIDER = m.ProviderStatus(
    "corp", "kmip", "ready", ("client certificate",), True, cache=m.CacheStatus(30, "tpm2", 5)
)

EVERYTHING = access.Object("everything", "", "everything")
VM = access.Object(
    "vm", "0f0e0d0c-0b0a-4908-8706-050403020100", "web01", "0f0e0d0c-0b0a-4908-8706-050403020101"
)

CHANGES = [
    access.Grant("group:ops", "read-only", EVERYTHING),
    access.Revoke("alice", VM),
    access.CreateRole("night", ("Cryptographer.Access",), "read-only"),
    access.RemoveRole("night"),
    access.CreateFolder("tenant", "local"),
    access.CreateFolder("tenant", None, events=True),
    access.SetFolder("tenant", None),
    access.SetFolder("tenant", events=False),
    access.RemoveFolder("tenant"),
    access.AddMember("tenant", VM),
    access.RemoveMember("tenant", VM),
    access.CreateService("backup", "0" * 64),
    access.RemoveService("backup"),
    access.SeparateDuties("alice", "bob"),
]

FACTS: dict[str, providers.Fact] = {"backed_up": True, "uuid": "0f0e0d0c", "slots": ("passphrase",)}

PROVIDER_CHANGES = [
    providers.CreateNative("own", bytearray(b"passphrase")),
    providers.CreateNative("own", None),
    providers.CreateKmip("corp", (providers.Server("kms1", 5696),), 5.0, True),
    providers.CreateTransit(
        "bao",
        providers.Server("bao", 8200),
        "transit",
        "ioflt",
        providers.Login("token", bytearray(b"s.token"), "cert", ""),
        "-----BEGIN CERTIFICATE-----",
        5.0,
    ),
    providers.Choose("corp", None),
    providers.Remove("corp", bytes(32), False),
    providers.TrustServers(
        "corp", bytes(32), (providers.Shown(providers.Server("kms1", 5696), b"certificate"),)
    ),
    providers.TrustAuthority("corp", bytes(32), "-----BEGIN CERTIFICATE-----"),
    providers.Install("corp", bytes(32), "-----BEGIN CERTIFICATE-----"),
    providers.Renew("corp", bytes(32), True),
    providers.ChangePassphrase("own", bytes(32), bytearray(b"new"), None),
    providers.MarkBackedUp("own"),
    providers.LogIn("bao", bytes(32), providers.Login("certificate", bytearray(b"pem"), "cert", "role")),
]

EXCHANGES = [
    (m.DefaultProvider(), m.Text("local")),
    (m.NewKey(), m.Made(KEY)),
    (m.NewKey("corp"), m.Made(m.Key("corp", "ü" * MAX_KEY_ID))),
    (m.Generate(KEY, (b"a", b"b")), m.Generated((m.GeneratedKey(bytearray(64), b"blob"),) * 2)),
    (
        m.Unwrap((m.Wrapped(KEY, b"blob", b"aad"),) * 2),
        m.Unwrapped((bytearray(64), bytearray()), {1: Failure("KeyNotFound", "no such key")}),
    ),
    (m.Rewrap(m.Wrapped(KEY, b"blob", b"aad"), KEY, b"other"), m.Data(b"blob")),
    (
        m.CheckRecord(b"record", (bytes(32),) * 2, (KEY, KEY)),
        m.Checked((True, Failure("KeyNotFound", "gone"))),
    ),
    (m.CheckRecord(b"record", (bytes(32),), (KEY,), "web01"), m.Checked((False,))),
    (m.SealRecord((KEY,), None, b"record", "web01"), m.Sealed((bytes(32),))),
    (m.SealRecord((KEY, KEY), b"old", b"record"), m.Sealed((bytes(32),) * 2)),
    (
        m.Prove((m.Proof(m.Wrapped(KEY, b"blob", b"aad"), b"salt", 1000, bytes(32)),) * 2),
        m.Proved({1: Failure("KeyNotFound", "no such key")}),
    ),
    (m.ProveVmx(b"sealed", (KEY,)), m.Done()),
    (m.SealVmx(KEY, b"text", 2**62 + 1), m.Data(b"sealed")),
    (m.RewrapVmx(b"sealed", (KEY, KEY)), m.Data(b"sealed")),
    (m.GetConfigKey(b"sealed"), m.ConfigKey(bytearray(32))),
    (
        m.GetKeyStates((KEY, KEY), True),
        m.KeyStates(
            (
                m.KeyState("sealed", 1, 2, 3, None, None),
                m.KeyState(None, None, None, None, Failure("KeyNotFound", "no such key"), 2**53 - 1),
            )
        ),
    ),
    (m.UseKey(KEY), m.Done()),
    (m.ForgetKey(KEY), m.Done()),
    (m.RemoveKey(KEY), m.Done()),
    (m.AddKey(KEY), m.Done()),
    (m.LocateKeys("corp", (m.Criterion("State", "active"),)), m.Located(("1", "2"))),
    (m.RevokeKey(KEY, "key-compromise"), m.Done()),
    (m.DestroyKey(KEY), m.Done()),
    (m.EraseKey(KEY, "0f0e0d0c-0b0a-4908-8706-050403020100"), m.Erased(True)),
    (m.NoteGeneration((KEY, KEY), "0f0e0d0c-0b0a-4908-8706-050403020100", 7), m.Done()),
    (m.SeenGeneration((KEY,), "0f0e0d0c-0b0a-4908-8706-050403020100"), m.Generation(7, True)),
    (m.GetStatus(), m.Status(1, "0.1", "open", "memfd_secret", 0, 1, (PROVIDER,))),
    (m.GetCachedKeys(), m.CachedKeys((m.CachedKey(KEY, "provider", 1, None, (m.User(1, 0),), 2),))),
    (m.GetCachedKeys(KEY), m.CachedKeys(())),
    (m.SetKeyCache("corp", 30), m.Done()),
    (m.SetKeyCache("corp", None), m.Done()),
    (m.GetPolicies(), m.Data(b'{"format":1,"policies":[]}\n')),
    (m.AddPolicy(b"text"), m.Done()),
    (m.RemovePolicy("Gold"), m.Done()),
    (m.GetKeyHolders(), m.KeyHolders(("0f0e0d0c-0b0a-4908-8706-050403020100",))),
    (m.MarkKeyHolder("0f0e0d0c-0b0a-4908-8706-050403020100", True), m.Done()),
    (m.SetEventLog(), m.EventLogSettings(True, "none")),
    (m.SetEventLog(False, "journal"), m.EventLogSettings(False, "journal")),
    (
        m.NoteEvents(
            (
                m.Report("provider create", m.ReportedThing("provider", "corp", "corp")),
                m.Report(
                    "file rename",
                    m.ReportedThing("vm", "0f0e0d0c-0b0a-4908-8706-050403020100", "web"),
                    m.ReportedThing("datastore", "0f0e0d0c-0b0a-4908-8706-050403020101", "/srv/ds"),
                    (m.ReportedChange("file", "web/a", "web/b"), m.ReportedChange("file", None, "x")),
                    "failed",
                    "why",
                    2**32 - 1,
                ),
            )
        ),
        m.EventLogSettings(True, "none"),
    ),
    (m.ReadEvents(0, 1, wait=True, folder="tenant"), m.EventPage("0001.jsonl", b"{}\n", 1)),
    (m.ReadEvents(0, 2**63 - 1), m.EventPage("0001.jsonl", b"{}\n", 1)),
    (m.Attest(bytes(32)), m.Attested(b"{}", bytes(64))),
    (m.GetAttestKey(), m.Text("-----BEGIN PUBLIC KEY-----")),
    (m.GetWarnings(), m.Warnings(("never backed up",))),
    (m.Lock("suspend"), m.Locked(("/m/a",), ())),
    (m.Unlock("corp", bytearray(b"passphrase")), m.Done()),
    (m.Unlock(None, None), m.Done()),
    (m.Reload(), m.Done()),
    (m.Stop(), m.Done()),
    (m.GetProvider("corp"), m.Provider(providers.About("corp", "kmip", bytes(32), FACTS))),
    (m.GetProviderDefault(), m.ProviderDefault("corp", None)),
    (m.GetProviderDefault(), m.ProviderDefault(Failure("UsageError", "several"), "corp")),
    (m.GetProviderUse("corp"), m.ProviderUse(("web01",), ("/srv/ds",))),
    (
        m.LookAtServers("corp"),
        m.ServersShown((providers.Shown(providers.Server("kms1", 5696), b"certificate"),)),
    ),
    (m.TryProvider("corp"), m.Tried((providers.Step("kms1:5696", "connect", "failed", "why"),))),
    (
        m.BackUpProvider(providers.BackUp("own", bytes(32), bytearray(b"passphrase"), bytearray(b"own"))),
        m.Data(b"backup"),
    ),
    *((m.ChangeProvider(change), m.ProviderChanged("")) for change in PROVIDER_CHANGES),
    (m.GetAccess(), m.Access(b"{}\n")),
    *((m.ChangeAccess(change), m.Done()) for change in CHANGES),
    (m.ExplainAccess("alice", "Cryptographer.Access", VM), m.Explained(False, "alice has no permission")),
    (m.GetConfigKey(b"x"), Failure("MalformedError", "", reason="no key safe", file="a.vmx")),
]


def feed(connection, data, size):
    """Give bytes in pieces; the one event that they make."""
    events = []
    for start in range(0, len(data), size):
        connection.receive_data(data[start : start + size])
        event = connection.next_event() if not events else NEED_DATA
        if event is not NEED_DATA:
            events.append(event)
    (event,) = events
    return event


def greeted(size=2**20):
    client, server = ClientConnection(), ServerConnection()
    hello = feed(server, client.hello(), size)
    feed(client, server.send(welcome(hello)), size)
    return client, server


@pytest.mark.parametrize("size", [2**20, 1, 7])
def test_a_whole_conversation(size):
    client, server = greeted(size)
    for request, reply in EXCHANGES:
        assert feed(server, client.send(request), size) == request
        assert feed(client, server.send(reply), size) == reply
    for side in (client, server):
        side.receive_data(b"")
        assert side.next_event() is CLOSED


def test_every_message_is_in_the_conversation():
    asked = {type(request) for request, _ in EXCHANGES} | {m.Hello}
    told = {type(reply) for _, reply in EXCHANGES} | {m.Welcome}
    assert asked == set(m.RequestBody.__args__)
    assert told == set(m.ReplyBody.__args__)


@pytest.mark.parametrize("request_", [request for request, _ in EXCHANGES], ids=lambda r: type(r).__name__)
def test_cut_short_at_every_byte(request_):
    client, _ = greeted()
    data = client.send(request_)
    for end in range(1, len(data), max(1, len(data) // 50)):
        _, server = greeted()
        server.receive_data(data[:end])
        assert server.next_event() is NEED_DATA
        server.receive_data(b"")
        with pytest.raises(CutShort):
            server.next_event()
        assert server.state is State.ERROR


@given(st.binary(max_size=200), st.integers(0, 3))
def test_garbage_ends_the_conversation_and_nothing_else(garbage, kind):
    client, server = greeted()
    framed = len(garbage).to_bytes(4, "little") + garbage
    side = server if kind & 1 else client
    client.send(m.GetStatus())
    side.receive_data(framed if kind & 2 else garbage)
    side.receive_data(b"")
    try:
        event = side.next_event()
    except RemoteProtocolError:
        assert side.state is State.ERROR
        with pytest.raises(RemoteProtocolError):
            side.next_event()
    else:
        assert event is CLOSED or isinstance(event, m.RequestBody | m.ReplyBody)


@given(st.data())
def test_a_flipped_byte_gives_a_message_or_an_error(data):
    client, server = greeted()
    request, _ = data.draw(st.sampled_from(EXCHANGES))
    frame = client.send(request)
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    server.receive_data(frame)
    try:
        event = server.next_event()
    except RemoteProtocolError:
        return
    assert event is NEED_DATA or isinstance(event, m.RequestBody)


def hello(**changes):
    fields = {"protocol": "ioflt-keyd", "versions": (2,), "type": "hello"} | changes
    return write_frame(Raw(0, fields))


class Raw(msgspec.Struct):
    id: int
    body: object


def unwrap(count):
    return m.Unwrap((m.Wrapped(m.Key("p", "k"), b"", b""),) * count)


REFUSED = {
    "a request before hello": write_frame(m.Request(1, m.GetStatus())),
    "another protocol": hello(protocol="ioflt-other"),
    "no version": hello(versions=()),
    "an unknown field": hello(more=1),
    "an unknown request": hello(type="shutdown"),
    "a reply": write_frame(m.Reply(1, m.Done())),
    "a negative id": write_frame(Raw(-1, {"type": "hello", "protocol": "ioflt-keyd", "versions": (2,)})),
    "a name of an operation above the limit": hello(operation="o" * (m.MAX_OPERATION + 1)),
    "no principal": hello(as_principal=""),
    "a principal above the limit": hello(as_principal="p" * (m.MAX_PRINCIPAL + 1)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_server_refuses_at_first(name):
    server = ServerConnection()
    server.receive_data(REFUSED[name])
    with pytest.raises(RemoteProtocolError):
        server.next_event()


LATER = {
    "a second hello": m.Hello("ioflt-keyd", (2,)),
    "a batch above the limit": unwrap(m.MAX_BATCH + 1),
    "a provider's name above the limit": m.NewKey("p" * 129),
    "an empty provider's name": m.NewKey(""),
    "a key id above the limit": m.Generate(m.Key("p", "k" * (MAX_KEY_ID + 1)), ()),
    "an AAD above the limit": m.Generate(KEY, (bytes(m.MAX_AAD + 1),)),
    "a record of no MAC": m.CheckRecord(b"", (), (KEY,)),
    "a MAC of another size": m.CheckRecord(b"", (bytes(31),), (KEY,)),
    "too many MACs": m.CheckRecord(b"", (bytes(32),) * (m.MAX_TAGS + 1), (KEY,)),
    "a digest of too many rounds": m.Prove(
        (m.Proof(m.Wrapped(KEY, b"", b""), b"s", m.MAX_ROUNDS + 1, bytes(32)),)
    ),
    "a record by no key": m.SealRecord((), None, b""),
    "a record above the limit": m.SealRecord((KEY,), None, bytes(m.MAX_RECORD + 1)),
    "an unknown mode": m.Lock("gently"),
    "a negative file id": m.SealVmx(KEY, b"", -1),
    "a VMX above the limit": m.RewrapVmx(bytes(m.MAX_VMX + 1), (KEY,)),
    "a passphrase above the limit": m.Unlock("p", bytearray(4097)),
    "a cache for no day": m.SetKeyCache("p", 0),
    "a cache for more than a year": m.SetKeyCache("p", 366),
    "a mark for no home": m.MarkKeyHolder("web01", True),
    "policies above the limit": m.AddPolicy(bytes(m.MAX_POLICIES + 1)),
    "a policy's name above the limit": m.RemovePolicy("p" * (m.MAX_POLICY_NAME + 1)),
    "a page after no key": m.GetCachedKeys(m.Key("p", "")),
}


@pytest.mark.parametrize("name", LATER)
def test_what_a_server_refuses_later(name):
    _, server = greeted()
    server.receive_data(write_frame(m.Request(2, LATER[name])))
    with pytest.raises(RemoteProtocolError):
        server.next_event()


USER = m.User(1, 1)
STRANGE = {
    "a page above the limit": m.CachedKeys((m.CachedKey(KEY, "sealed", 1, 2, (), 0),) * (m.MAX_PAGE + 1)),
    "too many users": m.CachedKeys((m.CachedKey(KEY, "sealed", 1, 2, (USER,) * (m.MAX_USERS + 1), 0),)),
    "a key from elsewhere": m.CachedKeys((m.CachedKey(KEY, "disk", 1, 2, (), 0),)),
    "a time before 1970": m.CachedKeys((m.CachedKey(KEY, "sealed", -1, 2, (), 0),)),
    "a time without sense": m.KeyStates((m.KeyState("sealed", 1, 2**53, None, None, None),)),
    "a negative pid": m.CachedKeys((m.CachedKey(KEY, "sealed", 1, 2, (m.User(-1, 0),), 0),)),
    "a cache of fewer than no keys": m.Status(
        1, "", "open", "", 0, 0, (m.ProviderStatus("p", "", "ready", (), True, "", m.CacheStatus(1, "", -1)),)
    ),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_a_client_refuses(name):
    client, _ = greeted()
    client.send(m.GetCachedKeys())
    client.receive_data(write_frame(m.Reply(1, STRANGE[name])))
    with pytest.raises(RemoteProtocolError, match="not a message"):
        client.next_event()


def test_the_largest_page_fits():
    client, server = greeted()
    server.receive_data(client.send(m.GetCachedKeys(m.Key("\U0001f511" * 128, "\U0001f511" * MAX_KEY_ID))))
    server.next_event()
    user = m.User(2**63 - 1, 2**63 - 1)
    key = m.Key("\U0001f511" * 128, "\U0001f511" * MAX_KEY_ID)
    page = m.CachedKeys(
        (m.CachedKey(key, "provider", 2**53 - 1, 2**53 - 1, (user,) * m.MAX_USERS, 2**63 - 1),) * m.MAX_PAGE
    )
    client.receive_data(server.send(page))
    assert client.next_event() == page


def test_the_largest_batch_fits():
    client, server = greeted()
    key = m.Key("p" * 128, "k" * MAX_KEY_ID)
    batch = m.Unwrap((m.Wrapped(key, bytes(m.MAX_BLOB), bytes(m.MAX_AAD)),) * m.MAX_BATCH)
    server.receive_data(client.send(batch))
    assert server.next_event() == batch


def test_the_largest_record_takes_the_place_of_another():
    client, server = greeted()
    key = m.Key("p" * 128, "k" * MAX_KEY_ID)
    asked = m.SealRecord((key,) * m.MAX_TAGS, bytes(m.MAX_RECORD), bytes(m.MAX_RECORD), "s" * m.MAX_SHOWN)
    server.receive_data(client.send(asked))
    assert server.next_event() == asked


def test_what_a_connection_is_for():
    client, server = ClientConnection(), ServerConnection()
    server.receive_data(client.hello("vm encrypt", "user:alice"))
    hello = server.next_event()
    assert (hello.operation, hello.as_principal) == ("vm encrypt", "user:alice")


def test_two_versions_end_in_one_clear_error():
    client, server = ClientConnection((1,)), ServerConnection()
    server.receive_data(client.hello())
    hello = server.next_event()
    with pytest.raises(PeerError, match="another version of ioflt: it speaks version 2, asked was 1"):
        welcome(hello)


def test_the_greeting_of_version_1_is_read_by_its_keyd():
    assert ClientConnection((1,)).hello() == write_frame(
        Raw(1, {"type": "hello", "protocol": "ioflt-keyd", "versions": (1,)})
    )


@pytest.mark.parametrize("body", [m.Done(), m.Welcome(1)])
def test_a_client_refuses_what_it_did_not_ask_for(body):
    client, _ = greeted()
    client.receive_data(write_frame(m.Reply(1, body)))
    with pytest.raises(RemoteProtocolError, match="not asked for"):
        client.next_event()


def test_a_client_refuses_another_ones_answer():
    client, _ = greeted()
    client.send(m.GetStatus())
    client.receive_data(write_frame(m.Reply(99, m.Done())))
    with pytest.raises(RemoteProtocolError):
        client.next_event()
    assert client.state is State.ERROR


@pytest.mark.parametrize("body", [m.Done(), m.Welcome(1), m.Text("x")])
def test_a_client_refuses_a_wrong_welcome(body):
    client = ClientConnection()
    client.hello()
    client.receive_data(write_frame(m.Reply(1, body)))
    with pytest.raises(RemoteProtocolError):
        client.next_event()


def test_a_server_may_refuse_a_client():
    client = ClientConnection()
    client.hello()
    client.receive_data(write_frame(m.Reply(1, Failure("DeniedError", "not you"))))
    assert client.next_event() == Failure("DeniedError", "not you")


def test_each_side_keeps_to_its_turn():
    client, server = greeted()
    with pytest.raises(LocalProtocolError):
        client.hello()
    with pytest.raises(LocalProtocolError):
        server.send(m.Done())
    server.receive_data(client.send(m.GetStatus()))
    with pytest.raises(LocalProtocolError):
        client.send(m.GetStatus())
    server.next_event()
    with pytest.raises(LocalProtocolError):
        server.next_event()


def test_no_message_shows_its_content():
    for request, reply in EXCHANGES:
        assert "passphrase" not in repr(request)
        assert repr(request) == f"<{type(request).__name__}>"
        if not isinstance(reply, Failure):
            assert repr(reply) == f"<{type(reply).__name__}>"
    assert repr(m.Request(1, EXCHANGES[12][0])) == "<Request>"


def test_a_key_reference_travels():
    assert m.Key.of(KeyRef("a", "b")).ref == KeyRef("a", "b")
