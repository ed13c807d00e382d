"""A host restart: the keys of ten thousand VMs at once."""

import subprocess
import sys

import pytest

from ioflt.crypto.secret import Secret
from ioflt.keys.client import KeyClient
from ioflt.testing.local_keys import LocalKeys
from ioflt.wire.keyd.values import MAX_PAGE

COUNT = 10_000


def listed(client):
    """All pages of cached keys."""
    page = client.cached_keys()
    while page:
        assert len(page) <= MAX_PAGE
        yield from page
        page = client.cached_keys(page[-1].key.ref)


@pytest.mark.slow
def test_ten_thousand_keys(where, ioflt_home):
    """Derived by keyd, each unwraps a DEK, all are listed. `make bench` says how long that takes."""
    with LocalKeys(ioflt_home) as local:
        keys = [local.new_key() for _ in range(COUNT)]
        items = [(key, local.generate(key, [b"aad"])[0][1], b"aad") for key in keys]
    with KeyClient.connect() as client:
        assert client.status().cached_keys == 0
        found = client.unwrap(items)
        assert all(isinstance(dek, Secret) for dek in found)
        assert client.status().cached_keys == COUNT
        assert [one.key.ref for one in listed(client)] == sorted(keys, key=lambda key: key.key_id)
        shown = subprocess.run(
            [sys.executable, "-m", "ioflt", "keyd", "status"], capture_output=True, text=True, check=True
        ).stdout
        assert f"and {COUNT - 20} more keys: ioflt keyd status --json" in shown
        assert len(shown.splitlines()) < 40
