"""keyd with sealed keys, against PyKMIP's servers: what a host does that was rebooted while they are down."""

import json
import stat
from contextlib import contextmanager

import pytest

from ioflt import paths
from ioflt.crypto.secret import Secret
from ioflt.errors import KeyNotFound, KeyNotUsable, NotFoundError, ProviderUnavailable, UsageError
from ioflt.keyd.service import Service
from ioflt.keys.client import KeyClient
from ioflt.keys.kmip.file import KmipServer
from ioflt.keys.kmip.provider import KmipProvider
from ioflt.keys.kmip.store import KmipStore
from ioflt.keys.native.store import NativeStore
from ioflt.keys.sealed import file, seal
from ioflt.keys.sealed.cache import DAY
from ioflt.testing.pykmip import HOST, PyKmip
from ioflt.wire.kmip.enumerations import RevocationReasonCode
from tests.key_peers import Tpm
from tests.process_memory import memory_holds
from tests.unit.keys.sealed.test_clock import Host

needs_tpm = pytest.mark.interop("swtpm")
pytestmark = pytest.mark.allow_log("key server .* of corp: Connection refused")

NOW = 1_800_000_000


class Servers:
    """A key server that can be down: then its place answers nobody."""

    def __init__(self, directory, authority):
        self._directory = directory
        self._authority = authority
        self._certificate = authority.issue("server", hosts=(HOST,))
        self._count = 0
        self.running = None
        self.up()

    def up(self):
        self._count += 1
        name = f"server{self._count}"
        self.running = PyKmip.start(self._directory, self._authority, self._certificate, name)

    def down(self):
        self.running.kill()


@pytest.fixture
def server(authority, tmp_path):
    (tmp_path / "kmip").mkdir()
    found = Servers(tmp_path / "kmip", authority)
    yield found
    found.down()


class Rebooted:
    """A host: its state directory, its clock, its TPM. `keyd` is a new process on it."""

    def __init__(self, where, tpm, clock):
        self.where = where
        self.tpm = tpm
        self.clock = clock
        self.store = KmipStore(where.providers)

    @contextmanager
    def keyd(self):
        made = Service(self.where, self.clock.clock(), lambda _, key: seal.to_tpm(self.tpm.tcti, key))
        try:
            yield made
        finally:
            made.close()

    def provider(self, authority, port, name="corp"):
        request = self.store.create(name, [KmipServer(host=HOST, port=port)], 5.0, csr=True)
        self.store.install(name, authority.sign(request))
        self.store.trust_authority(name, authority.path.read_text())

    def sealed(self, name="corp"):
        data = (self.where.providers / f"{name}~keys").read_bytes()
        return {key.key_id for key in file.parse(data)[0].keys}

    def on_servers(self, ask):
        """As the key servers' own administrator."""
        provider = KmipProvider(self.store.load("corp"), self.store)
        try:
            return provider.call(ask)
        finally:
            provider.close()


@pytest.fixture
def host(ioflt_home, short_tmp, server, authority):
    tpm = Tpm(short_tmp)
    with tpm.running():
        found = Rebooted(paths.find().ensure(), tpm, Host(wall=NOW))
        found.provider(authority, server.running.port)
        yield found


def made(keyd, count=1):
    """New keys of the provider, each with a wrapped data key."""
    keys = [keyd.new_key("corp") for _ in range(count)]
    wrapped = [(key, keyd.generate(key, [b"a"])[0]) for key in keys]
    return [(key, dek, (key, blob, b"a")) for key, (dek, blob) in wrapped]


@needs_tpm
class TestReboot:
    def test_off_the_keys_are_gone(self, host, server):
        with host.keyd() as keyd:
            [(_, _, item)] = made(keyd)
        server.down()
        with host.keyd() as keyd:
            (found,) = keyd.unwrap([item])
            assert isinstance(found, ProviderUnavailable)
            assert keyd.status().providers[0].cache is None

    def test_on_they_open_what_they_did_until_they_expire(self, host, server):
        with host.keyd() as keyd:
            [(early, dek, item)] = made(keyd)
            keyd.set_key_cache("corp", 7)  # what is in memory is sealed, too
            [(late, _, _)] = made(keyd)
            keyd.save()
            assert host.sealed() == {early.key_id, late.key_id}
            (state,) = keyd.key_states([early], ask=False)
            assert (state.source, state.expires, state.sealed) == ("provider", None, NOW + 7 * DAY)
        server.down()
        host.clock.passes(7 * DAY - 10)
        with host.keyd() as keyd:
            assert keyd.unwrap([item]) == [dek]
            (state,) = keyd.key_states([early])
            assert (state.source, state.fetched, state.expires) == ("sealed", NOW, NOW + 7 * DAY)
            assert isinstance(state.missing, ProviderUnavailable)  # nothing is hidden
            (cached,) = keyd.cached_keys()
            assert (cached.key.ref, cached.source, cached.expires) == (early, "sealed", NOW + 7 * DAY)
            host.clock.passes(10)
            (found,) = keyd.unwrap([item])
            assert isinstance(found, ProviderUnavailable)
            assert keyd.cached_keys() == []
            keyd.upkeep()
            assert host.sealed() == set()
        host.clock.wall = NOW
        with host.keyd() as keyd:  # the clock is set back: nothing comes back
            assert isinstance(keyd.unwrap([item])[0], ProviderUnavailable)

    def test_a_silent_provider_is_not_waited_for_by_each(self, host, server, monkeypatch):
        with host.keyd() as keyd:
            keyd.set_key_cache("corp", 7)
            (_, one, item), (_, two, other), (third, _, _) = made(keyd, 3)
        server.down()
        asked = []
        real = KmipProvider.get
        monkeypatch.setattr(
            KmipProvider, "get", lambda self, ids: (asked.append(list(ids)), real(self, ids))[1]
        )
        with host.keyd() as keyd:
            assert keyd.unwrap([item]) == [one]
            assert keyd.unwrap([other]) == [two]
            assert len(asked) == 1
            keyd.forget_key(third)
            (found,) = keyd.unwrap([(third, item[1], b"a")])  # what is not sealed is asked for
            assert isinstance(found, ProviderUnavailable)
            assert len(asked) == 2

    def test_the_servers_are_back(self, host, server, authority):
        with host.keyd() as keyd:
            keyd.set_key_cache("corp", 7)
            [(key, dek, item)] = made(keyd)
        server.down()
        with host.keyd() as keyd:
            assert keyd.unwrap([item]) == [dek]
            host.clock.passes(DAY)
            keyd.upkeep()
            assert keyd.key_states([key], ask=False)[0].source == "sealed"
            server.up()
            data = (host.where.providers / "corp.json").read_text()
            port = host.store.load("corp").servers[0].port
            (host.where.providers / "corp.json").write_text(data.replace(str(port), str(server.running.port)))
            keyd.reload()
            keyd.upkeep()
            (state,) = keyd.key_states([key], ask=False)
            assert (state.source, state.expires, state.missing) == ("provider", None, None)
            assert state.sealed == NOW + 8 * DAY

    def test_a_key_that_the_servers_still_give_does_not_expire(self, host, server):
        with host.keyd() as keyd:
            keyd.set_key_cache("corp", 2)
            [(key, dek, item)] = made(keyd)
            for _ in range(8):
                host.clock.passes(DAY)
                keyd.upkeep()
        server.down()
        with host.keyd() as keyd:
            assert keyd.unwrap([item]) == [dek]
            assert keyd.key_states([key], ask=False)[0].expires == NOW + 10 * DAY

    def test_what_nobody_uses_expires_although_the_servers_give_it(self, host, server):
        """The old key after a recrypt."""
        with host.keyd() as keyd:
            keyd.set_key_cache("corp", 2)
            (used, dek, item), (old, _, _) = made(keyd, 2)
        with host.keyd() as keyd:
            assert keyd.unwrap([item]) == [dek]
            for _ in range(2):
                host.clock.passes(DAY)
                keyd.upkeep()
            assert host.sealed() == {used.key_id}
            assert keyd.key_states([old])[0].missing is None


@needs_tpm
class TestWhatEndsIt:
    @pytest.fixture
    def keyd(self, host):
        with host.keyd() as found:
            found.set_key_cache("corp", 7)
            yield found

    def test_the_servers_have_spoken(self, host, keyd):
        (gone, _, _), (kept, _, _) = made(keyd, 2)
        keyd.save()

        async def destroy(keys):
            await keys.revoke(gone.key_id, RevocationReasonCode.CESSATION_OF_OPERATION)
            await keys.destroy(gone.key_id)

        host.on_servers(destroy)
        states = keyd.key_states([gone, kept])
        assert isinstance(states[0].missing, KeyNotFound)
        assert states[0].source == "provider"  # what is in memory goes on, as it does on ESXi hosts
        assert (states[0].sealed, states[1].sealed) == (None, NOW + 7 * DAY)
        assert host.sealed() == {kept.key_id}

    def test_removed(self, host, keyd, server):
        (gone, _, item), (kept, _, _) = made(keyd, 2)
        keyd.save()
        keyd.remove_key(gone)
        assert host.sealed() == {kept.key_id}
        server.down()
        keyd.close()
        with host.keyd() as again:
            assert isinstance(again.unwrap([item])[0], KeyNotUsable)

    def test_forgotten(self, host, keyd):
        (gone, _, _), (kept, _, _) = made(keyd, 2)
        keyd.save()
        keyd.forget_key(gone)
        assert host.sealed() == {kept.key_id}

    def test_locked(self, host, keyd, server):
        [(key, _, item)] = made(keyd)
        keyd.save()
        keyd.lock("refuse")
        assert host.sealed() == set()
        server.down()
        (state,) = keyd.key_states([key])
        assert (state.source, state.sealed) == (None, None)
        assert keyd.status().providers[0].cache.days == 7
        keyd.unlock()
        assert isinstance(keyd.unwrap([item])[0], ProviderUnavailable)
        keyd.close()
        with host.keyd() as again:
            assert isinstance(again.unwrap([item])[0], ProviderUnavailable)

    def test_locked_and_unlocked_it_seals_again(self, host, keyd):
        [(key, dek, item)] = made(keyd)
        keyd.lock("refuse")
        keyd.unlock()
        assert keyd.unwrap([item]) == [dek]
        keyd.save()
        assert host.sealed() == {key.key_id}

    def test_turned_off(self, host, keyd):
        made(keyd)
        keyd.save()
        path = host.where.providers / "corp~keys"
        with path.open("rb") as before:
            keyd.set_key_cache("corp", None)
            assert set(before.read()) == {0}
        made(keyd)
        keyd.save()
        assert not path.exists()
        keyd.set_key_cache("corp", None)  # twice is no error

    def test_its_provider_is_removed(self, host, keyd):
        made(keyd)
        keyd.save()
        host.store._names.remove("corp")
        keyd.reload()
        made_here = {path.name for path in host.where.providers.iterdir()}
        keyd.upkeep()
        assert {path.name for path in host.where.providers.iterdir()} == made_here == set()


@needs_tpm
def test_who_has_no_cache(host):
    with host.keyd() as keyd:
        keyd.new_key("corp")
        assert keyd.default_provider() == "corp"
        NativeStore(host.where.providers).create("local", Secret(b"passphrase"))
        with pytest.raises(UsageError, match="has no key servers"):
            keyd.set_key_cache("local", 7)
        with pytest.raises(NotFoundError):
            keyd.set_key_cache("none", 7)


@pytest.mark.allow_log("bad MAC; it is left as it is")
@needs_tpm
def test_a_cache_of_no_use_is_told_of(host):
    with host.keyd() as keyd:
        keyd.set_key_cache("corp", 7)
        [(_, dek, item)] = made(keyd)
    path = host.where.providers / "corp~keys"
    data = path.read_bytes()
    path.write_bytes(damaged := data[:-1] + bytes([data[-1] ^ 1]))
    with host.keyd() as keyd:
        assert keyd.unwrap([item]) == [dek]  # its servers give it
        (warning,) = (line for line in keyd.warnings() if "sealed" in line)
        assert warning.startswith("the sealed keys of the provider corp are of no use: bad MAC")
        assert "bad MAC" in keyd.status().providers[0].cache.reason
    assert path.read_bytes() == damaged


# The daemon and the commands


def secrets(host, content):
    """What opens the sealed keys, and one of them."""
    with seal.open_(content.provider, content.seal) as own:
        provider = KmipProvider(host.store.load("corp"), host.store)
        (kek,) = provider.get([content.keys[0].key_id])
        provider.close()
        return bytes(own.view()), bytes(kek.view())


@pytest.mark.root
def test_a_vm_opens_after_a_reboot_without_its_key_server(ioflt, server, authority, tmp_path):
    """The real daemon, confined, with systemd-creds."""
    where = paths.find().ensure()
    host = Rebooted(where, None, None)
    host.provider(authority, server.running.port)
    address = f"{HOST}:{server.running.port}"
    vm = tmp_path / "ds" / "web01"
    vm.mkdir(parents=True)
    (vm / "web01-flat.vmdk").write_bytes(b"plaintext" * 10_000)
    assert (
        "sealed to this machine by systemd-creds, for 30 days"
        in ioflt("provider", "cache", "corp", "--days", "30").stderr
    )
    ioflt("datastore", "init", tmp_path / "ds")
    ioflt("vm", "register", "--clear", vm)
    ioflt("vm", "encrypt", vm)
    shown = json.loads(ioflt("provider", "cache", "corp", "--json").stdout)
    assert (shown["days"], shown["by"], shown["reason"]) == (30, "systemd-creds", "")
    with KeyClient(start=False) as keys:
        keys.stop()  # in order: so it has written all
    path = where.providers / "corp~keys"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = file.parse(path.read_bytes())[0]
    own, kek = secrets(host, content)
    assert kek not in path.read_bytes()
    server.down()

    ioflt("check", tmp_path / "ds")
    (listed,) = (
        row
        for row in json.loads(ioflt("key", "list", tmp_path / "ds", "--json").stdout)
        if str(vm) in row["protects"]
    )
    assert listed["cached"]
    assert listed["expires"] == listed["sealed_until"] is not None
    assert f"{address}: Connection refused" in listed["reason"]
    assert listed["since"] is not None
    status = json.loads(ioflt("key", "status", listed["key"], "--json").stdout)
    assert (status["available"], status["from"], status["reason"]) == (
        True,
        "sealed",
        "KeyStateClusterUnreachable",
    )
    drilled = json.loads(ioflt("key", "drill", "--without", "corp", "--after-reboot", "--json").stdout)
    assert (drilled["locked"], drilled["go_on"]) == ([], 1)
    assert (drilled["datastores"]["locked"], drilled["datastores"]["go_on"]) == ([], 1)
    assert {"path": str(vm), "until": listed["sealed_until"]} in drilled["by_cache"]
    assert drilled["single_providers"] == [{"name": "corp", "locks": 1, "datastores": 1, "server": address}]
    table = ioflt("keyd", "status").stdout
    assert f"{listed['key']}" in table

    with KeyClient(start=False) as keys:
        pid = keys.status().pid
    ioflt("keyd", "lock")
    assert memory_holds(pid, kek, own) == [False, False]
    ioflt("keyd", "unlock")
    locked = json.loads(ioflt("vm", "show", vm, "--json").stdout)
    assert locked["problem"].startswith("its key cannot be had")
    (missing,) = locked["missing"]
    assert (missing["key"], missing["provider"]) == (listed["key"], "corp")
    assert f"{address}: Connection refused" in missing["reason"]
    assert missing["since"] is not None
    (disk,) = locked["files"]
    assert (
        disk["problem"] == f"The disk [{vm}/web01-flat.vmdk] is encrypted and a required key was not found."
    )
    drilled = json.loads(ioflt("key", "drill", "--without", "corp", "--json").stdout)
    assert drilled["locked"] == [str(vm)]
    assert drilled["datastores"]["locked"] == [str(tmp_path / "ds")]
    assert "corp" in ioflt("provider", "cache", "corp", "--off").stderr
    assert not (where.providers / "corp~keys").exists()


@pytest.mark.root
def test_an_erased_vm_leaves_no_sealed_key(ioflt, server, authority, tmp_path):
    where = paths.find().ensure()
    host = Rebooted(where, None, None)
    host.provider(authority, server.running.port)
    vm = tmp_path / "ds" / "web01"
    vm.mkdir(parents=True)
    (vm / "disk.img").write_bytes(b"plaintext" * 10_000)
    ioflt("provider", "cache", "corp", "--days", "30")
    ioflt("datastore", "init", tmp_path / "ds")
    ioflt("vm", "register", "--clear", vm)
    ioflt("vm", "encrypt", vm)
    ioflt("keyd", "stop")
    (key,) = json.loads(ioflt("vm", "show", vm, "--json").stdout)["keys"]
    assert key.removeprefix("corp:") in host.sealed()
    ioflt("vm", "erase", vm, "--yes")
    assert len(host.sealed()) == 1  # the datastore's own
    assert key.removeprefix("corp:") not in host.sealed()
