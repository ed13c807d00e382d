"""Records of homes: believed only where and how they were made; without one a home takes no writes."""

import os
import shutil
from dataclasses import replace

import pytest

from ioflt.datastore import atomic, files, records
from ioflt.datastore.standing import Treatment
from ioflt.datastore.volume import Volume
from ioflt.errors import (
    BusyError,
    DeniedError,
    KeyUnavailableError,
    PeerError,
    ProviderLocked,
    ReadOnlyError,
)
from ioflt.format.record.record import Current, Operation
from ioflt.policy.bundled import DATASTORE_DEFAULT, VM_ENCRYPTION
from ioflt.types import HomeState

OPERATION = "5a1e8a5e-3c4b-4f1e-9d4e-0a4a5d9b1f00"


class Locked:
    """A key service that waits for its passphrase, whatever it is asked."""

    def __getattr__(self, name):
        def refuse(*arguments, **named):
            raise ProviderLocked("waits for its passphrase")

        return refuse


@pytest.fixture
def home(volume):
    made = volume.make_home("web01", 0o755)
    os.close(files.create(made, made.fd, "disk", mode=0o600))
    return made


def record_path(volume, name="web01"):
    return os.path.join(volume.path, name, ".ioflt")


def refused(home, words):
    """The home takes no writes, for that reason, and is stored as the datastore's default says."""
    standing = home.standing()
    assert standing.problem is not None
    assert words in standing.problem
    assert standing.state is home.volume.record.default
    with pytest.raises(ReadOnlyError, match=words):
        home.check_writable()
    with pytest.raises(ReadOnlyError):
        files.create(home, home.fd, "new", mode=0o600)
    assert "new" not in os.listdir(home.fd)


def test_new_home_is_as_the_datastore_says(home, default):
    standing = home.check_writable()
    assert standing.state is default
    assert standing.record.names == (("web01",) if default is HomeState.CLEAR else ())
    encrypted = default is HomeState.ENCRYPTED
    assert (standing.key != home.volume.record.key) is encrypted
    assert home.treatment("disk") is (Treatment.CONTAINER if encrypted else Treatment.CLEAR)
    assert home.treatment("sub/a.VMX") is (Treatment.VMX if encrypted else Treatment.CLEAR)


class Names:
    """Remembers which files were synced, and looks at each that gets a name whether it was."""

    def __init__(self, patch):
        self.synced = set()
        self.published = []
        self._sync, self._write, self._link = os.fsync, os.pwrite, os.link
        patch.setattr(os, "fsync", self.sync)
        patch.setattr(os, "fdatasync", self.sync)
        patch.setattr(os, "pwrite", self.write)
        patch.setattr(os, "link", self.link)

    def sync(self, fd):
        self._sync(fd)
        self.synced.add(os.fstat(fd).st_ino)

    def write(self, fd, data, offset):
        self.synced.discard(os.fstat(fd).st_ino)
        return self._write(fd, data, offset)

    def link(self, source, name, **named):
        self.published.append((name, os.stat(source).st_ino in self.synced))
        return self._link(source, name, **named)


def test_a_name_leads_to_what_is_durable(home, default, monkeypatch):
    """A power cut leaves no encrypted file without its header: there would be nothing to open it by."""
    names = Names(monkeypatch)
    for name in ("new", "new.vmx"):
        os.close(files.create(home, home.fd, name, mode=0o600))
    encrypted = default is HomeState.ENCRYPTED
    assert names.published == [("new", encrypted), ("new.vmx", encrypted)]


def test_record_removed(home):
    home.standing()
    os.unlink(record_path(home.volume))
    refused(home, "no record")
    assert not os.path.exists(record_path(home.volume))


def test_record_missing_in_an_empty_home_is_made_anew(volume, default):
    os.mkdir(os.path.join(volume.path, "empty"))
    assert volume.home("empty").check_writable().state is default
    assert os.path.exists(record_path(volume, "empty"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: b"",
        lambda raw: raw[:-5],
        lambda raw: raw + b"\n",
        lambda raw: raw.replace(b"home", b"hole", 1),
        lambda raw: raw.replace(b'"thick":false', b'"thick":true'),
        lambda raw: raw[:-10] + bytes([raw[-10] ^ 1]) + raw[-9:],
        lambda raw: b"x" * (3 << 20),
    ],
    ids=["empty", "cut", "longer", "other word", "thick", "other MAC", "huge"],
)
def test_record_changed(home, spoil):
    home.standing()
    path = record_path(home.volume)
    with open(path, "rb") as file:
        raw = file.read()
    changed = spoil(raw)
    assert changed != raw
    with open(path, "wb") as file:
        file.write(changed)
    refused(home, "record")
    with open(path, "rb") as file:
        assert file.read() == changed


@pytest.mark.parametrize("plant", ["symlink", "directory", "fifo"])
def test_record_is_no_file(home, plant, tmp_path):
    path = record_path(home.volume)
    os.rename(path, tmp_path / "record")
    if plant == "symlink":
        os.symlink(tmp_path / "record", path)
    elif plant == "directory":
        os.mkdir(path)
    else:
        os.mkfifo(path)
    refused(home, "unusable")


def test_record_that_cannot_be_read_is_an_error_of_the_file_system(home, monkeypatch):
    home.store(home.standing().record)  # what was known of it is forgotten
    original = os.open

    def denied(path, *arguments, **named):
        if path == ".ioflt":
            raise PermissionError(13, "Permission denied")
        return original(path, *arguments, **named)

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(PermissionError):
        home.standing()


def test_clear_record_of_another_home_is_refused(volume, home):
    """A valid clear record must not make an encrypted home's new files clear."""
    other = volume.make_home("other", 0o755)
    other.store(volume.fresh_record("other", DATASTORE_DEFAULT))
    assert other.standing().state is HomeState.CLEAR
    shutil.copyfile(record_path(volume, "other"), record_path(volume))
    refused(home, "record of another home")


def test_record_of_a_home_of_another_datastore_is_refused(home, keys, tmp_path):
    """Even of one with the same keys and names."""
    Volume.init(tmp_path / "second", HomeState.CLEAR, keys)
    with Volume.open(tmp_path / "second", keys) as second:
        second.make_home("web01", 0o755)
        shutil.copyfile(record_path(second), record_path(home.volume))
    refused(home, "another datastore")


def test_clear_home_moved_behind_the_mount_is_refused(volume, keys):
    home = volume.make_home("a", 0o755)
    home.store(volume.fresh_record("a", DATASTORE_DEFAULT))
    os.close(files.create(home, home.fd, "disk", mode=0o600))
    os.rename(os.path.join(volume.path, "a"), os.path.join(volume.path, "b"))
    same = volume.home("b")
    assert same is home
    refused(same, "record of another home")


def test_locked_keys(home, directory, keys, default):
    with Volume.open(directory, keys) as volume:
        volume.keys = Locked()
        locked = volume.home("web01")
        with pytest.raises(KeyUnavailableError):
            locked.standing()
        with pytest.raises(KeyUnavailableError):
            locked.check_writable()
        shown = locked.unverified()
        assert shown.state is default
        assert shown.problem is not None
        with pytest.raises(KeyUnavailableError):
            volume.make_home("new", 0o755)
        assert not os.path.exists(os.path.join(volume.path, "new"))
        volume.keys = keys
        assert locked.check_writable().problem is None


class Failing:
    """A key service that fails with `error`, and counts how often it was asked."""

    def __init__(self, error):
        self.error = error
        self.asked = 0

    def check_record(self, *arguments):
        self.asked += 1
        raise self.error


@pytest.mark.parametrize("kind", [ProviderLocked, PeerError, DeniedError])
def test_whatever_keeps_keyd_from_it_the_home_is_seen(home, directory, keys, default, kind):
    with Volume.open(directory, keys) as volume:
        failing = volume.keys = Failing(kind("not now"))
        seen = volume.home("web01")
        assert seen.known() is None
        shown = seen.unverified()
        whose = "its" if default is HomeState.ENCRYPTED else "its datastore's"
        assert (shown.state, shown.problem) == (default, f"{whose} key cannot be had: not now")
        for _ in range(10):  # it is not asked for at each lookup
            assert seen.unverified() is seen.known() is shown
        assert failing.asked == 1
        with pytest.raises(kind):  # who has to know asks
            seen.standing()
        volume.keys = keys
        assert seen.standing() is seen.known() is seen.unverified()


def test_a_record_that_changed_is_asked_for_at_once(home, directory, keys):
    with Volume.open(directory, keys) as volume:
        failing = volume.keys = Failing(ProviderLocked("waits for its passphrase"))
        seen = volume.home("web01")
        seen.unverified()
        os.utime(record_path(volume))
        assert seen.known() is None
        seen.unverified()
        assert failing.asked == 2


def test_a_standing_goes_with_the_record_it_was_judged_by(home, default):
    """Threads that judge at once: the later answer must not be taken for one to the earlier record."""
    slow = home.standing()
    os.utime(record_path(home.volume))
    judge = home._judge

    def while_another_thread_is_faster(known):
        os.utime(record_path(home.volume), ns=(0, 0))
        home._judge = judge
        home.standing()
        return slow, known

    home._judge = while_another_thread_is_faster
    home.standing()
    assert home.known() is None
    assert home.standing() is not slow


def test_locked_keys_and_spoilt_record(home, directory, keys):
    with Volume.open(directory, keys) as volume:
        volume.keys = Locked()
        with open(record_path(volume), "wb") as file:
            file.write(b"nonsense")
        assert volume.home("web01").unverified().problem is not None


def test_locked_keys_open_no_file(home, keys, default):
    if default is HomeState.CLEAR:
        return
    home.volume.keys = Locked()
    fd = files.open_regular(home.fd, "disk", os.O_RDWR)
    with pytest.raises(ProviderLocked) as caught:
        files.open_file(home, fd, Treatment.CONTAINER, writable=True, place=lambda: None, name="disk")
    assert caught.value.file == "disk"
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


# Renames of clear homes


class PowerCut(BaseException):
    """Not an error: the machine is off."""


def test_rename_of_a_clear_home_stopped_anywhere(volume, keys, monkeypatch):
    """Whatever it was called last, its record is good."""
    for number in range(1, 40):
        old, new = f"old{number}", f"new{number}"
        home = volume.make_home(old, 0o755)
        home.store(volume.fresh_record(old, DATASTORE_DEFAULT))
        os.close(files.create(home, home.fd, "disk", mode=0o600))
        calls = 0

        def stopping(original, number=number):
            def call(*arguments, **named):
                nonlocal calls
                calls += 1
                if calls == number:
                    raise PowerCut
                return original(*arguments, **named)

            return call

        with monkeypatch.context() as patch:
            for name in ("open", "pwrite", "link", "rename", "fsync", "fchmod"):
                patch.setattr(os, name, stopping(getattr(os, name)))
            try:
                home.before_rename(new)
                os.rename(old, new, src_dir_fd=volume.fd, dst_dir_fd=volume.fd)
                home.after_rename(new)
            except PowerCut:
                pass
        name = new if os.path.exists(os.path.join(volume.path, new)) else old
        with Volume.open(volume.path, keys) as later:
            standing = later.home(name).check_writable()
            assert standing.state is HomeState.CLEAR
            assert name in standing.record.names
        if calls < number:
            assert standing.record.names == (new,)
            assert number > 8
            return
    raise AssertionError("never done")


def test_rename_of_an_encrypted_home_writes_nothing(volume, fingerprint):
    home = volume.make_home("a", 0o755)
    home.store(volume.fresh_record("a", VM_ENCRYPTION))
    before = fingerprint(os.path.join(volume.path, "a"))
    home.before_rename("b")
    home.after_rename("b")
    assert fingerprint(os.path.join(volume.path, "a")) == before


# Operations


def interrupted(home, kind, current=None):
    record = home.volume.fresh_record("web01", VM_ENCRYPTION)
    operation = Operation(kind, OPERATION, False, ("pending", "p.vmx"), current)
    home.store(replace(record, operation=operation))


@pytest.mark.parametrize("kind", ["encrypt", "decrypt"])
def test_half_converted_home_takes_no_writes(home, kind):
    interrupted(home, kind)
    home.volume.authorise(OPERATION)
    with pytest.raises(ReadOnlyError, match="interrupted"):
        home.check_writable()
    clear, container, vmx = Treatment.CLEAR, Treatment.CONTAINER, Treatment.VMX
    if kind == "encrypt":
        assert [home.treatment(name) for name in ("pending", "p.vmx", "done", "d.vmx")] == [
            clear,
            clear,
            container,
            vmx,
        ]
    else:
        assert [home.treatment(name) for name in ("pending", "p.vmx", "done", "d.vmx")] == [
            container,
            vmx,
            clear,
            clear,
        ]


def test_decryption_that_this_host_never_started(home):
    interrupted(home, "decrypt")
    assert "never started" in home.standing().problem
    home.volume.authorise(OPERATION)
    home.store(home.standing().record)
    assert "resumes" in home.standing().problem
    home.volume.end_authorisation(OPERATION)
    home.volume.end_authorisation(OPERATION)
    home.store(home.standing().record)
    assert "never started" in home.standing().problem


def test_file_under_conversion_is_known_by_its_uuid(volume, default):
    home = volume.make_home("web01", 0o755)
    home.store(volume.fresh_record("web01", VM_ENCRYPTION))
    fd = files.create(home, home.fd, "disk", mode=0o600)
    ours = files.open_file(home, os.dup(fd), Treatment.CONTAINER, writable=True, place=lambda: None)
    for uuid, treatment in ((ours.uuid, Treatment.CONTAINER), (OPERATION, Treatment.CLEAR)):
        interrupted(home, "encrypt", Current("disk", uuid))
        assert home.treatment("disk", fd) is treatment
    ours.close()
    os.close(fd)


# In use


def test_exclusive_means_nobody_has_a_file_open(home, directory, keys):
    with Volume.open(directory, keys) as other:
        there = other.home("web01")
        home.enter()
        home.enter()
        home.leave()
        with pytest.raises(BusyError), there.exclusive():
            raise AssertionError
        home.leave()
        with there.exclusive():
            with pytest.raises(BusyError):
                home.enter()
            with pytest.raises(BusyError), home.exclusive():
                raise AssertionError
        home.enter()
        home.leave()


# Drafts


def test_drafts_of_a_dead_process_go_and_others_stay(home):
    atomic.make_private_dir(home.fd)
    for name in ("new-1", "new-2", "kept"):
        with open(os.path.join(home.volume.path, "web01", ".ioflt.d", name), "wb"):
            pass
    with atomic.Draft(home.fd) as draft:
        os.link(f"/proc/self/fd/{draft.fd}", ".ioflt.d/new-3", dst_dir_fd=home.fd, follow_symlinks=True)
        atomic.remove_drafts(home.fd)
        assert sorted(os.listdir(os.path.join(home.volume.path, "web01", ".ioflt.d"))) == ["kept", "new-3"]


def test_stamp_changes_with_each_replacement(home):
    record = home.standing().record
    stamps = {records.stamp(home.fd)}
    for count in range(2, 5):
        home.store(record)
        stamps.add(records.stamp(home.fd))
        assert len(stamps) == count
