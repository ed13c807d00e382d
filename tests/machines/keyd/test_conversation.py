"""Both sides of the keyd protocol, joined by nothing but bytes."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.errors import PeerError
from ioflt.types import MAX_KEY_ID, KeyRef
from ioflt.wire.failure import Failure
from ioflt.wire.frame import CLOSED, NEED_DATA, CutShort, LocalProtocolError, RemoteProtocolError, write_frame
from ioflt.wire.keyd import access, connection, messages, providers, replies, requests, values
from ioflt.wire.keyd.connection import ClientConnection, ServerConnection, State, welcome
from ioflt.wire.keyd.messages import STOPPED_IN

KEY = values.Key("local", "id-1")

PROVIDER = replies.ProviderStatus(
    "corp", "kmip", "ready", ("client certificate",), True, cache=replies.CacheStatus(30, "tpm2", 5)
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
    (requests.DefaultProvider(), replies.Text("local")),
    (requests.NewKey(), replies.Made(KEY)),
    (requests.NewKey("corp"), replies.Made(values.Key("corp", "ü" * MAX_KEY_ID))),
    (
        requests.Generate(KEY, (b"a", b"b")),
        replies.Generated((replies.GeneratedKey(bytearray(64), b"blob"),) * 2),
    ),
    (
        requests.Unwrap((values.Wrapped(KEY, b"blob", b"aad"),) * 2),
        replies.Unwrapped((bytearray(64), bytearray()), {1: Failure("KeyNotFound", "no such key")}),
    ),
    (requests.Rewrap(values.Wrapped(KEY, b"blob", b"aad"), KEY, b"other"), replies.Data(b"blob")),
    (
        requests.CheckRecord(b"record", (bytes(32),) * 2, (KEY, KEY)),
        replies.Checked((True, Failure("KeyNotFound", "gone"))),
    ),
    (requests.CheckRecord(b"record", (bytes(32),), (KEY,), "web01"), replies.Checked((False,))),
    (requests.SealRecord((KEY,), None, b"record", "web01"), replies.Sealed((bytes(32),))),
    (requests.SealRecord((KEY, KEY), b"old", b"record"), replies.Sealed((bytes(32),) * 2)),
    (
        requests.Prove((requests.Proof(values.Wrapped(KEY, b"blob", b"aad"), b"salt", 1000, bytes(32)),) * 2),
        replies.Proved({1: Failure("KeyNotFound", "no such key")}),
    ),
    (requests.ProveVmx(b"sealed", (KEY,)), replies.Done()),
    (requests.SealVmx(KEY, b"text", 2**62 + 1), replies.Data(b"sealed")),
    (requests.RewrapVmx(b"sealed", (KEY, KEY)), replies.Data(b"sealed")),
    (requests.GetConfigKey(b"sealed"), replies.ConfigKey(bytearray(32))),
    (
        requests.GetKeyStates((KEY, KEY), True),
        replies.KeyStates(
            (
                replies.KeyState("sealed", 1, 2, 3, None, None),
                replies.KeyState(None, None, None, None, Failure("KeyNotFound", "no such key"), 2**53 - 1),
            )
        ),
    ),
    (requests.UseKey(KEY), replies.Done()),
    (requests.ForgetKey(KEY), replies.Done()),
    (requests.RemoveKey(KEY), replies.Done()),
    (requests.AddKey(KEY), replies.Done()),
    (requests.LocateKeys("corp", (requests.Criterion("State", "active"),)), replies.Located(("1", "2"))),
    (requests.RevokeKey(KEY, "key-compromise"), replies.Done()),
    (requests.DestroyKey(KEY), replies.Done()),
    (requests.EraseKey(KEY, "0f0e0d0c-0b0a-4908-8706-050403020100"), replies.Erased(True)),
    (requests.NoteGeneration((KEY, KEY), "0f0e0d0c-0b0a-4908-8706-050403020100", 7), replies.Done()),
    (requests.SeenGeneration((KEY,), "0f0e0d0c-0b0a-4908-8706-050403020100"), replies.Generation(7, True)),
    (requests.GetStatus(), replies.Status(1, "0.1", "open", "memfd_secret", 0, 1, (PROVIDER,))),
    (
        requests.GetCachedKeys(),
        replies.CachedKeys((replies.CachedKey(KEY, "provider", 1, None, (replies.User(1, 0),), 2),)),
    ),
    (requests.GetCachedKeys(KEY), replies.CachedKeys(())),
    (requests.SetKeyCache("corp", 30), replies.Done()),
    (requests.SetKeyCache("corp", None), replies.Done()),
    (requests.GetPolicies(), replies.Data(b'{"format":1,"policies":[]}\n')),
    (requests.AddPolicy(b"text"), replies.Done()),
    (requests.RemovePolicy("Gold"), replies.Done()),
    (requests.GetKeyHolders(), replies.KeyHolders(("0f0e0d0c-0b0a-4908-8706-050403020100",))),
    (requests.MarkKeyHolder("0f0e0d0c-0b0a-4908-8706-050403020100", True), replies.Done()),
    (requests.SetEventLog(), replies.EventLogSettings(True, "none")),
    (requests.SetEventLog(False, "journal"), replies.EventLogSettings(False, "journal")),
    (
        requests.NoteEvents(
            (
                requests.Report("provider create", requests.ReportedThing("provider", "corp", "corp")),
                requests.Report(
                    "file rename",
                    requests.ReportedThing("vm", "0f0e0d0c-0b0a-4908-8706-050403020100", "web"),
                    requests.ReportedThing("datastore", "0f0e0d0c-0b0a-4908-8706-050403020101", "/srv/ds"),
                    (
                        requests.ReportedChange("file", "web/a", "web/b"),
                        requests.ReportedChange("file", None, "x"),
                    ),
                    "failed",
                    "why",
                    2**32 - 1,
                ),
            )
        ),
        replies.EventLogSettings(True, "none"),
    ),
    (requests.ReadEvents(0, 1, wait=True, folder="tenant"), replies.EventPage("0001.jsonl", b"{}\n", 1)),
    (requests.ReadEvents(0, 2**63 - 1), replies.EventPage("0001.jsonl", b"{}\n", 1)),
    (requests.Attest(bytes(32)), replies.Attested(b"{}", bytes(64))),
    (requests.GetAttestKey(), replies.Text("-----BEGIN PUBLIC KEY-----")),
    (
        requests.SignManifest(
            bytes(32),
            values.Signing(
                "0f0e0d0c-0b0a-4908-8706-050403020100", "web01", "/srv/kept/web01/20260101T000000Z"
            ),
        ),
        replies.ManifestSigned(b"{}", bytes(64), "-----BEGIN PUBLIC KEY-----"),
    ),
    (
        requests.MaySign(
            values.Signing("0f0e0d0c-0b0a-4908-8706-050403020100", "web01", "/srv/kept", b"{}", bytes(64))
        ),
        replies.Done(),
    ),
    (requests.GetManifestKey(), replies.Text("-----BEGIN PUBLIC KEY-----")),
    (
        requests.BeginExport(
            "0f0e0d0c-0b0a-4908-8706-050403020100",
            "0f0e0d0c-0b0a-4908-8706-050403020101",
            "web01",
            "web01.vmdk",
            "nbdssl",
            ticket="user:alice",
            until=2**40,
        ),
        replies.ExportBegun("0123456789abcdef" * 2),
    ),
    (requests.AwaitExport(), Failure("DeniedError", "permission denied")),
    (
        requests.GetExports("0123456789abcdef" * 2),
        replies.Exports(
            (values.OpenExport("f" * 32, "web01", "web01.vmdk", "user:alice", 7, "nbdssl", 1, "abcd", 2**40),)
        ),
    ),
    (requests.GetExports(), replies.Exports(())),
    (requests.EndExport("0123456789abcdef" * 2, "its ticket is used up"), replies.Done()),
    (
        requests.WatchVm("0f0e0d0c-0b0a-4908-8706-050403020100", "web01", 2**32, 2**64 - 1),
        replies.Done(),
    ),
    (requests.TakeVmWritten(), replies.VmWritten(((2**32, 2**64 - 1, 0, 2**63 - 1),), True)),
    (requests.HoldVm(30), replies.Done()),
    (requests.ResumeVm(), Failure("BusyError", "writes went on")),
    (requests.GetWarnings(), replies.Warnings(("never backed up",))),
    (requests.Lock("suspend"), replies.Locked(("/m/a",), ())),
    (requests.Unlock("corp", bytearray(b"passphrase")), replies.Done()),
    (requests.Unlock(None, None), replies.Done()),
    (requests.Reload(), replies.Done()),
    (requests.Stop(), replies.Done()),
    (requests.GetProvider("corp"), replies.Provider(providers.About("corp", "kmip", bytes(32), FACTS))),
    (requests.GetProviderDefault(), replies.ProviderDefault("corp", None)),
    (requests.GetProviderDefault(), replies.ProviderDefault(Failure("UsageError", "several"), "corp")),
    (requests.GetProviderUse("corp"), replies.ProviderUse(("web01",), ("/srv/ds",))),
    (
        requests.LookAtServers("corp"),
        replies.ServersShown((providers.Shown(providers.Server("kms1", 5696), b"certificate"),)),
    ),
    (requests.TryProvider("corp"), replies.Tried((providers.Step("kms1:5696", "connect", "failed", "why"),))),
    (
        requests.BackUpProvider(
            providers.BackUp("own", bytes(32), bytearray(b"passphrase"), bytearray(b"own"))
        ),
        replies.Data(b"backup"),
    ),
    *((requests.ChangeProvider(change), replies.ProviderChanged("")) for change in PROVIDER_CHANGES),
    (requests.GetAccess(), replies.Access(b"{}\n")),
    *((requests.ChangeAccess(change), replies.Done()) for change in CHANGES),
    (
        requests.ExplainAccess("alice", "Cryptographer.Access", VM),
        replies.Explained(False, "alice has no permission"),
    ),
    (requests.GetConfigKey(b"x"), Failure("MalformedError", "", reason="no key safe", file="a.vmx")),
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
    asked = {type(request) for request, _ in EXCHANGES} | {requests.Hello}
    told = {type(reply) for _, reply in EXCHANGES} | {replies.Welcome}
    assert asked == set(requests.RequestBody.__args__)
    assert told == set(replies.ReplyBody.__args__)


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
    client.send(requests.GetStatus())
    side.receive_data(framed if kind & 2 else garbage)
    side.receive_data(b"")
    try:
        event = side.next_event()
    except RemoteProtocolError:
        assert side.state is State.ERROR
        with pytest.raises(RemoteProtocolError):
            side.next_event()
    else:
        assert event is CLOSED or isinstance(event, requests.RequestBody | replies.ReplyBody)


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
    assert event is NEED_DATA or isinstance(event, requests.RequestBody)


def hello(**changes):
    fields = {"protocol": "ioflt-keyd", "versions": (2,), "type": "hello"} | changes
    return write_frame(Raw(0, fields))


class Raw(msgspec.Struct):
    id: int
    body: object


def unwrap(count):
    return requests.Unwrap((values.Wrapped(values.Key("p", "k"), b"", b""),) * count)


REFUSED = {
    "a request before hello": write_frame(messages.Request(1, requests.GetStatus())),
    "another protocol": hello(protocol="ioflt-other"),
    "no version": hello(versions=()),
    "an unknown field": hello(more=1),
    "an unknown request": hello(type="shutdown"),
    "a reply": write_frame(messages.Reply(1, replies.Done())),
    "a negative id": write_frame(Raw(-1, {"type": "hello", "protocol": "ioflt-keyd", "versions": (2,)})),
    "a name of an operation above the limit": hello(operation="o" * (values.MAX_OPERATION + 1)),
    "no principal": hello(as_principal=""),
    "a principal above the limit": hello(as_principal="p" * (values.MAX_PRINCIPAL + 1)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_server_refuses_at_first(name):
    server = ServerConnection()
    server.receive_data(REFUSED[name])
    with pytest.raises(RemoteProtocolError):
        server.next_event()


LATER = {
    "a second hello": requests.Hello("ioflt-keyd", (2,)),
    "a batch above the limit": unwrap(values.MAX_BATCH + 1),
    "a provider's name above the limit": requests.NewKey("p" * 129),
    "an empty provider's name": requests.NewKey(""),
    "a key id above the limit": requests.Generate(values.Key("p", "k" * (MAX_KEY_ID + 1)), ()),
    "an AAD above the limit": requests.Generate(KEY, (bytes(values.MAX_AAD + 1),)),
    "a record of no MAC": requests.CheckRecord(b"", (), (KEY,)),
    "a MAC of another size": requests.CheckRecord(b"", (bytes(31),), (KEY,)),
    "too many MACs": requests.CheckRecord(b"", (bytes(32),) * (values.MAX_TAGS + 1), (KEY,)),
    "a digest of too many rounds": requests.Prove(
        (requests.Proof(values.Wrapped(KEY, b"", b""), b"s", values.MAX_ROUNDS + 1, bytes(32)),)
    ),
    "a record by no key": requests.SealRecord((), None, b""),
    "a record above the limit": requests.SealRecord((KEY,), None, bytes(values.MAX_RECORD + 1)),
    "an unknown mode": requests.Lock("gently"),
    "a negative file id": requests.SealVmx(KEY, b"", -1),
    "a VMX above the limit": requests.RewrapVmx(bytes(values.MAX_VMX + 1), (KEY,)),
    "a passphrase above the limit": requests.Unlock("p", bytearray(4097)),
    "a cache for no day": requests.SetKeyCache("p", 0),
    "a cache for more than a year": requests.SetKeyCache("p", 366),
    "a mark for no home": requests.MarkKeyHolder("web01", True),
    "policies above the limit": requests.AddPolicy(bytes(values.MAX_POLICIES + 1)),
    "a policy's name above the limit": requests.RemovePolicy("p" * (values.MAX_POLICY_NAME + 1)),
    "a page after no key": requests.GetCachedKeys(values.Key("p", "")),
}


@pytest.mark.parametrize("name", LATER)
def test_what_a_server_refuses_later(name):
    _, server = greeted()
    server.receive_data(write_frame(messages.Request(2, LATER[name])))
    with pytest.raises(RemoteProtocolError):
        server.next_event()


USER = replies.User(1, 1)
STRANGE = {
    "a page above the limit": replies.CachedKeys(
        (replies.CachedKey(KEY, "sealed", 1, 2, (), 0),) * (values.MAX_PAGE + 1)
    ),
    "too many users": replies.CachedKeys(
        (replies.CachedKey(KEY, "sealed", 1, 2, (USER,) * (values.MAX_USERS + 1), 0),)
    ),
    "a key from elsewhere": replies.CachedKeys((replies.CachedKey(KEY, "disk", 1, 2, (), 0),)),
    "a time before 1970": replies.CachedKeys((replies.CachedKey(KEY, "sealed", -1, 2, (), 0),)),
    "a time without sense": replies.KeyStates((replies.KeyState("sealed", 1, 2**53, None, None, None),)),
    "a negative pid": replies.CachedKeys(
        (replies.CachedKey(KEY, "sealed", 1, 2, (replies.User(-1, 0),), 0),)
    ),
    "a cache of fewer than no keys": replies.Status(
        1,
        "",
        "open",
        "",
        0,
        0,
        (replies.ProviderStatus("p", "", "ready", (), True, "", replies.CacheStatus(1, "", -1)),),
    ),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_a_client_refuses(name):
    client, _ = greeted()
    client.send(requests.GetCachedKeys())
    client.receive_data(write_frame(messages.Reply(1, STRANGE[name])))
    with pytest.raises(RemoteProtocolError, match="not a message"):
        client.next_event()


def test_the_largest_page_fits():
    client, server = greeted()
    server.receive_data(
        client.send(requests.GetCachedKeys(values.Key("\U0001f511" * 128, "\U0001f511" * MAX_KEY_ID)))
    )
    server.next_event()
    user = replies.User(2**63 - 1, 2**63 - 1)
    key = values.Key("\U0001f511" * 128, "\U0001f511" * MAX_KEY_ID)
    page = replies.CachedKeys(
        (replies.CachedKey(key, "provider", 2**53 - 1, 2**53 - 1, (user,) * values.MAX_USERS, 2**63 - 1),)
        * values.MAX_PAGE
    )
    client.receive_data(server.send(page))
    assert client.next_event() == page


def test_the_largest_batch_fits():
    client, server = greeted()
    key = values.Key("p" * 128, "k" * MAX_KEY_ID)
    batch = requests.Unwrap(
        (values.Wrapped(key, bytes(values.MAX_BLOB), bytes(values.MAX_AAD)),) * values.MAX_BATCH
    )
    server.receive_data(client.send(batch))
    assert server.next_event() == batch


def test_the_largest_record_takes_the_place_of_another():
    client, server = greeted()
    key = values.Key("p" * 128, "k" * MAX_KEY_ID)
    asked = requests.SealRecord(
        (key,) * values.MAX_TAGS, bytes(values.MAX_RECORD), bytes(values.MAX_RECORD), "s" * values.MAX_SHOWN
    )
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
    with pytest.raises(PeerError, match="another version of ioflt: it speaks version 3, asked was 1"):
        welcome(hello)


def test_a_keyd_of_an_earlier_version_is_ended(monkeypatch):
    monkeypatch.setattr(connection, "VERSIONS", (2,))
    client, server = ClientConnection(STOPPED_IN), ServerConnection()
    server.receive_data(client.hello())
    client.receive_data(server.send(welcome(server.next_event())))
    assert client.next_event() == replies.Welcome(2)
    server.receive_data(client.send(requests.Stop()))
    assert server.next_event() == requests.Stop()


def test_the_greeting_of_version_1_is_read_by_its_keyd():
    assert ClientConnection((1,)).hello() == write_frame(
        Raw(1, {"type": "hello", "protocol": "ioflt-keyd", "versions": (1,)})
    )


@pytest.mark.parametrize("body", [replies.Done(), replies.Welcome(1)])
def test_a_client_refuses_what_it_did_not_ask_for(body):
    client, _ = greeted()
    client.receive_data(write_frame(messages.Reply(1, body)))
    with pytest.raises(RemoteProtocolError, match="not asked for"):
        client.next_event()


def test_a_client_refuses_another_ones_answer():
    client, _ = greeted()
    client.send(requests.GetStatus())
    client.receive_data(write_frame(messages.Reply(99, replies.Done())))
    with pytest.raises(RemoteProtocolError):
        client.next_event()
    assert client.state is State.ERROR


@pytest.mark.parametrize("body", [replies.Done(), replies.Welcome(1), replies.Text("x")])
def test_a_client_refuses_a_wrong_welcome(body):
    client = ClientConnection()
    client.hello()
    client.receive_data(write_frame(messages.Reply(1, body)))
    with pytest.raises(RemoteProtocolError):
        client.next_event()


def test_a_server_may_refuse_a_client():
    client = ClientConnection()
    client.hello()
    client.receive_data(write_frame(messages.Reply(1, Failure("DeniedError", "not you"))))
    assert client.next_event() == Failure("DeniedError", "not you")


def test_each_side_keeps_to_its_turn():
    client, server = greeted()
    with pytest.raises(LocalProtocolError):
        client.hello()
    with pytest.raises(LocalProtocolError):
        server.send(replies.Done())
    server.receive_data(client.send(requests.GetStatus()))
    with pytest.raises(LocalProtocolError):
        client.send(requests.GetStatus())
    server.next_event()
    with pytest.raises(LocalProtocolError):
        server.next_event()


def test_no_message_shows_its_content():
    for request, reply in EXCHANGES:
        assert "passphrase" not in repr(request)
        assert repr(request) == f"<{type(request).__name__}>"
        if not isinstance(reply, Failure):
            assert repr(reply) == f"<{type(reply).__name__}>"
    assert repr(messages.Request(1, EXCHANGES[12][0])) == "<Request>"


def test_a_key_reference_travels():
    assert values.Key.of(KeyRef("a", "b")).ref == KeyRef("a", "b")
