"""A sealed VMX, open: one buffer, put in the file's place whole or not at all."""

import errno
import os
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt import syscalls
from ioflt.datastore import atomic, files, openfile
from ioflt.datastore.standing import Treatment
from ioflt.datastore.vmx import VmxFile
from ioflt.errors import AuthenticationError, MalformedError, ProviderLocked, ReadOnlyError
from ioflt.format.vmx.sealed import MAX_PLAINTEXT
from ioflt.types import HomeState

TEXT = b'displayName = "web"\nmemsize = "256"\n'
numbers = count()


@pytest.fixture
def default():
    return HomeState.ENCRYPTED


@pytest.fixture
def home(volume):
    return volume.make_home("web01", 0o755)


@pytest.fixture
def open_vmx(home):
    """A function: the file `name` in the home, made when missing. All are closed at the end."""
    opened = []

    def open_(name="a.vmx", *, writable=True, place=True):
        if not os.access(f"{home.volume.path}/web01/{name}", os.F_OK):
            os.close(files.create(home, home.fd, name, mode=0o640))
        fd = files.open_regular(home.fd, name, os.O_RDWR if writable else os.O_RDONLY)
        where = (lambda: (home.fd, home.fd, name)) if place is True else place
        file = files.open_file(home, fd, Treatment.VMX, writable=writable, place=where, name=name)
        opened.append(file)
        return file

    yield open_
    for file in opened:
        file.close()


def content(open_vmx, name="a.vmx"):
    return bytes(open_vmx(name, writable=False).read(0, MAX_PLAINTEXT + 1))


def test_write_commit_read(open_vmx, home):
    file = open_vmx()
    assert file.settled
    file.write(0, TEXT)
    assert not file.settled
    assert content(open_vmx) == b""
    file.flush()
    assert file.settled
    assert content(open_vmx) == TEXT
    raw = (home.volume.path, "web01", "a.vmx")
    with open(os.path.join(*raw), "rb") as sealed:
        stored = sealed.read()
    assert b"memsize" not in stored
    assert b'displayName = "web"' in stored


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.integers(0, 300), st.binary(max_size=100)),
            st.tuples(st.just("truncate"), st.integers(0, 300)),
            st.tuples(st.sampled_from([0, 1, 3, 0x10, 0x11]), st.integers(0, 300), st.integers(1, 100)),
            st.tuples(st.sampled_from(["commit", "refresh", "rekey"])),
        ),
        max_size=12,
    )
)
def test_is_a_bytearray(model_home, steps):
    home, keys = model_home
    name = f"{next(numbers)}.vmx"
    fd = files.create(home, home.fd, name, mode=0o600)
    file = VmxFile(fd, keys, writable=True, place=lambda: (home.fd, home.fd, name))
    expected = bytearray()

    def extend(length):
        expected.extend(bytes(max(0, length - len(expected))))

    for action, *arguments in steps:
        if action == "write":
            offset, data = arguments
            file.write(offset, data)
            if data:
                extend(offset)
                expected[offset : offset + len(data)] = data
        elif action == "truncate":
            file.truncate(*arguments)
            extend(*arguments)
            del expected[arguments[0] :]
        elif isinstance(action, int):
            offset, length = arguments
            file.allocate(action, offset, length)
            if action in (openfile.ALLOCATE, openfile.ZERO_RANGE):
                extend(offset + length)
            if action not in (openfile.ALLOCATE, openfile.ALLOCATE_KEEP_SIZE):
                end = min(len(expected), offset + length)
                expected[offset:end] = bytes(max(0, end - offset))
        else:
            file.commit()
            assert file.settled
            if action == "refresh":
                file.refresh()
            elif action == "rekey":
                file.wipe()
                file.rekey(keys)
        assert file.length == len(expected)
        assert file.read(0, 1000) == expected
        assert file.read(7, 5) == expected[7:12]
    file.close()


@pytest.fixture(scope="module")
def model_home(tmp_path_factory):
    from ioflt.datastore.volume import Volume
    from ioflt.testing.local_keys import LocalKeys

    state, path = tmp_path_factory.mktemp("state"), tmp_path_factory.mktemp("datastore")
    with LocalKeys(state) as keys:
        Volume.init(path, HomeState.ENCRYPTED, keys)
        with Volume.open(path, keys) as volume:
            yield volume.make_home("vm", 0o755), keys


def test_one_mebibyte_and_no_more(open_vmx):
    file = open_vmx()
    file.write(MAX_PLAINTEXT - 1, b"x")
    for too_large in (
        lambda: file.write(MAX_PLAINTEXT, b"x"),
        lambda: file.write(MAX_PLAINTEXT - 1, b"xy"),
        lambda: file.truncate(MAX_PLAINTEXT + 1),
        lambda: file.truncate(2**62),
        lambda: file.allocate(openfile.ALLOCATE, MAX_PLAINTEXT, 1),
        lambda: file.allocate(openfile.ZERO_RANGE, 0, MAX_PLAINTEXT + 1),
    ):
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            too_large()
    assert file.length == MAX_PLAINTEXT
    file.commit()
    assert content(open_vmx) == bytes(MAX_PLAINTEXT - 1) + b"x"


def test_dirty_once(open_vmx, home):
    file = open_vmx()
    file.write(0, TEXT)
    file.flush()
    inode = os.stat("a.vmx", dir_fd=home.fd).st_ino
    file.flush()
    file.sync(data_only=False)
    file.write(5, b"")
    file.flush()
    assert os.stat("a.vmx", dir_fd=home.fd).st_ino == inode == os.fstat(file.fd).st_ino


def test_reader_never_writes(open_vmx, home, fingerprint):
    open_vmx().truncate(0)
    file = open_vmx(writable=False)
    before = fingerprint(home.volume.path)
    for change in (
        lambda: file.write(0, b"x"),
        lambda: file.truncate(0),
        lambda: file.allocate(openfile.PUNCH_HOLE, 0, 1),
        lambda: file.allocate(openfile.ZERO_RANGE_KEEP_SIZE, 0, 1),
        lambda: file.allocate(openfile.ALLOCATE_KEEP_SIZE, 0, 1),
    ):
        with pytest.raises(ReadOnlyError):
            change()
    file.flush()
    file.sync(data_only=False)
    assert fingerprint(home.volume.path) == before


def test_rename_while_open(open_vmx, home):
    place = ["a.vmx"]
    file = open_vmx(place=lambda: (home.fd, home.fd, place[0]))
    file.write(0, TEXT)
    os.rename("a.vmx", "b.vmx", src_dir_fd=home.fd, dst_dir_fd=home.fd)
    place[0] = "b.vmx"
    file.flush()
    assert "a.vmx" not in os.listdir(home.fd)
    assert content(open_vmx, "b.vmx") == TEXT


def test_unlinked_while_open(open_vmx, home):
    file = open_vmx(place=lambda: None)
    file.write(0, TEXT)
    os.unlink("a.vmx", dir_fd=home.fd)
    file.flush()
    file.sync(data_only=False)
    assert [name for name in os.listdir(home.fd) if not name.startswith(".ioflt")] == []
    assert file.read(0, 100) == TEXT


def test_keeps_mode_owner_file_id_and_the_time_of_the_write(open_vmx, home):
    file = open_vmx()
    ident = file.file_id
    if os.geteuid() == 0:
        os.chown(file.fd, 12345, 23456)
    before = os.fstat(file.fd)
    file.write(0, TEXT)
    written = file.mtime_ns
    assert written > before.st_mtime_ns
    file.commit()
    after = os.stat("a.vmx", dir_fd=home.fd)
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_mtime_ns == written
    assert open_vmx(writable=False).file_id == ident
    file.write(0, b"x")
    file.set_mtime(10**18)
    file.commit()
    assert os.stat("a.vmx", dir_fd=home.fd).st_mtime_ns == 10**18 == file.mtime_ns


def test_writers_lock_moves_with_the_file(open_vmx, home):
    file = open_vmx()
    assert syscalls.try_write_lock(file.fd)
    file.write(0, TEXT)
    file.commit()
    other = os.open("a.vmx", os.O_RDWR, dir_fd=home.fd)
    try:
        assert not syscalls.try_write_lock(other)
    finally:
        os.close(other)


class PowerCut(BaseException):
    """Not an error: the machine is off."""


CALLS = ("open", "pwrite", "fsync", "link", "rename", "fchmod", "fchown", "utime", "mkdir")


@pytest.mark.parametrize("tmpfile", [True, False], ids=["tmpfile", "named"])
@pytest.mark.parametrize("failure", [OSError(errno.EIO, "no"), PowerCut()], ids=["error", "power cut"])
def test_old_or_new_wherever_it_stops(open_vmx, home, monkeypatch, tmpfile, failure):
    monkeypatch.setattr(os, "O_TMPFILE", os.O_TMPFILE if tmpfile else os.O_DIRECTORY)
    file = open_vmx()
    file.write(0, TEXT)
    file.commit()
    stopped = 0
    for number in range(1, 100):
        calls = 0
        last = bytes(file.read(0, 1000))
        file.write(0, f"{number:04}".encode())
        wanted = bytes(file.read(0, 1000))

        def stopping(original, number=number):
            def call(*arguments, **named):
                nonlocal calls
                calls += 1
                if calls == number:
                    raise failure
                return original(*arguments, **named)

            return call

        with monkeypatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, stopping(getattr(os, name)))
            try:
                file.commit()
            except (OSError, PowerCut) as caught:
                assert caught is failure  # noqa: PT017
                stopped += 1
        assert content(open_vmx) in (last, wanted)
        file.commit()  # the next one succeeds
        assert content(open_vmx) == wanted
        if calls < number:
            break
    assert stopped >= 5
    if isinstance(failure, PowerCut):
        atomic.remove_drafts(home.fd)
    assert os.listdir(f"{home.volume.path}/web01/.ioflt.d") == []


def test_wiped_buffer_is_never_committed(open_vmx, keys):
    file = open_vmx()
    file.write(0, TEXT)
    file.commit()
    file.write(0, b"x")
    file.wipe()
    file.flush()
    file.rekey(keys)
    assert file.read(0, 100) == TEXT


def test_wiped_it_is_shut_until_it_has_its_key_again(open_vmx, keys):
    file = open_vmx()
    file.write(0, TEXT)
    file.commit()
    file.wipe()
    for action in (
        lambda: file.read(0, 10),
        lambda: file.write(0, b"x"),
        lambda: file.truncate(0),
        lambda: file.allocate(openfile.ZERO_RANGE, 0, 10),
    ):
        with pytest.raises(ProviderLocked):
            action()
    file.flush()
    file.rekey(keys)
    assert file.read(0, 100) == TEXT


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda raw: raw[:-20], (MalformedError, AuthenticationError)),
        (lambda raw: raw.replace(b"length=3", b"length=4"), AuthenticationError),
        (lambda raw: b"", MalformedError),
        (lambda raw: raw + b"#" * (MAX_PLAINTEXT * 2), MalformedError),
        (lambda raw: TEXT, MalformedError),
    ],
    ids=["cut", "other length", "empty", "huge", "clear"],
)
def test_spoilt_file_is_refused_and_left(open_vmx, home, spoil, error, fingerprint):
    file = open_vmx()
    file.write(0, TEXT)
    file.commit()
    path = os.path.join(home.volume.path, "web01", "a.vmx")
    with open(path, "rb") as stored:
        raw = stored.read()
    with open(path, "wb") as stored:
        stored.write(spoil(raw))
    before = fingerprint(home.volume.path)
    with pytest.raises(error) as caught:
        open_vmx()
    assert caught.value.file == "a.vmx"
    assert fingerprint(home.volume.path) == before
