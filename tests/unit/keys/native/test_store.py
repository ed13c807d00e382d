"""The directory of providers: make, back up, restore, and what a changed or foreign file does."""

import base64
import os
import signal
import stat
from pathlib import Path

import pytest

from ioflt.crypto.secret import Secret
from ioflt.errors import (
    ExistsError,
    KeyNotFound,
    KeyNotUsable,
    KeyUnavailableError,
    MalformedError,
    NotFoundError,
    ProviderLocked,
    ProviderUnavailable,
    UsageError,
)
from ioflt.format.pkcs12 import keystore
from ioflt.format.pkcs12.keystore import Entry, Rounds
from ioflt.keys import files
from ioflt.keys.cache import KeyCache
from ioflt.keys.native import credentials
from ioflt.keys.native.provider import NativeProvider
from ioflt.keys.native.slots import waits_for_secret
from ioflt.keys.native.store import NativeStore

GOLDEN = Path(__file__).parents[4] / "images" / "golden"
SECRET = Secret(b"correct horse")
BACKUP = Secret(b"battery staple")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A host whose systemd-creds does not work: key files. Its backups cost little."""
    monkeypatch.setattr(credentials, "works", lambda: False)
    monkeypatch.setattr(keystore, "ROUNDS", Rounds(10, 10))
    return NativeStore(tmp_path)


def killed_at(step, run):
    """Run it in a process that is killed at its `step`th change of the file system; whether it was."""
    pid = os.fork()
    if pid == 0:
        steps = 0

        def counted(call):
            def wrapper(*arguments, **named):
                nonlocal steps
                steps += 1
                if steps == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments, **named)

            return wrapper

        for name in ("open", "link", "rename", "unlink", "fsync"):
            setattr(os, name, counted(getattr(os, name)))
        run()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("tmpfile", [True, False], ids=["tmpfile", "named"])
def test_killed_anywhere_leaves_nothing_for_long(here, tmp_path, monkeypatch, tmpfile):
    monkeypatch.setattr(os, "O_TMPFILE", os.O_TMPFILE if tmpfile else os.O_DIRECTORY)
    step = 1
    while killed_at(step, lambda: here.create("p")):
        if "p" not in here.names():
            here.create("p")
        here.mark_backed_up("p")
        assert sorted(os.listdir(tmp_path)) == ["p.json", "p.key"]
        here.backup("p", BACKUP)
        for name in ("p.json", "p.key"):
            os.unlink(tmp_path / name)
        step += 1
    assert step > 8


def test_a_new_file_is_whole_or_not_there(tmp_path):
    out = tmp_path / "out"
    step = 1
    while killed_at(step, lambda: files.create(out, b"all of it")):
        assert os.listdir(tmp_path) in ([], ["out"])
        if out.exists():
            assert out.read_bytes() == b"all of it"
            out.unlink()
        step += 1
    assert step > 3


@pytest.fixture
def elsewhere(tmp_path_factory, here):
    """Another host."""
    return NativeStore(tmp_path_factory.mktemp("elsewhere"))


def opened(where, name):
    return NativeProvider(where.load(name), where.path(name), KeyCache(4))


def kek(where, name, key_id, passphrase=None):
    provider = opened(where, name)
    if passphrase is not None:
        provider.unlock(passphrase)
    (found,) = provider.get([key_id])
    if not isinstance(found, Secret):
        raise found
    return found


def test_a_new_provider_lies_in_private_files(here):
    here.create("local")
    assert here.names() == ["local"]
    for path in here.directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(os.listdir(here.directory)) == ["local.json", "local.key"]


def test_no_secret_is_in_the_file_of_a_passphrase(here):
    here.create("p", SECRET)
    provider = opened(here, "p")
    provider.unlock(SECRET)
    kdk = bytes(provider._kdk().view())
    whole = here.path("p").read_bytes()
    assert kdk not in whole
    assert bytes(SECRET.view()) not in whole
    assert os.listdir(here.directory) == ["p.json"]


def test_nothing_is_overwritten(here):
    here.create("local")
    before = here.path("local").read_bytes()
    with pytest.raises(ExistsError):
        here.create("local", SECRET)
    assert here.path("local").read_bytes() == before


@pytest.mark.parametrize("name", ["", "a/b", "..", ".x", "-x", "a" * 65, "ü", "a\n"])
def test_what_is_no_name(here, name):
    with pytest.raises(UsageError, match="not a provider name"):
        here.create(name)


def test_an_empty_passphrase(here):
    with pytest.raises(UsageError):
        here.create("p", Secret(b""))
    assert here.names() == []
    here.create("p")
    with pytest.raises(UsageError):
        here.backup("p", Secret(b""))


def test_a_missing_provider(here):
    with pytest.raises(NotFoundError):
        here.load("none")


def test_a_file_under_another_name_is_not_taken(here):
    here.create("a")
    here.path("a").rename(here.path("b"))
    with pytest.raises(NotFoundError, match="provider a"):
        here.load("b")


def test_a_backup_brings_the_keys_to_another_host(here, elsewhere):
    here.create("local")
    key_id = opened(here, "local").create()
    data = here.backup("local", BACKUP)
    restored = elsewhere.restore(data, BACKUP)
    assert restored.backed_up
    assert kek(elsewhere, "local", key_id) == kek(here, "local", key_id)


def test_the_warning_ends_when_the_backup_is_kept(here):
    here.create("local")
    here.backup("local", BACKUP)
    assert not here.load("local").backed_up
    here.mark_backed_up("local")
    assert here.load("local").backed_up


def test_a_provider_with_a_passphrase_stays_one(here, elsewhere):
    here.create("corp", SECRET)
    here.mark_backed_up("corp")
    with pytest.raises(ProviderLocked):
        here.backup("corp", BACKUP)
    with pytest.raises(KeyNotUsable):
        here.backup("corp", BACKUP, Secret(b"wrong"))
    assert all(map(waits_for_secret, here.load("corp").slots))
    data = here.backup("corp", BACKUP, SECRET)
    elsewhere.restore(data, BACKUP)
    assert all(map(waits_for_secret, elsewhere.load("corp").slots))
    provider = opened(here, "corp")
    provider.unlock(SECRET)
    key_id = provider.create()
    assert kek(elsewhere, "corp", key_id, BACKUP) == kek(here, "corp", key_id, SECRET)


def test_restore_again_changes_nothing(here):
    here.create("local")
    data = here.backup("local", BACKUP)
    before = {path: path.read_bytes() for path in here.directory.iterdir()}
    here.restore(data, BACKUP)
    assert {path: path.read_bytes() for path in here.directory.iterdir()} == before


def test_restore_repairs_a_provider_that_does_not_open(here):
    here.create("local")
    key_id = opened(here, "local").create()
    before = kek(here, "local", key_id)
    data = here.backup("local", BACKUP)
    (here.directory / "local.key").unlink()
    with pytest.raises(ProviderUnavailable):
        kek(here, "local", key_id)
    here.restore(data, BACKUP)
    assert kek(here, "local", key_id) == before


def test_restore_over_another_provider(here, elsewhere):
    here.create("local")
    elsewhere.create("local")
    before = elsewhere.path("local").read_bytes()
    with pytest.raises(ExistsError):
        elsewhere.restore(here.backup("local", BACKUP), BACKUP)
    assert elsewhere.path("local").read_bytes() == before


def test_restore_with_a_wrong_passphrase_or_a_changed_name(here, elsewhere):
    here.create("local")
    data = here.backup("local", BACKUP)
    with pytest.raises(KeyNotUsable, match="wrong passphrase"):
        elsewhere.restore(data, SECRET)
    assert b" host local" in data
    with pytest.raises(KeyNotUsable):
        elsewhere.restore(data.replace(b" host local", b" host other"), BACKUP)
    with pytest.raises(MalformedError):
        elsewhere.restore(data[:-10], BACKUP)
    assert elsewhere.names() == []


@pytest.mark.parametrize(
    "note", [None, "", "ioflt-provider/1", "ioflt-provider/1 x y host local", "a b c d e"]
)
def test_a_key_store_that_is_no_backup(here, note):
    data = keystore.seal(Entry("local", note, Secret(bytes(32))), BACKUP)
    with pytest.raises(MalformedError):
        here.restore(data, BACKUP)
    assert here.names() == []


def test_a_backup_of_the_first_version(here):
    """JSON, as images/golden/1 has it; a changed one is refused."""
    data = (GOLDEN / "1" / "provider.backup").read_bytes()
    passphrase = Secret(b"golden provider")
    with pytest.raises(KeyNotUsable, match="wrong passphrase"):
        here.restore(data, BACKUP)
    with pytest.raises(KeyNotUsable, match="was changed"):
        here.restore(data.replace(b'"local"', b'"other"'), passphrase)
    assert here.restore(data, passphrase).backed_up
    assert here.names() == ["local"]


def test_a_key_of_another_provider_is_not_found(here, elsewhere):
    here.create("local")
    elsewhere.create("local")
    with pytest.raises(KeyNotFound):
        kek(elsewhere, "local", opened(here, "local").create())


def spoil_mode(path):
    path.chmod(0o640)


def spoil_length(path):
    path.write_bytes(bytes(31))


def spoil_content(path):
    path.write_bytes(bytes(32))


def spoil_link(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def spoil_fifo(path):
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize("spoil", [spoil_mode, spoil_length, spoil_content, spoil_link, spoil_fifo])
def test_a_key_file_that_is_not_ours(here, spoil):
    here.create("local")
    key_id = opened(here, "local").create()
    spoil(here.directory / "local.key")
    with pytest.raises(KeyUnavailableError):
        kek(here, "local", key_id)
    assert opened(here, "local").status().state == "unavailable"


def test_a_slot_does_not_serve_another_provider(here):
    here.create("a")
    here.create("b")
    slot_a, slot_b = here.load("a").slots[0].blob, here.load("b").slots[0].blob
    (here.directory / "b.key").write_bytes((here.directory / "a.key").read_bytes())
    assert slot_a != slot_b
    whole = here.path("b").read_bytes()
    here.path("b").write_bytes(whole.replace(base64.b64encode(slot_b), base64.b64encode(slot_a)))
    assert opened(here, "b").status().state == "unavailable"


def test_the_default_provider(here):
    assert here.default() is None
    here.create("a")
    assert here.default() == "a"
    here.create("b")
    with pytest.raises(UsageError, match="name one of a, b"):
        here.default()
    here.choose("b", None)
    assert here.default() == here.chosen() == "b"
    here.create("local")
    assert here.default() == "b"
    with pytest.raises(NotFoundError):
        here.choose("none", "b")
    assert here.names() == ["a", "b", "local"]


def test_a_default_that_is_gone_is_said(here):
    here.create("a")
    here.choose("a", None)
    here.path("a").unlink()
    with pytest.raises(UsageError, match="the provider a, the default for new keys, is not here"):
        here.default()


def test_a_removed_provider_leaves_nothing(here):
    here.create("local")
    here.create("other")
    here.choose("local", None)
    whole = here.path("local").read_bytes()
    with open(here.path("local"), "rb") as still_open, open(here.directory / "local.key", "rb") as key:
        here.remove("local")
        assert still_open.read() == bytes(len(whole))
        assert key.read() == bytes(32)
    assert sorted(os.listdir(here.directory)) == ["other.json", "other.key"]
    assert here.default() == "other"
    with pytest.raises(NotFoundError):
        here.remove("local")
