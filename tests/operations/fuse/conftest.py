"""A datastore with keys in this process, and the handlers of a mount of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ioflt.datastore import lifecycle
from ioflt.datastore.volume import Volume
from ioflt.testing.local_keys import LocalKeys
from ioflt.types import HomeState
from tests.operations.fuse.client import Client, operations_of


@pytest.fixture
def keys(ioflt_home: Path) -> Iterator[LocalKeys]:
    with LocalKeys(ioflt_home) as service:
        yield service


@pytest.fixture
def datastore(short_tmp: Path, keys: LocalKeys) -> Path:
    """With the empty homes `vm` (encrypted) and `plain` (clear)."""
    path = short_tmp / "ds"
    Volume.init(path, HomeState.ENCRYPTED, keys)
    with Volume.open(path, keys) as volume:
        volume.make_home("vm", 0o755)
        volume.make_home("plain", 0o755)
        lifecycle.decrypt(volume, "plain")
    return path


@pytest.fixture
def volume(datastore: Path, keys: LocalKeys) -> Iterator[Volume]:
    with Volume.open(datastore, keys) as opened:
        yield opened


@pytest.fixture
def client(volume: Volume) -> Iterator[Client]:
    made = Client(operations_of(volume))
    yield made
    made.operations.close()
