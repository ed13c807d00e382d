"""A host restart: the keys of ten thousand VMs at once."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ioflt.crypto.secret import Secret
from ioflt.keys.client import KeyClient
from ioflt.testing.local_keys import LocalKeys
from ioflt.wire.keyd.messages import MAX_PAGE

COUNT = 10_000


def cpu_seconds(pid):
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def listed(client):
    """All pages of cached keys."""
    page = client.cached_keys()
    while page:
        assert len(page) <= MAX_PAGE
        yield from page
        page = client.cached_keys(page[-1].key.ref)


@pytest.mark.slow
def test_ten_thousand_keys_in_a_second(where, ioflt_home):
    """Derived by keyd, each unwraps a DEK. In CPU time of both sides: a busy machine does not fail it."""
    with LocalKeys(ioflt_home) as local:
        keys = [local.new_key() for _ in range(COUNT)]
        items = [(key, local.generate(key, [b"aad"])[0][1], b"aad") for key in keys]
    with KeyClient.connect() as client:
        assert client.status().cached_keys == 0
        pid = client.status().pid
        begin, here, there = time.perf_counter(), time.process_time(), cpu_seconds(pid)
        found = client.unwrap(items)
        took = time.perf_counter() - begin
        cpu = time.process_time() - here, cpu_seconds(pid) - there
        assert all(isinstance(dek, Secret) for dek in found)
        assert client.status().cached_keys == COUNT
        assert [one.key.ref for one in listed(client)] == sorted(keys, key=lambda key: key.key_id)
        shown = subprocess.run(
            [sys.executable, "-m", "ioflt", "keyd", "status"], capture_output=True, text=True, check=True
        ).stdout
        assert f"and {COUNT - 20} more keys: ioflt keyd status --json" in shown
        assert len(shown.splitlines()) < 40
    print(f"{COUNT} keys: {took:.2f} s, CPU {cpu[0]:.2f} s here, {cpu[1]:.2f} s in keyd")
    assert sum(cpu) < 1
