"""Every provider, in every way in which it can be opened, through the contract."""

import uuid

import pytest

from ioflt.crypto.secret import Secret
from ioflt.keys import credentials, slots
from ioflt.keys.cache import KeyCache
from ioflt.keys.native import NativeProvider
from ioflt.keys.provider_file import ProviderFile, parse_provider, write
from ioflt.testing.check_provider import check_provider

PASSPHRASE = b"correct horse"


@pytest.fixture(scope="module")
def systemd_creds_works():
    return credentials.works()


@pytest.mark.parametrize("kind", ["passphrase", "keyfile", "systemd-creds"])
def test_native(kind, tmp_path, systemd_creds_works):
    if kind == "systemd-creds" and not systemd_creds_works:
        pytest.skip("systemd-creds does not work here")
    path = tmp_path / "p.json"
    ids = (str(uuid.uuid4()), str(uuid.uuid4()))
    with Secret.random(32) as kdk:
        slot = {
            "passphrase": lambda: slots.seal_passphrase(*ids, kdk, Secret(PASSPHRASE)),
            "keyfile": lambda: slots.seal_keyfile(*ids, kdk, path),
            "systemd-creds": lambda: slots.seal_credential(*ids, kdk),
        }[kind]()
    path.write_bytes(
        write(ProviderFile(name="p", uuid=ids[0], kdk_id=ids[1], backed_up=False, slots=(slot,)))
    )

    def open_again():
        return NativeProvider(parse_provider(path.read_bytes()), path, KeyCache(4))

    check_provider(open_again, Secret(PASSPHRASE) if kind == "passphrase" else None)
