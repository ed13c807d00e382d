"""Datastores with keys in this process.

They are in memory where there is room: one that is cut short at each call makes 14,000 fsyncs, at 1 to 7 ms
each on a disk. tests/mounted has a disk's file system.
"""

import hashlib
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from ioflt.datastore.volume import Volume
from ioflt.testing.local_keys import LocalKeys
from ioflt.types import HomeState

_MEMORY = "/dev/shm"
_ROOM = 1 << 30


@contextmanager
def _directory(request):
    place = None
    if os.path.isdir(_MEMORY) and not request.node.get_closest_marker("disk"):
        room = os.statvfs(_MEMORY)
        if room.f_bavail * room.f_frsize >= _ROOM:
            place = _MEMORY
    path = Path(tempfile.mkdtemp(prefix="ioflt-", dir=place))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def tmp_path(request):
    with _directory(request) as path:
        yield path


@pytest.fixture
def short_tmp(request):
    with _directory(request) as path:
        yield path


@pytest.fixture
def keys(ioflt_home):
    with LocalKeys(ioflt_home) as service:
        yield service


@pytest.fixture(params=[HomeState.ENCRYPTED, HomeState.CLEAR], ids=["encrypting", "clear"])
def default(request):
    return request.param


@pytest.fixture
def directory(tmp_path, keys, default):
    path = tmp_path / "datastore"
    Volume.init(path, default, keys)
    return path


@pytest.fixture
def volume(directory, keys):
    with Volume.open(directory, keys) as opened:
        yield opened


@pytest.fixture
def fingerprint():
    """A function: every name, inode, mode, time and byte below a directory."""

    def take(path):
        found = {}
        for parent, directories, names in os.walk(path):
            for name in [".", *directories, *names]:
                full = os.path.join(parent, name)
                info = os.lstat(full)
                content = ""
                if os.path.isfile(full) and not os.path.islink(full):
                    with open(full, "rb") as file:
                        content = hashlib.file_digest(file, "sha256").hexdigest()
                found[full] = (info.st_ino, info.st_mode, info.st_mtime_ns, info.st_ctime_ns, content)
        return found

    return take
