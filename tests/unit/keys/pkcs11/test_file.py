"""The pkcs11 provider's file, and its key ids."""

import base64
import re
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

import ioflt
from ioflt.errors import CorruptDataError, ExistsError, NotFoundError, UsageError
from ioflt.keys.directory import ProviderDirectory
from ioflt.keys.pkcs11.file import Pkcs11File, parse
from ioflt.keys.pkcs11.provider import Pkcs11Provider
from ioflt.keys.pkcs11.store import Pkcs11Store
from ioflt.keys.provider_file import kind_of, write
from ioflt.keys.transit.provider import TransitProvider
from tests.provider_files import changed, malformed

FILE = Pkcs11File(
    name="corp",
    uuid="00000000-0000-4000-8000-000000000001",
    module="/usr/lib/softhsm/libsofthsm2.so",
    token="ioflt",
    key="wrapping key",
    pin_file="/etc/ioflt/pin",
    environment={"SOFTHSM2_CONF": "/etc/softhsm2.conf"},
)
BY_HAND = msgspec.structs.replace(FILE, pin_file=None, environment={}, token="Straße 7", timeout=0.5)


@pytest.mark.parametrize("file", [FILE, BY_HAND])
def test_what_is_written_is_read(file):
    assert parse(write(file)) == file
    assert kind_of(write(file)) == "pkcs11"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        *malformed(FILE),
        (changed(FILE, module="libsofthsm2.so"), "bad field"),
        (changed(FILE, module="/a\0b"), "bad field"),
        (changed(FILE, token=""), "bad field"),
        (changed(FILE, token="a" * 33), "bad field"),
        (changed(FILE, token="a "), "bad field"),
        (changed(FILE, token="a\nb"), "bad field"),
        (changed(FILE, key=""), "bad field"),
        (changed(FILE, key="a\n"), "bad field"),
        (changed(FILE, key="a" * 256), "bad field"),
        (changed(FILE, pin_file="pin"), "bad field"),
        (changed(FILE, pin_file=1), "bad field"),
        (changed(FILE, pin="1234"), "bad field"),
        (changed(FILE, environment={"A=B": "c"}), "bad field"),
        (changed(FILE, environment={"": "c"}), "bad field"),
        (changed(FILE, environment={"A": "\0"}), "bad field"),
        (changed(FILE, environment={"A": "b" * 4096}), "bad field"),
        (changed(FILE, environment={f"A{number}": "" for number in range(17)}), "bad field"),
    ],
)
def test_malformed(data, reason):
    with pytest.raises(CorruptDataError) as caught:
        parse(data)
    assert caught.value.reason == reason


@pytest.fixture
def store(tmp_path):
    return Pkcs11Store(tmp_path)


def prepare(store, **other):
    how = {
        name: getattr(FILE, name) for name in ("name", "module", "token", "key", "pin_file", "environment")
    }
    return store.prepare(**how | {"timeout": 10.0} | other)


def test_a_new_provider(store, tmp_path):
    made = prepare(store)
    assert list(tmp_path.iterdir()) == []
    store.add(made)
    assert store.load("corp") == made
    assert (tmp_path / "corp.json").stat().st_mode & 0o777 == 0o600
    assert ProviderDirectory(tmp_path).kind("corp") == "pkcs11"
    with pytest.raises(ExistsError):
        prepare(store)
    with pytest.raises(ExistsError):
        store.add(made)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"token": "a" * 33}, "no usable token"),
        ({"key": ""}, "no usable key"),
        ({"environment": {"a b": ""}}, "no usable environment"),
        ({"timeout": 0.0}, "no usable timeout"),
        ({"name": "a/b"}, "not a provider name"),
        ({"key": "\udcff"}, "not UTF-8"),
    ],
)
def test_what_makes_no_provider(store, tmp_path, other, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        prepare(store, **other)
    assert list(tmp_path.iterdir()) == []


def test_a_file_under_another_name(store, tmp_path):
    store.add(prepare(store))
    (tmp_path / "corp.json").rename(tmp_path / "other.json")
    with pytest.raises(NotFoundError, match="that of the provider corp"):
        store.load("other")


UUID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"


@given(st.binary(min_size=60, max_size=60))
def test_a_key_has_one_id(blob):
    key_id = f"{UUID}.aes-gcm:{base64.b64encode(blob).decode()}"
    found = Pkcs11Provider.parse(key_id)
    assert found is not None
    assert base64.b64decode(found.ciphertext.removeprefix("aes-gcm:")) == blob
    assert TransitProvider.parse(key_id) is None


@given(st.text(max_size=200) | st.from_regex(rf"{UUID}\.aes-gcm:[A-Za-z0-9+/=]{{76,84}}", fullmatch=True))
def test_any_text_is_an_id_or_none(text):
    found = Pkcs11Provider.parse(text)
    assert found is None or f"{text[:36]}.{found.ciphertext}" == text


def test_the_worked_example_of_the_spec():
    spec = (Path(ioflt.__file__).parent / "keys" / "SPEC.md").read_text()

    def value(name):
        (found,) = re.findall(rf"^{name} +(.+)$", spec, re.MULTILINE)
        return found

    found = Pkcs11Provider.parse(value("pkcs11 key id"))
    assert found is not None
    blob = base64.b64decode(found.ciphertext.removeprefix("aes-gcm:"))
    opened = AESGCM(bytes.fromhex(value("wrapping key"))).decrypt(blob[:12], blob[12:], found.associated_data)
    assert opened == bytes.fromhex(value("wrapped by it"))
