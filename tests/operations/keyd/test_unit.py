"""keyd under what its unit allows: providers of several kinds open and give keys, and it confines itself."""

import sys
from pathlib import Path

import pytest

from ioflt.keys import starter
from ioflt.keys.client import KeyClient
from ioflt.keys.native import slot_admin
from ioflt.keys.native.file import kind_of
from ioflt.keys.native.slot_admin import NewSlot
from ioflt.keys.native.store import NativeStore
from ioflt.keys.pkcs11.store import Pkcs11Store
from ioflt.testing.pykmip import HOST, Authority, PyKmip
from tests import kmip_peers
from tests.key_peers import TANGD, Tang, Tpm
from tests.token_peers import MODULE, PIN, SoftHsm

AS_UNIT = Path(__file__).with_name("as_unit.py")
UNIT = Path(__file__).parents[3] / "tools" / "systemd" / "ioflt-keyd.service"

pytestmark = [pytest.mark.root, pytest.mark.interop("setpriv", "systemd-analyze")]


@pytest.fixture
def keys(where, monkeypatch):
    """A client of a keyd that runs as the unit says."""
    as_unit = (sys.executable, "-P", str(AS_UNIT), str(UNIT))
    monkeypatch.setattr(starter, "_KEYD", (*as_unit, "-P", "-m", "ioflt.keyd"))
    with KeyClient.connect() as client:
        yield client


def uses(keys, provider):
    """Make a key, and have it fetched anew."""
    key = keys.new_key(provider)
    ((dek, blob),) = keys.generate(key, [b"aad"])
    keys.lock("refuse")
    keys.unlock()
    (back,) = keys.unwrap([(key, blob, b"aad")])
    assert back == dek


def test_it_is_confined_and_keeps_its_keys_in_secret_memory(keys, where):
    uses(keys, None)
    status = keys.status()
    assert status.memory == "memfd_secret"
    about = dict(line.split(":\t", 1) for line in Path(f"/proc/{status.pid}/status").read_text().splitlines())
    assert about["CapEff"] == f"{1:016x}", "CAP_CHOWN"
    assert "less confined" not in (where.logs / "keyd.log").read_text()


@pytest.mark.interop("softhsm2-util", "pkcs11-tool")
def test_a_token(keys, where, tmp_path):
    hsm = SoftHsm.make(tmp_path / "hsm", "ioflt")
    hsm.make_key("ioflt", "wrap")
    pin = tmp_path / "pin"
    pin.touch(0o600)
    pin.write_text(PIN)
    store = Pkcs11Store(where.providers)
    store.add(store.prepare("hsm", str(MODULE), "ioflt", "wrap", str(pin), hsm.environment, 30.0))
    uses(keys, "hsm")


@pytest.mark.interop("clevis", "socat", TANGD)
def test_a_tang_server(keys, where, tmp_path):
    server = Tang.make(tmp_path / "tang")
    with server.running():
        opened_only_by(where, NewSlot("tang", url=server.url, thumbprint=server.thumbprint))
        uses(keys, "native")


@pytest.mark.interop("swtpm")
def test_a_tpm(keys, where, short_tmp):
    tpm = Tpm(short_tmp)
    with tpm.running():
        opened_only_by(where, NewSlot("tpm2", tcti=tpm.tcti))
        uses(keys, "native")


def opened_only_by(where, slot):
    """A provider `native` with this slot."""
    store = NativeStore(where.providers)
    (first,) = store.create("native").slots
    store.mark_backed_up("native")
    slot_admin.add(store, "native", slot)
    slot_admin.remove(store, "native", kind_of(first))


def test_a_key_server(keys, where, tmp_path):
    authority = Authority(tmp_path)
    certificate = authority.issue("server", hosts=(HOST,))
    server = PyKmip.start(tmp_path, authority, certificate, "first")
    try:
        kmip_peers.make(kmip_peers.KmipStore(where.providers), authority, server.port)
        uses(keys, "corp")
    finally:
        server.kill()
