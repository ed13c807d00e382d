"""Slots against what they are sealed to: another state of the TPM, a wrong PIN, a server that is gone."""

from __future__ import annotations

import time

import pytest

from ioflt.crypto.secret import Secret
from ioflt.errors import (
    AuthenticationError,
    KeyNotUsable,
    ProviderLocked,
    ProviderUnavailable,
    UsageError,
)
from ioflt.keys.cache import KeyCache
from ioflt.keys.native import credentials, programs, slot_admin, tang
from ioflt.keys.native import tpm as tpm_slot
from ioflt.keys.native.provider import NativeProvider
from ioflt.keys.native.slot_admin import NewSlot
from ioflt.keys.native.slots import waits_for_secret
from ioflt.keys.native.store import NativeStore
from tests.key_peers import TANGD, Tang, Tpm

needs_tpm = pytest.mark.interop("swtpm")
needs_tang = pytest.mark.interop("clevis", "socat", TANGD)

SECRET, PIN = Secret(b"correct horse"), Secret(b"1234")


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(credentials, "works", lambda: False)
    path = tmp_path / "providers"
    path.mkdir()
    made = NativeStore(path)
    made.create("corp", SECRET)
    made.mark_backed_up("corp")
    return made


@pytest.fixture
def tpm(short_tmp):
    return Tpm(short_tmp)


def opened(store):
    return NativeProvider(store.load("corp"), store.path("corp"), KeyCache(4))


def states(store):
    return {slot.kind: slot.state for slot in slot_admin.listing(store, "corp")}


@needs_tpm
def test_a_tpm_opens_in_the_state_of_the_seal_only(store, tpm):
    with tpm.running():
        slot_admin.add(store, "corp", NewSlot("tpm2", tcti=tpm.tcti), SECRET)
        assert states(store) == {"passphrase": "waits", "tpm2": "opens"}
        key_id = opened(store).create()
    with tpm.running():  # after a reboot
        (kept,) = opened(store).get([key_id])
        assert isinstance(kept, Secret)
        tpm.extend(8)  # not one of the seal's
        assert opened(store).status().state == "ready"
        tpm.extend(7)
        assert opened(store).status().reason.endswith("the machine's state (PCRs) is not that of the seal")
        provider = opened(store)
        provider.unlock(SECRET)
        assert provider.get([key_id]) == [kept]
        with pytest.raises(KeyNotUsable):  # what stays must open
            slot_admin.remove(store, "corp", "passphrase")
        slot_admin.remove(store, "corp", "tpm2", SECRET)
    assert states(store) == {"passphrase": "waits"}


@needs_tpm
def test_a_tpm_that_is_not_there_or_another_one(store, tpm, tmp_path):
    with tpm.running():
        slot_admin.add(store, "corp", NewSlot("tpm2", tcti=tpm.tcti), SECRET)
    assert opened(store).status().state == "unavailable"
    with pytest.raises(ProviderUnavailable, match="the TPM at"):
        opened(store).unlock(None)
    for state in tpm.directory.glob("tpm2-*"):
        state.unlink()
    with tpm.running():
        assert "this TPM does not open the seal" in opened(store).status().reason


@needs_tpm
def test_a_pin(store, tpm):
    with tpm.running():
        slot_admin.add(store, "corp", NewSlot("tpm2", PIN, tcti=tpm.tcti), SECRET)
        assert states(store) == {"passphrase": "waits", "tpm2+pin": "waits"}
        slot_admin.remove(store, "corp", "passphrase", PIN)
        assert all(map(waits_for_secret, store.load("corp").slots))
        provider = opened(store)
        with pytest.raises(ProviderLocked):
            provider.create()
        with pytest.raises(KeyNotUsable, match="wrong PIN for the provider corp"):
            provider.unlock(SECRET)
        provider.unlock(PIN)
        provider.create()


@needs_tpm
def test_a_tpm_that_was_asked_too_often(tpm):
    with tpm.running(), Secret.random(32) as key:
        public, private = tpm_slot.seal(tpm.tcti, (7,), PIN, key)
        said = []
        while len(said) < 40:
            with pytest.raises((AuthenticationError, KeyNotUsable)) as caught:
                tpm_slot.unseal(tpm.tcti, (7,), SECRET, public, private)
            said.append(str(caught.value))
        assert said[0] == tpm_slot.WRONG_PIN
        assert said[-1] == "the TPM takes no PIN for a while: too many were wrong"


@needs_tpm
@pytest.mark.parametrize("part", ["public", "private"])
def test_a_seal_that_was_changed(tpm, part):
    with tpm.running(), Secret.random(32) as key:
        sealed = dict(zip(("public", "private"), tpm_slot.seal(tpm.tcti, (7,), None, key), strict=True))
        for bad in (sealed[part][:-1], b"\xff\xff", sealed[part][:-1] + bytes([sealed[part][-1] ^ 1])):
            with pytest.raises(AuthenticationError):
                tpm_slot.unseal(tpm.tcti, (7,), None, **{**sealed, part: bad})


@needs_tpm
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (NewSlot("tpm2", tcti="/tmp/evil:x"), "not a TCTI"),
        (NewSlot("tpm2", tcti="evil:x"), "not a TCTI"),
        (NewSlot("tpm2", pcrs=(24,)), "not a PCRs"),
        (NewSlot("tpm2", pcrs=()), "not a PCRs"),
        (NewSlot("tpm2", Secret(b"")), "empty passphrase"),
        (NewSlot("tang", url="file:///etc/passwd", thumbprint="A" * 43), "not a URL"),
        (NewSlot("tang", url="http://a", thumbprint="-y"), "not a thumbprint"),
        (NewSlot("fido2"), "no kind of slot"),
    ],
)
def test_what_makes_no_slot(store, wrong, says):
    before = store.path("corp").read_bytes()
    with pytest.raises(UsageError, match=says):
        slot_admin.add(store, "corp", wrong, SECRET)
    assert store.path("corp").read_bytes() == before


@needs_tang
def test_a_network(store, tmp_path):
    server = Tang.make(tmp_path / "tang")
    with server.running():
        wanted = NewSlot("tang", url=server.url, thumbprint=server.thumbprint)
        slot_admin.add(store, "corp", wanted, SECRET)
        assert states(store) == {"passphrase": "waits", "tang": "opens"}
        key_id = opened(store).create()
        assert b"PRIVATE" not in store.path("corp").read_bytes()
    (refused,) = opened(store).get([key_id])
    assert isinstance(refused, ProviderUnavailable)
    assert "the tang server at" in refused.message
    provider = opened(store)
    provider.unlock(SECRET)
    (kept,) = provider.get([key_id])
    with server.running():
        assert opened(store).get([key_id]) == [kept]


@needs_tang
def test_a_tang_server_that_is_not_the_one(store, tmp_path):
    server, other = Tang.make(tmp_path / "one"), Tang.make(tmp_path / "two")
    with server.running():
        with pytest.raises(ProviderUnavailable, match="the tang server at"):
            slot_admin.add(store, "corp", NewSlot("tang", url=server.url, thumbprint="A" * 43), SECRET)
        wanted = NewSlot("tang", url=server.url, thumbprint=server.thumbprint)
        slot_admin.add(store, "corp", wanted, SECRET)
    other.port = server.port  # another server at the same place
    with other.running(), pytest.raises(ProviderUnavailable):
        opened(store).unlock(None)


@needs_tang
def test_a_tang_server_that_hangs(tmp_path, monkeypatch):
    """It listens and answers nothing: given up in time, with all processes gone."""
    server = Tang.make(tmp_path / "one")
    with server.running(), Secret.random(32) as key:
        sealed = tang.seal(server.url, server.thumbprint, key)
    monkeypatch.setattr(tang, "TIMEOUT_S", 1.0)
    with server.hanging():
        begin = time.monotonic()
        with pytest.raises(ProviderUnavailable, match="no answer in 1 seconds"):
            tang.unseal(server.url, sealed)
        assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    "sealed", ["", "a.b.c", "e30.x", "eyJjbGV2aXMiOnsicGluIjoic3NzIn19.a", "W10.x", "%%"]
)
def test_what_is_no_seal_of_tang_starts_no_program(sealed, monkeypatch):
    """clevis would run whatever pin a seal names."""
    monkeypatch.setattr(programs, "run", None)
    with pytest.raises(AuthenticationError):
        tang.unseal("http://127.0.0.1:1", sealed)


class TestPrograms:
    """How programs are talked to: `cat` and its like stand for clevis and systemd-creds."""

    def run(self, script, timeout=20.0):
        with Secret(b"secret") as given:
            return bytes(programs.run("it", ["/bin/sh", "-c", script], given, timeout=timeout).view())

    def test_input_and_output(self):
        assert self.run("cat; echo") == b"secret\n"

    @pytest.mark.parametrize("script", ["exit 1", "true", "cat; exit 3"])
    def test_failure(self, script):
        with pytest.raises(programs.PeerError, match="it: no output"):
            self.run(script)

    def test_the_last_line_of_its_complaint(self):
        with pytest.raises(programs.PeerError, match=r"it: second$"):
            self.run("echo first >&2; echo second >&2; exit 1")

    @pytest.mark.parametrize("stream", [1, 2])
    def test_too_much(self, stream):
        with pytest.raises(programs.PeerError, match="it: it says too much"):
            self.run(f"head -c 1000000 /dev/zero >&{stream}")

    @pytest.mark.parametrize("script", ["sleep 100", "sleep 100 & sleep 100", "exec >&- 2>&-; sleep 100"])
    def test_no_answer_in_time(self, script):
        begin = time.monotonic()
        with pytest.raises(programs.NoAnswer):
            self.run(script, timeout=0.3)
        assert time.monotonic() - begin < 5

    def test_nothing_of_ours_in_its_environment(self, monkeypatch):
        monkeypatch.setenv("LD_PRELOAD_OURS", "x")
        assert b"OURS" not in self.run("env")
