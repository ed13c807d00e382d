"""Every provider, in every way in which it can be opened, through the contract."""

import uuid

import pytest

from ioflt.crypto.secret import Secret
from ioflt.keys.cache import KeyCache
from ioflt.keys.native import credentials, slots
from ioflt.keys.native.file import ProviderFile, parse_provider
from ioflt.keys.native.provider import NativeProvider
from ioflt.keys.provider_file import write
from ioflt.testing.check_provider import check_provider
from tests.key_peers import TANGD, Tang, Tpm

PASSPHRASE = b"correct horse"


@pytest.fixture(scope="module")
def systemd_creds_works():
    return credentials.works()


@pytest.fixture
def tpm(short_tmp):
    made = Tpm(short_tmp)
    with made.running():
        yield made


@pytest.fixture
def tang(tmp_path):
    made = Tang.make(tmp_path / "tang")
    with made.running():
        yield made


@pytest.mark.parametrize("kind", ["passphrase", "keyfile", "systemd-creds"])
def test_native(kind, tmp_path, systemd_creds_works):
    if kind == "systemd-creds" and not systemd_creds_works:
        pytest.skip("systemd-creds does not work here")
    path = tmp_path / "p.json"
    seal = {
        "passphrase": lambda *whose: slots.seal_passphrase(*whose, Secret(PASSPHRASE)),
        "keyfile": lambda *whose: slots.seal_keyfile(*whose, path),
        "systemd-creds": slots.seal_credential,
    }[kind]
    check_native(path, seal, Secret(PASSPHRASE) if kind == "passphrase" else None)


@pytest.mark.interop("swtpm")
@pytest.mark.parametrize("pin", [None, PASSPHRASE], ids=["no PIN", "PIN"])
def test_native_in_a_tpm(pin, tmp_path, tpm):
    secret = None if pin is None else Secret(pin)

    def seal(*whose):
        return slots.seal_tpm2(*whose, tcti=tpm.tcti, pcrs=(0, 7), pin=secret)

    check_native(tmp_path / "p.json", seal, secret)


@pytest.mark.interop("clevis", "socat", TANGD)
def test_native_in_a_network(tmp_path, tang):
    def seal(*whose):
        return slots.seal_tang(*whose, url=tang.url, thumbprint=tang.thumbprint)

    check_native(tmp_path / "p.json", seal, None)


def check_native(path, seal, passphrase):
    """The contract for a provider with the one slot that `seal` makes."""
    ids = (str(uuid.uuid4()), str(uuid.uuid4()))
    with Secret.random(32) as kdk:
        slot = seal(*ids, kdk)
    made = ProviderFile(name="p", uuid=ids[0], kdk_id=ids[1], backed_up=True, slots=(slot,))
    path.write_bytes(write(made))

    def open_again():
        return NativeProvider(parse_provider(path.read_bytes()), path, KeyCache(4))

    check_provider(open_again, passphrase)
