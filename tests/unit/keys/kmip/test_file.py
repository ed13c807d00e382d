"""The kmip provider's file, and the files beside it."""

import pytest

from ioflt.crypto import certificates
from ioflt.crypto.secret import Secret
from ioflt.errors import CorruptDataError, ExistsError, MalformedError, NotFoundError, UsageError
from ioflt.keys.directory import ProviderDirectory
from ioflt.keys.kmip.file import KmipFile, KmipServer, parse
from ioflt.keys.kmip.store import KmipStore
from ioflt.keys.provider_file import kind_of, write
from tests.provider_files import changed, malformed

FILE = KmipFile(
    name="corp",
    uuid="00000000-0000-4000-8000-000000000001",
    servers=(
        KmipServer(host="kms1.example"),
        KmipServer(host="2001:db8::1", port=1, fingerprint=":".join(["AB"] * 32)),
    ),
    anchors="-----BEGIN CERTIFICATE-----\n",
)


def test_what_is_written_is_read():
    assert parse(write(FILE)) == FILE
    assert write(parse(write(FILE))) == write(FILE)
    assert kind_of(write(FILE)) == "kmip"
    assert [str(server) for server in FILE.servers] == ["kms1.example:5696", "[2001:db8::1]:1"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        *malformed(FILE),
        (changed(FILE, servers=[]), "bad field"),
        (changed(FILE, servers=[{"host": "a b"}]), "bad field"),
        (changed(FILE, servers=[{"host": "a", "port": 0}]), "bad field"),
        (changed(FILE, servers=[{"host": "a", "port": 65536}]), "bad field"),
        (changed(FILE, servers=[{"host": "a", "fingerprint": "AA"}]), "bad field"),
        (changed(FILE, servers=[{"host": "a"}, {"host": "A", "port": 5696}]), "twice the same server"),
        (changed(FILE, servers=[{"host": f"a{n}"} for n in range(9)]), "bad field"),
    ],
)
def test_malformed(data, reason):
    with pytest.raises(CorruptDataError) as caught:
        parse(data)
    assert caught.value.reason == reason


@pytest.fixture
def store(tmp_path):
    return KmipStore(tmp_path)


SERVERS = (KmipServer(host="kms.example"),)


def test_a_new_provider(store, tmp_path):
    pem = store.create("corp", SERVERS, 5.0, csr=False)
    (made,) = certificates.read(pem)
    assert store.certificate("corp") == made
    assert made.subject == made.issuer == "CN=corp"
    assert (tmp_path / "corp.pem").stat().st_mode & 0o777 == 0o600
    assert ProviderDirectory(tmp_path).kind("corp") == "kmip"
    assert ProviderDirectory(tmp_path).kind("other") == ""
    with pytest.raises(ExistsError):
        store.create("corp", SERVERS, 5.0, csr=False)
    with pytest.raises(UsageError):
        store.create("more", SERVERS * 2, 5.0, csr=False)
    with pytest.raises(UsageError):
        store.create("../corp", SERVERS, 5.0, csr=False)


def test_a_request_has_no_certificate_until_it_is_signed(store):
    assert "CERTIFICATE REQUEST" in store.create("corp", SERVERS, 5.0, csr=True)
    assert store.certificate("corp") is None


def test_a_renewed_certificate_waits_until_it_is_installed(store):
    old = store.create("corp", SERVERS, 5.0, csr=False)
    new = store.renew("corp", csr=False)
    assert store.certificate("corp") == certificates.read(old)[0]
    store.install("corp", f"some text before\n{new}")
    assert store.certificate("corp") == certificates.read(new)[0]
    store.install("corp", new)  # again: nothing changes
    with pytest.raises(UsageError, match="no private key"):
        store.install("corp", old)


def test_what_is_no_certificate(store):
    store.create("corp", SERVERS, 5.0, csr=False)
    for text in ("", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(MalformedError, match="no certificate"):
            store.install("corp", text)
        with pytest.raises(MalformedError, match="no certificate"):
            store.trust_authority("corp", text)


def test_trusted_servers_are_pinned_and_an_authority_ends_that(store):
    own = store.create("corp", SERVERS, 5.0, csr=False)
    der = certificates.read(own)[0].der
    store.trust_servers("corp", {SERVERS[0]: der})
    assert store.load("corp").servers[0].fingerprint is not None
    assert certificates.read(store.load("corp").anchors)[0].der == der
    store.trust_authority("corp", own)
    assert store.load("corp").servers[0].fingerprint is None


def test_another_kind_of_provider(store, tmp_path):
    (tmp_path / "local.json").write_text('{"format": "ioflt native provider"}')
    with pytest.raises(UsageError, match="has no key servers"):
        store.load("local")
    with pytest.raises(NotFoundError):
        store.load("none")
    (tmp_path / "other.json").write_bytes(write(FILE))
    with pytest.raises(NotFoundError, match="that of the provider corp"):
        store.load("other")


def test_the_private_key_is_shown_nowhere(store, tmp_path):
    store.create("corp", SERVERS, 5.0, csr=False)
    secret = Secret((tmp_path / "corp.pem").read_bytes())
    assert "PRIVATE" not in repr(secret)
    assert b"PRIVATE" not in write(store.load("corp"))
