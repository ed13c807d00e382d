"""Small secret files: whole or not there, on every file system that a backup may be kept on."""

import errno
import os
import resource

import pytest

from ioflt import syscalls
from ioflt.errors import ExistsError, StorageError
from ioflt.keys import files

LIMIT = 1000


def in_a_child(call):
    """Whether `call`, in a process whose files may have LIMIT bytes only, raises StorageError."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
            call()
        except StorageError:
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_half_a_file_does_not_replace_a_whole_one(tmp_path):
    path = tmp_path / "local.json"
    path.write_bytes(b"old")
    assert in_a_child(lambda: files.replace(path, bytes(2 * LIMIT)))
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"old"]


def test_half_a_file_is_not_created(tmp_path):
    assert in_a_child(lambda: files.create(tmp_path / "local.json", bytes(2 * LIMIT)))
    assert list(tmp_path.iterdir()) == []


def refusing(number):
    def refuse(*_arguments, **_keywords):
        raise OSError(number, os.strerror(number))

    return refuse


def without_tmpfile(original):
    """Neither of these file systems has files without a name."""

    def call(path, flags, *arguments, **keywords):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return original(path, flags, *arguments, **keywords)

    return call


@pytest.mark.parametrize(
    "without",
    [
        (os, "link", errno.EPERM),  # FAT, as on a stick for backups
        (syscalls, "renameat2", errno.EINVAL),  # file systems in user space
    ],
    ids=["link", "renameat2"],
)
def test_a_new_file_where_the_file_system_lacks_a_call(tmp_path, monkeypatch, without):
    module, name, number = without
    monkeypatch.setattr(module, name, refusing(number))
    monkeypatch.setattr(os, "open", without_tmpfile(os.open))
    path = tmp_path / "backup"
    files.create(path, b"new")
    with pytest.raises(ExistsError):
        files.create(path, b"other")
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"new"]


@pytest.mark.parametrize("exchanges", [True, False])
def test_what_is_superseded_is_overwritten(tmp_path, monkeypatch, exchanges):
    if not exchanges:  # file systems in user space
        monkeypatch.setattr(syscalls, "renameat2", refusing(errno.EINVAL))
    path = tmp_path / "keys"
    files.create(path, b"old secret")
    with path.open("rb") as old:
        files.supersede(path, b"new")
        assert old.read() == bytes(10)
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"new"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_half_a_file_supersedes_nothing(tmp_path):
    path = tmp_path / "keys"
    files.create(path, b"old")
    assert in_a_child(lambda: files.supersede(path, bytes(2 * LIMIT)))
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"old"]


def test_what_was_left_is_overwritten(tmp_path):
    left = tmp_path / ".keys.0123456789abcdef"
    left.write_bytes(b"old secret")
    with left.open("rb") as old:
        files.remove_left(tmp_path)
        assert old.read() == bytes(10)
    assert list(tmp_path.iterdir()) == []
