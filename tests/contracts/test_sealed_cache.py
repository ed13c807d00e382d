"""Keys sealed to a host, against what they are sealed to: a TPM, systemd-creds; and on another host."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, PeerError, ProviderUnavailable, StorageError
from ioflt.keys import files
from ioflt.keys.cache import KeyCache
from ioflt.keys.directory import ProviderDirectory
from ioflt.keys.native import credentials, tpm
from ioflt.keys.sealed import cache as sealed_cache
from ioflt.keys.sealed import file, seal
from ioflt.keys.sealed.cache import DAY, SAVE_TIME_S, SealedCache
from ioflt.keys.sealed.file import MAX_KEYS
from tests.key_peers import Tpm
from tests.unit.keys.sealed.test_clock import Host

UUID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
OTHER = UUID.replace("0", "1")
NOW = 1_800_000_000

needs_tpm = pytest.mark.interop("swtpm")


@pytest.fixture(scope="module")
def the_tpm(tmp_path_factory):
    """One for all tests of the module, in a directory with a short path."""
    place = Path(tempfile.mkdtemp(prefix=""))
    found = Tpm(place)
    with found.running():
        yield found
    shutil.rmtree(place)


@pytest.fixture
def host():
    return Host(wall=NOW)


@pytest.fixture
def directory(tmp_path):
    return ProviderDirectory(tmp_path)


@pytest.fixture
def make(directory, host, the_tpm):
    """A cache as a keyd has it that was started now."""

    def made(uuid=UUID):
        return SealedCache(
            directory, "corp", uuid, host.clock(), KeyCache(4), lambda _, key: seal.to_tpm(the_tpm.tcti, key)
        )

    return made


def kek(number):
    return Secret(bytes([number]) * 32)


def filled(cache, *names, days=7):
    cache.start(days)
    for number, name in enumerate(names):
        cache.put(name, kek(number), NOW)
    cache.save()
    return cache


def content(directory):
    return file.parse(directory.sealed_keys("corp").read_bytes())[0]


@needs_tpm
class TestKeys:
    def test_off_it_does_nothing(self, make, directory):
        cache = make()
        cache.put("a", kek(1), NOW)
        cache.save()
        cache.drop(["a"])
        cache.empty()
        cache.stop()
        assert (cache.ready(), cache.get("a"), cache.expires("a"), cache.status()) == (
            False,
            None,
            None,
            None,
        )
        assert list(directory.directory.iterdir()) == []

    def test_they_outlast_the_process(self, make, directory):
        filled(make(), "a", "b")
        path = directory.sealed_keys("corp")
        assert path.stat().st_mode & 0o777 == 0o600
        assert bytes(kek(1).view()) not in path.read_bytes()
        cache = make()
        assert cache.get("a") == (kek(0), NOW, NOW + 7 * DAY)
        assert cache.get("b") == (kek(1), NOW, NOW + 7 * DAY)
        assert cache.get("c") is None
        status = cache.status()
        assert (status.days, status.by, status.keys, status.reason) == (7, "tpm2", 2, "")

    def test_what_was_not_saved_does_not(self, make):
        cache = filled(make(), "a")
        cache.put("b", kek(2), NOW)
        assert make().get("b") is None

    def test_ten_thousand_are_one_write(self, make, directory, monkeypatch):
        writes = []
        supersede = files.supersede
        monkeypatch.setattr(files, "supersede", lambda *a: (writes.append(a), supersede(*a)))
        cache = make()
        cache.start(7)
        for number in range(10_000):
            cache.put(str(number), kek(1), NOW)
        cache.save()
        cache.save()
        assert len(writes) == 1
        assert make().status().keys == 10_000

    def test_the_one_put_first_gives_way(self, make):
        cache = make()
        cache.start(7)
        for number in range(MAX_KEYS):
            cache.put(str(number), kek(1), NOW)
        cache.put("0", kek(2), NOW)  # anew, so not the first any more
        cache.put("more", kek(3), NOW)
        cache.save()
        again = make()
        assert again.get("1") is None
        assert [again.get(name)[0] for name in ("0", "2", "more")] == [kek(2), kek(1), kek(3)]

    @pytest.mark.parametrize("name", ["é" * 513, ""])
    def test_an_id_that_is_no_ones(self, make, name):
        cache = filled(make(), "a")
        cache.put(name, kek(1), NOW)
        cache.save()
        assert make().status().keys == 1

    def test_a_dropped_one_is_off_the_disk(self, make, directory):
        cache = filled(make(), "a", "b")
        with directory.sealed_keys("corp").open("rb") as before:
            cache.drop(["a", "never there"])
            assert set(before.read()) == {0}  # overwritten
        assert [key.key_id for key in content(directory).keys] == ["b"]
        assert [path.name for path in directory.directory.iterdir()] == ["corp~keys"]
        assert (cache.get("a"), make().get("a")) == (None, None)

    def test_a_write_that_fails_is_tried_again(self, make, monkeypatch, caplog, directory):
        cache = filled(make(), "a")
        before = directory.sealed_keys("corp").read_bytes()

        def fails(*_arguments):
            raise StorageError("cannot write", 28)

        with monkeypatch.context() as patched:
            patched.setattr(files, "supersede", fails)
            cache.put("b", kek(2), NOW)
            cache.save()
            cache.save()
            assert len(caplog.records) == 1  # told once
            assert "No space left" in cache.status().reason
            with pytest.raises(StorageError):
                cache.drop(["a"])
        caplog.clear()
        assert directory.sealed_keys("corp").read_bytes() == before
        cache.save()
        assert cache.status().reason == ""
        assert [key.key_id for key in content(directory).keys] == ["b"]

    def test_off_again(self, make, directory):
        cache = filled(make(), "a")
        with directory.sealed_keys("corp").open("rb") as before:
            cache.stop()
            assert set(before.read()) == {0}
        assert list(directory.directory.iterdir()) == []
        cache.put("a", kek(1), NOW)
        cache.save()
        assert (cache.get("a"), cache.status()) == (None, None)

    def test_a_file_that_was_removed_does_not_come_back(self, make, directory):
        """`ioflt provider remove` is another process."""
        cache = filled(make(), "a")
        directory.sealed_keys("corp").unlink()
        cache.put("b", kek(2), NOW)
        cache.save()
        assert list(directory.directory.iterdir()) == []
        assert cache.get("b") is None

    def test_emptied_it_has_another_key_of_its_own(self, make, directory):
        cache = filled(make(), "a")
        old = content(directory)
        with directory.sealed_keys("corp").open("rb") as before:
            cache.empty()
            assert set(before.read()) == {0}
        new = content(directory)
        assert (new.keys, new.days) == ((), 7)
        assert new.seal != old.seal
        assert cache.get("a") is None
        cache.put("b", kek(1), NOW)
        cache.save()
        assert make().get("b")[0] == kek(1)


@needs_tpm
class TestTime:
    def test_they_expire(self, make, host, directory):
        cache = filled(make(), "a")
        host.passes(7 * DAY - 1)
        assert make().get("a") is not None
        host.passes(1)
        assert (cache.get("a"), cache.expires("a"), make().get("a")) == (None, None, None)
        assert cache.status().keys == 0
        cache.save()
        assert content(directory).keys == ()

    def test_given_again_they_live_on(self, make, host):
        cache = filled(make(), "a", "b")
        host.passes(DAY - 1)
        assert cache.due() == []
        host.passes(1)
        assert cache.due() == ["a", "b"]
        cache.put("a", kek(0), NOW + DAY)
        assert cache.due() == ["b"]
        host.passes(6 * DAY)
        assert (cache.get("b"), cache.get("a")[2]) == (None, NOW + 8 * DAY)

    def test_a_day_is_asked_for_in_quarters(self, make, host):
        cache = filled(make(), "a", days=1)
        host.passes(DAY // 4)
        assert cache.due() == ["a"]

    def test_a_clock_that_is_set_back_revives_nothing(self, make, host, directory):
        filled(make(), "a")
        host.passes(7 * DAY)
        seeing = make()  # some keyd has seen the end
        assert seeing.due() == []
        seeing.save()
        host.wall = NOW - DAY
        cache = make()
        assert cache.get("a") is None
        cache.start(365)
        assert cache.get("a") is None
        assert content(directory).keys == ()

    def test_a_clock_that_is_set_back_after_a_restart_goes_on_from_what_was_seen(self, make, host):
        cache = filled(make(), "a")
        host.passes(6 * DAY)
        cache.save()
        host.wall = 0
        cache = make()
        assert cache.get("a") is not None
        host.passes(DAY)
        assert cache.get("a") is None

    def test_the_time_is_written_once_an_hour(self, make, host, directory):
        cache = filled(make(), "a")
        host.passes(SAVE_TIME_S - 1)
        cache.save()
        assert content(directory).seen == NOW
        host.passes(1)
        cache.save()
        assert content(directory).seen == NOW + SAVE_TIME_S

    def test_another_number_of_days(self, make, host):
        cache = filled(make(), "a")
        cache.start(30)
        assert cache.expires("a") == NOW + 30 * DAY
        host.passes(2 * DAY)
        cache.start(2)
        assert (cache.get("a"), make().status().days) == (None, 2)


@needs_tpm
class TestWhatDoesNotOpen:
    """It is told of once, and left as it is."""

    def check(self, cache, directory, says, caplog):
        before = directory.sealed_keys("corp").read_bytes()
        for _ in range(2):
            assert cache.get("a") is None
            cache.put("b", kek(1), NOW)
            cache.save()
            cache.drop(["a"])
        assert says in cache.status().reason
        (record,) = caplog.records
        assert says in record.getMessage()
        assert directory.sealed_keys("corp").read_bytes() == before
        caplog.clear()

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda data: b"", "bad magic"),
            (lambda data: data[:-1], "bad encoding"),
            (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "bad MAC"),
            (lambda data: data.replace(b"\xa4days\x07", b"\xa4days\x08"), "bad MAC"),
            (lambda data: data.replace(b"\xa1a", b"\xa1c"), "bad MAC"),
            (lambda data: data.replace(b"cache 1", b"cache 2", 1), "unknown version"),
            (lambda data: data.replace(UUID.encode(), OTHER.encode()), "of another provider"),
        ],
        ids=["empty", "short", "MAC", "days", "id", "version", "provider"],
    )
    def test_damage(self, make, directory, change, says, caplog):
        filled(make(), "a")
        path = directory.sealed_keys("corp")
        path.write_bytes(change(path.read_bytes()))
        self.check(make(), directory, says, caplog)

    def test_another_provider_of_that_name(self, make, directory, caplog):
        filled(make(), "a")
        self.check(make(OTHER), directory, "of another provider", caplog)

    def test_a_new_one_takes_its_place_when_that_is_asked_for(self, make, directory, caplog):
        filled(make(), "a")
        cache = make(OTHER)
        assert cache.get("a") is None
        filled(cache, "b")
        assert make(OTHER).get("b")[0] == kek(0)
        caplog.clear()

    @pytest.mark.parametrize("damaged", [False, True])
    def test_a_lock_destroys_it(self, make, directory, caplog, damaged):
        filled(make(), "a")
        path = directory.sealed_keys("corp")
        path.write_bytes(path.read_bytes()[:-32] + (b"" if damaged else bytes(32)))
        with path.open("rb") as before:
            make().empty()
            assert set(before.read()) == {0}
        if damaged:  # nobody knows for how many days
            assert not path.exists()
            assert "are sealed no more" in caplog.text
            caplog.clear()
        else:
            assert content(directory).days == 7
            assert make().status().reason == ""


@needs_tpm
def test_another_hosts_tpm(directory, host, short_tmp, caplog):
    """Who has the disk has the file, but not what it is sealed to."""
    mine = Tpm(short_tmp)

    def made():
        return SealedCache(
            directory, "corp", UUID, host.clock(), KeyCache(4), lambda _, key: seal.to_tpm(mine.tcti, key)
        )

    with mine.running():
        filled(made(), "a")
    before = directory.sealed_keys("corp").read_bytes()
    assert made().get("a") is None  # it is not there now
    assert "the TPM at" in caplog.text
    caplog.clear()
    with mine.running():  # after a reboot
        assert made().get("a")[0] == kek(0)
        mine.extend(7)  # booted by something else
        assert made().get("a") is None
        assert "the machine's state (PCRs) is not that of the seal" in made().status().reason
        caplog.clear()
    with mine.running():
        assert made().get("a")[0] == kek(0)
    for state in short_tmp.glob("tpm2-*"):
        state.unlink()
    with mine.running():  # another one at its place
        assert made().get("a") is None
        assert "this TPM does not open the seal" in made().status().reason
    assert directory.sealed_keys("corp").read_bytes() == before
    caplog.clear()


@needs_tpm
def test_a_tpm_that_comes_back_is_tried_again(directory, host, short_tmp, monkeypatch, caplog):
    mine = Tpm(short_tmp)
    cache = SealedCache(
        directory, "corp", UUID, host.clock(), KeyCache(4), lambda _, key: seal.to_tpm(mine.tcti, key)
    )
    with mine.running():
        filled(cache, "a")
    cache.close()
    assert cache.get("a") is None
    with mine.running():
        assert cache.get("a") is None  # not at once
        monkeypatch.setattr(sealed_cache.time, "monotonic", lambda: 1e12)
        assert cache.get("a")[0] == kek(0)
    assert cache.status().reason == ""
    caplog.clear()


FOREIGN = """
import sys
from ioflt.errors import AuthenticationError
from ioflt.keys.cache import KeyCache
from ioflt.keys.directory import ProviderDirectory
from ioflt.keys.sealed.cache import SealedCache
from ioflt.keys.sealed.clock import LatestTime
from pathlib import Path

cache = SealedCache(ProviderDirectory(Path(sys.argv[1])), "corp", sys.argv[2], LatestTime(), KeyCache(4))
print(cache.get("a") is not None, cache.status().by, cache.status().reason)
"""


@pytest.mark.root
class TestSystemdCreds:
    @pytest.fixture(autouse=True)
    def _host_without_tpm(self, monkeypatch):
        assert credentials.works()
        monkeypatch.setattr(tpm, "DEVICE", "device:/dev/tpm-that-is-not-there")

    def test_this_host_and_another(self, directory, host, tmp_path):
        """The other one has a host key of its own: as root of it, with all that is on the disk."""
        cache = SealedCache(directory, "corp", UUID, host.clock(), KeyCache(4))
        filled(cache, "a", days=365)
        assert cache.status().by == "systemd-creds"
        before = directory.sealed_keys("corp").read_bytes()

        def opens(*wrapped):
            done = subprocess.run(
                [*wrapped, sys.executable, "-c", FOREIGN, directory.directory, UUID],
                capture_output=True,
                text=True,
                check=True,
                env=os.environ | {"PYTHONPATH": os.getcwd()},
            )
            return done.stdout.strip()

        assert opens() == "True systemd-creds"
        secret = "/var/lib/systemd/credential.secret"
        fresh = tmp_path / "var"
        fresh.mkdir()
        script = f'mount --bind {fresh} /var/lib/systemd && test ! -e {secret} && exec "$@"'
        other = ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh")
        assert opens(*other).startswith("False systemd-creds the credential does not open on this host")
        subprocess.run([*other, "systemd-creds", "setup"], check=True, capture_output=True)
        assert (fresh / "credential.secret").exists()
        script = f'mount --bind {fresh} /var/lib/systemd && test -e {secret} && exec "$@"'
        other = ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh")
        assert opens(*other).startswith("False systemd-creds the credential does not open on this host")
        assert directory.sealed_keys("corp").read_bytes() == before

    def test_another_providers_credential(self):
        with Secret.random(32) as key:
            made = seal.to_systemd(UUID, key)
            assert seal.open_(UUID, made) == key
            with pytest.raises(AuthenticationError):
                seal.open_(OTHER, made)

    def test_a_host_that_seals_nothing_is_refused(self, directory, host, monkeypatch):
        def fails(*_arguments):
            raise ProviderUnavailable("No such file or directory")

        monkeypatch.setattr(credentials, "seal", fails)
        cache = SealedCache(directory, "corp", UUID, host.clock(), KeyCache(4))
        with pytest.raises(PeerError) as caught:
            cache.start(7)
        assert str(caught.value) == (
            "nothing here seals keys to this host (TPM 2.0: this machine has none; systemd-creds:"
            " No such file or directory)"
        )
        assert list(directory.directory.iterdir()) == []
