"""The transit provider's file."""

import re
from pathlib import Path

import msgspec
import pytest

import ioflt
from ioflt.crypto import certificates
from ioflt.errors import CorruptDataError, ExistsError, MalformedError, NotFoundError, UsageError
from ioflt.keys.directory import ProviderDirectory
from ioflt.keys.provider_file import kind_of, write
from ioflt.keys.transit.file import (
    CertificateLogin,
    TokenLogin,
    TransitFile,
    parse,
)
from ioflt.keys.transit.provider import TransitProvider
from ioflt.keys.transit.store import TransitStore
from ioflt.keys.wrapping import bound_to as binding
from tests.provider_files import changed, malformed

FILE = TransitFile(
    name="corp",
    uuid="00000000-0000-4000-8000-000000000001",
    host="bao.example",
    port=8200,
    key="ioflt",
    login=TokenLogin(file="/run/ioflt-token"),
    anchors="-----BEGIN CERTIFICATE-----\n",
)
BY_CERTIFICATE = msgspec.structs.replace(
    FILE, host="2001:db8::1", login=CertificateLogin(file="/etc/host.pem", mount="ns/cert", role="hosts")
)


@pytest.mark.parametrize("file", [FILE, BY_CERTIFICATE])
def test_what_is_written_is_read(file):
    assert parse(write(file)) == file
    assert kind_of(write(file)) == "transit"
    assert kind_of(b"{}") == kind_of(b"") == ""


def test_servers_as_they_are_shown():
    assert (FILE.server, BY_CERTIFICATE.server) == ("bao.example:8200", "[2001:db8::1]:8200")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        *malformed(FILE),
        (changed(FILE, host="a b"), "bad field"),
        (changed(FILE, port=0), "bad field"),
        (changed(FILE, mount="a/../b"), "bad field"),
        (changed(FILE, mount="/a"), "bad field"),
        (changed(FILE, mount="a?b"), "bad field"),
        (changed(FILE, key="a/b"), "bad field"),
        (changed(FILE, key=""), "bad field"),
        (changed(FILE, key="a\n"), "bad field"),
        (changed(FILE, login={"kind": "password", "file": "/a"}), "bad field"),
        (changed(FILE, login={"kind": "token", "file": "a"}), "bad field"),
        (changed(FILE, login={"kind": "token", "file": "/a", "role": "b"}), "bad field"),
        (changed(FILE, login={"kind": "certificate", "file": "/a", "role": "a/b"}), "bad field"),
        (changed(FILE, anchors=""), "bad field"),
    ],
)
def test_malformed(data, reason):
    with pytest.raises(CorruptDataError) as caught:
        parse(data)
    assert caught.value.reason == reason


@pytest.fixture
def store(tmp_path):
    return TransitStore(tmp_path)


@pytest.fixture(scope="module")
def pem():
    with certificates.new_key() as key:
        return certificates.self_signed(key, "ca", 30)


def create(store, pem, **other):
    how = {
        "name": "corp",
        "server": ("bao.example", 8200),
        "mount": "transit",
        "key": "ioflt",
        "login": FILE.login,
        "anchors": f"a comment\n{pem}",
        "timeout": 5.0,
    }
    return store.create(**how | other)


def test_a_new_provider(store, pem, tmp_path):
    made = create(store, pem)
    assert store.load("corp") == made
    assert made.anchors == pem
    assert (tmp_path / "corp.json").stat().st_mode & 0o777 == 0o600
    assert ProviderDirectory(tmp_path).kind("corp") == "transit"
    assert ProviderDirectory(tmp_path).kind("other") == ""
    with pytest.raises(ExistsError):
        create(store, pem)
    (told,) = store.trust_authority("corp", pem)
    assert told.subject == "CN=ca"
    assert store.load("corp") == made


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"key": "../x"}, "no usable key"),
        ({"mount": ""}, "no usable mount"),
        ({"server": ("a", 65536)}, "no usable port"),
        ({"login": CertificateLogin(file="/a", mount="../b")}, "no usable login.mount"),
        ({"timeout": 0.0}, "no usable timeout"),
        ({"name": "a/b"}, "not a provider name"),
    ],
)
def test_what_makes_no_provider(store, pem, tmp_path, other, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        create(store, pem, **other)
    with pytest.raises(MalformedError):
        create(store, pem, anchors="none")
    assert list(tmp_path.iterdir()) == []


def test_a_file_under_another_name(store, pem, tmp_path):
    create(store, pem)
    (tmp_path / "corp.json").rename(tmp_path / "other.json")
    with pytest.raises(NotFoundError, match="that of the provider corp"):
        store.load("other")


def test_the_worked_example_of_the_spec():
    spec = (Path(ioflt.__file__).parent / "keys" / "SPEC.md").read_text()
    (key_id,) = re.findall(r"^transit key id +(\S+)$", spec, re.MULTILINE)
    (bound_to,) = re.findall(r"^bound to +(.+)$", spec, re.MULTILINE)
    (ciphertext,) = re.findall(r"^wrapped KEK +(.+)$", spec, re.MULTILINE)
    found = TransitProvider.parse(key_id)
    assert found is not None
    assert (found.ciphertext, found.associated_data) == (ciphertext, bound_to.encode())
    assert binding(key_id[:36]) == bound_to.encode()
