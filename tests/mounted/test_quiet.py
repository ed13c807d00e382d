"""A home whose mount holds writes back: that it did is seen before anybody relies on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from ioflt.backup.quiet import Quiet, quiet
from ioflt.datastore.volume import Volume
from ioflt.errors import BusyError
from ioflt.keys.client import KeyClient
from tests.mounted.place import Place
from tests.mounted.second import second_mount

pytestmark = [pytest.mark.fuse, pytest.mark.root]


@contextmanager
def in_use(place: Place) -> Iterator[Quiet]:
    """Of the home `vm`, of which a file is open for writing in the mount."""
    home = place.mount() / "vm"
    home.mkdir()
    fd = os.open(home / "disk.raw", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(fd, b"x" * 512, 0)
        with (
            KeyClient.connect(operation="backup run") as keys,
            Volume.open(place.datastore, keys, read_only=True) as volume,
            quiet(volume.home("vm")) as moment,
        ):
            assert moment.consistency == "crash-consistent"
            moment.check()
            yield moment
    finally:
        with suppress(OSError):  # its mount may be gone
            os.close(fd)


def test_a_mount_that_ends_meanwhile(place: Place) -> None:
    """It was killed, and the VM goes on in another one."""
    with in_use(place) as moment:
        place.kill()
        place.umount()
        (place.mount() / "vm" / "disk.raw").write_bytes(b"y" * 512)
        with pytest.raises(BusyError, match="its mount ended meanwhile"):
            moment.check()


def test_a_mount_that_begins_meanwhile(place: Place) -> None:
    """Other files of the VM may be written to in it."""
    with in_use(place) as moment:
        with second_mount(place, "--read-only"):
            moment.check()
        with second_mount(place), pytest.raises(BusyError, match="another mount of its datastore began"):
            moment.check()
