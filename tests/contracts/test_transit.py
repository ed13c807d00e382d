"""The transit provider against OpenBao."""

import os
import socket
import threading

import pytest

from ioflt.crypto.secret import Secret
from ioflt.errors import (
    KeyCorrupt,
    KeyNotFound,
    KeyNotUsable,
    KeyUnavailableError,
    ProviderLocked,
    ProviderUnavailable,
    UsageError,
)
from ioflt.keys.transit.file import CertificateLogin, TokenLogin
from ioflt.keys.transit.provider import TransitProvider
from ioflt.keys.transit.store import TransitStore
from ioflt.testing.check_provider import check_provider
from ioflt.testing.openbao import OpenBao
from ioflt.testing.pykmip import HOST, Authority, free_port


@pytest.fixture(scope="module")
def bao(authority, tmp_path_factory):
    server = OpenBao.start(tmp_path_factory.mktemp("bao"), authority)
    server.make_key("ioflt")
    server.make_key("other")
    yield server
    server.kill()


@pytest.fixture
def store(tmp_path):
    directory = tmp_path / "providers"
    directory.mkdir(mode=0o700)
    return TransitStore(directory)


@pytest.fixture
def closing():
    """Providers to be closed at the end."""
    providers = []
    yield providers
    for provider in providers:
        provider.close()


@pytest.fixture
def make(bao, authority, store, tmp_path, closing):
    """Makes a provider, which logs in by a new token with the policy of its key."""

    def made(
        name="corp", key="ioflt", *, host=HOST, port=None, mount="transit", token=None, login=None,
        trusted=None, seconds=5.0,
    ):  # fmt: skip
        if login is None:
            put(tmp_path / f"{name}.token", token or bao.token(key))
            login = TokenLogin(file=str(tmp_path / f"{name}.token"))
        anchors = (trusted or authority).path.read_text()
        store.create(name, (host, port or bao.port), mount, key, login, anchors, seconds)
        closing.append(TransitProvider(store.load(name)))
        return closing[-1]

    return made


def put(path, text):
    path.touch(0o600)
    path.write_text(f"{text}\n")


def identity(authority, path, name, days=365):
    """A private key and certificate in one file."""
    certificate, key = authority.issue(name, days=days)
    path.touch(0o600)
    path.write_bytes(key.read_bytes() + certificate.read_bytes())
    return path


def only(answers):
    (one,) = answers
    return one


def test_the_contract(make, store, closing):
    make()

    def open_again():
        closing.append(TransitProvider(store.load("corp")))
        return closing[-1]

    check_provider(open_again)


def test_the_contract_with_a_client_certificate(bao, authority, make, store, closing, tmp_path):
    bao.ask("POST", "sys/auth/cert", type="cert")
    entry = {"certificate": authority.path.read_text(), "allowed_common_names": ["host"]}
    bao.ask("POST", "auth/cert/certs/hosts", **entry, token_policies=["ioflt"])
    path = identity(authority, tmp_path / "host.pem", "host")
    make(login=CertificateLogin(file=str(path), role="hosts"))

    def open_again():
        closing.append(TransitProvider(store.load("corp")))
        return closing[-1]

    check_provider(open_again)
    assert open_again().status().slots == ("certificate",)
    stranger = identity(authority, tmp_path / "stranger.pem", "stranger")
    refused = make("strange", login=CertificateLogin(file=str(stranger)))
    with pytest.raises(ProviderUnavailable, match="refuses the client certificate: no chain"):
        refused.create()


def test_another_host_needs_nothing_but_the_server(make):
    ours, theirs = make(), make("elsewhere")
    key_id = ours.create()
    assert theirs.get([key_id]) == ours.get([key_id])
    assert len(key_id) < 200


def test_hundreds_of_keys_and_many_that_fail(make):
    provider = make()
    good = [provider.create() for _ in range(5)]
    uuids, blobs = zip(*(key_id.split(".") for key_id in good), strict=True)
    swapped = [f"{uuids[0]}.{blobs[1]}", f"{uuids[1]}.{blobs[0]}"]
    kept = dict(zip(good, provider.get(good), strict=True))
    many = [f"{uuids[0]}.vault:v9{number}:{blobs[0][9:]}" for number in range(500)]
    answers = provider.get([*good, *swapped, *many, "strange", *good])
    assert answers[:5] == answers[-5:] == list(kept.values())
    assert all(isinstance(answer, KeyCorrupt) for answer in answers[5:7])
    assert all(isinstance(answer, KeyNotFound) for answer in answers[7:-5])
    assert all(isinstance(answer, KeyCorrupt) for answer in provider.get(swapped))  # nothing but failures


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda text: text[:-4] + ("AAAA" if text[-4:] != "AAAA" else "BBBB"), KeyCorrupt),
        (lambda text: text[:-8], KeyCorrupt),
        (lambda text: text[:46] + "QUJD", KeyCorrupt),
        (lambda text: text[:-1], KeyNotFound),
        (lambda text: text.replace(":v1:", ":v0:"), KeyNotFound),
        (lambda text: text.replace("vault:", "bao:"), KeyNotFound),
        (lambda text: text.upper(), KeyNotFound),
        (lambda text: text + " ", KeyNotFound),
        (lambda text: text + "A" * 1024, KeyNotFound),
        (lambda text: text.split(".")[1], KeyNotFound),
    ],
)
def test_a_key_id_that_was_changed(make, change, kind):
    provider = make()
    assert isinstance(only(provider.get([change(provider.create())])), kind)


def test_what_another_program_wrapped_is_no_key(bao, make):
    provider = make()
    uuid = provider.create().split(".")[0]
    foreign = bao.ask(
        "POST", "transit/encrypt/ioflt", plaintext="MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI="
    )
    assert isinstance(only(provider.get([f"{uuid}.{foreign['data']['ciphertext']}"])), KeyCorrupt)
    assert isinstance(only(make("two", "other").get([provider.create()])), KeyCorrupt)


def test_keys_that_are_rotated_and_retired(bao, make):
    bao.make_key("turning")
    provider = make(key="turning")
    old = provider.create()
    bao.ask("POST", "transit/keys/turning/rotate")
    new = provider.create()
    assert ".vault:v2:" in new
    assert all(isinstance(answer, Secret) for answer in provider.get([old, new]))
    bao.ask("POST", "transit/keys/turning/config", min_decryption_version=2, deletion_allowed=True)
    refused, kept = provider.get([old, new])
    assert isinstance(refused, KeyNotUsable)
    assert "too old" in refused.message
    assert isinstance(kept, Secret)
    bao.ask("DELETE", "transit/keys/turning")
    assert isinstance(only(provider.get([new])), KeyNotFound)
    assert provider.status().state == "ready"


@pytest.mark.parametrize("kind", ["rsa-2048", "derived"])
def test_a_key_that_cannot_bind_makes_no_keys(bao, make, kind):
    how = {"derived": True} if kind == "derived" else {"type": kind}
    bao.make_key(kind, **how)
    with pytest.raises(KeyNotUsable, match=r"associated_data|context"):
        make(key=kind).create()


def test_rights(bao, make):
    provider = make(token=bao.token("other"))
    with pytest.raises(KeyNotUsable, match=r"key server of corp, key ioflt: .*permission denied"):
        provider.create()
    assert provider.status().state == "ready"
    bao.ask(
        "PUT", "sys/policies/acl/wraps", policy='path "transit/encrypt/ioflt" {capabilities = ["update"]}'
    )
    half = make("half", token=bao.token("wraps"))
    with pytest.raises(KeyNotUsable):  # no key whose data could never be read again
        half.create()
    with pytest.raises(KeyNotUsable):  # a key that is not there is not made
        make("none", "none", token=bao.token("ioflt")).create()
    with pytest.raises(KeyNotUsable):
        make("nowhere", mount="nowhere").create()
    with pytest.raises(KeyNotFound, match="no engine nowhere"):
        make("root", mount="nowhere", token=bao.root).create()


def test_a_token_is_revoked_and_replaced(bao, make, tmp_path):
    first = bao.token("ioflt")
    provider = make(token=first)
    key_id = provider.create()
    kept = provider.get([key_id])
    bao.ask("POST", "auth/token/revoke", token=first)
    refused = only(provider.get([key_id]))
    assert isinstance(refused, ProviderUnavailable)
    assert "refuses the token" in refused.message
    assert provider.status().state == "unavailable"
    put(tmp_path / "corp.token", bao.token("ioflt"))
    assert provider.get([key_id]) == kept
    assert provider.status().state == "ready"


@pytest.mark.parametrize("mode", [0o604, 0o640])
def test_a_token_that_others_may_read(make, tmp_path, mode):
    provider = make()
    (tmp_path / "corp.token").chmod(mode)
    with pytest.raises(ProviderUnavailable, match=r"corp\.token.* is open to others: mode 6"):
        provider.create()


@pytest.mark.parametrize("text", ["", "a b", "a\r\nX-Other: b", "ä"])
def test_what_is_no_token(make, tmp_path, text):
    provider = make()
    (tmp_path / "corp.token").write_text(text)
    with pytest.raises(ProviderUnavailable, match="no token"):
        provider.create()


def test_a_token_file_that_is_none(make, tmp_path):
    provider = make()
    (tmp_path / "corp.token").unlink()
    with pytest.raises(ProviderUnavailable, match="No such file"):
        provider.create()
    os.mkfifo(tmp_path / "corp.token", 0o600)
    with pytest.raises(ProviderUnavailable, match="is no file"):
        provider.create()


def test_a_server_that_is_sealed_and_opened_again(bao, make):
    provider = make()
    key_id = provider.create()
    kept = provider.get([key_id])
    bao.seal()
    try:
        refused = only(provider.get([key_id]))
        assert isinstance(refused, ProviderUnavailable)
        assert "sealed" in refused.message
    finally:
        bao.unseal()
    assert provider.get([key_id]) == kept


def test_servers_that_are_not_the_one(make, authority, tmp_path):
    with pytest.raises(ProviderUnavailable, match="its certificate is refused"):
        make(trusted=Authority(tmp_path / "others", "others")).create()
    with pytest.raises(ProviderUnavailable, match=r"its certificate is refused.*localhost"):
        make("named", host="localhost").create()
    with pytest.raises(ProviderUnavailable, match=r":\d+: Connection refused"):
        make("gone", port=free_port()).create()


def test_a_server_that_hangs(make):
    with socket.create_server((HOST, 0)) as silent:
        provider = make(port=silent.getsockname()[1], seconds=0.3)
        with pytest.raises(ProviderUnavailable, match=r"no answer within 0\.3 seconds"):
            provider.create()
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(ProviderUnavailable, match=r"no answer within 0\.3 seconds"):
            provider.create()
        with pytest.raises(BlockingIOError):
            silent.accept()  # who asks next does not wait for it
        provider.change(provider.file)
        with pytest.raises(ProviderUnavailable, match=r"no answer within 0\.3 seconds"):
            provider.create()
        silent.accept()[0].close()


def test_a_server_that_starts_again_finds_no_dead_connection(bao, make):
    """A connection that was kept and is closed now is no failure."""
    provider = make()
    key_id = provider.create()
    kept = provider.get([key_id])
    for connection in provider._server._https._idle:
        socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)
    assert provider.get([key_id]) == kept


def test_locked_while_others_ask(make):
    provider = make()
    key_id = provider.create()
    kept = only(provider.get([key_id]))
    answers = []
    under_way = threading.Event()

    def fetch():
        for _ in range(30):
            answers.append(provider.get([key_id] * 3)[0])
            under_way.set()

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert under_way.wait(60)
    provider.lock()
    for thread in threads:
        thread.join()
    assert isinstance(only(provider.get([key_id])), ProviderLocked)
    for answer in answers:
        assert isinstance(answer, ProviderLocked | ProviderUnavailable) or answer == kept
    with pytest.raises(UsageError, match="no passphrase"):
        provider.unlock(Secret(b"x"))
    provider.unlock(None)
    assert only(provider.get([key_id])) == kept


def test_a_changed_file_is_used_at_once(make, store, authority):
    provider = make(port=free_port())
    with pytest.raises(KeyUnavailableError):
        provider.create()
    provider.change(make("corp2").file)
    assert isinstance(only(provider.get([provider.create()])), Secret)
    assert provider.warnings() == []


def test_certificates_that_expire_are_told_of(make, authority, tmp_path):
    path = identity(authority, tmp_path / "host.pem", "host", days=365)
    provider = make(login=CertificateLogin(file=str(path)))
    assert provider.warnings() == []
    identity(authority, path, "host", days=10)
    (soon,) = provider.warnings()
    assert soon.startswith(f"the certificate in {path} of the provider corp expires on ")
    identity(authority, path, "host", days=-1)
    (late,) = provider.warnings()
    assert " of the provider corp expired on " in late
    path.unlink()
    assert provider.warnings() == []
