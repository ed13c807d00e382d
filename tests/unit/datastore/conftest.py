"""Datastores with keys in this process."""

import hashlib
import os

import pytest

from ioflt.datastore.volume import Volume
from ioflt.testing.local_keys import LocalKeys
from ioflt.types import HomeState


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
