"""Power cuts while a header is changed: one whole header is always there, and each slot that it names opens.

But for the one that is being removed: its material goes first.
After each write the medium may hold, for each 512 bytes, what they were at any time since the last sync.
"""

import os
import random

import pytest

from ioflt.crypto.secret import Secret
from ioflt.datastore import datakeys, newcontainer, recovery
from ioflt.datastore.header import read_header
from ioflt.datastore.recovery import HEADER_AREA
from ioflt.format.luks2 import keyslot
from ioflt.testing.local_keys import LocalKeys

SECTOR = 512
#: Media looked at after each write.
CUTS = 20
FIRST, SECOND = Secret(b"first"), Secret(b"second")


class Medium:
    """Remembers the header area after each write to `fd` since the last sync."""

    def __init__(self, fd, patch):
        self.fd = fd
        self.random = random.Random(0)
        self.images = [self.now()]
        self.after_cuts = []
        write, sync = os.pwrite, os.fsync

        def pwrite(where, *arguments):
            done = write(where, *arguments)
            if where == fd:
                self.images.append(self.now())
                self.after_cuts += [self.cut() for _ in range(CUTS)]
            return done

        def fsync(where):
            sync(where)
            if where == fd:
                del self.images[:-1]

        patch.setattr(os, "pwrite", pwrite)
        patch.setattr(os, "fsync", fsync)

    def now(self):
        return os.pread(self.fd, HEADER_AREA, 0)

    def cut(self):
        sectors = range(0, HEADER_AREA, SECTOR)
        return b"".join(self.random.choice(self.images)[start : start + SECTOR] for start in sectors)


def material(fd):
    """What the slots hold that the header names."""
    header = read_header(fd)
    places = {number: keyslot.area_of(header, number) for number in header.keyslots}
    return {number: os.pread(fd, place.size, place.offset) for number, place in places.items()}


@pytest.mark.parametrize("what", ["add", "remove", "restore"])
def test_a_power_cut(what, tmp_path, ioflt_home, monkeypatch):
    with LocalKeys(ioflt_home) as keys:
        fd = os.open(tmp_path / "disk", os.O_RDWR | os.O_CREAT)
        newcontainer.create(fd, keys, (keys.new_key(None),), thin=True)
        recovery.add_slot(fd, keys, FIRST)
        if what != "add":
            recovery.add_slot(fd, keys, SECOND)
        backup = recovery.read_header_area(fd)
        if what == "restore":
            recovery.remove_slot(fd, 1, None)
        before = material(fd)
        with pytest.MonkeyPatch.context() as patch:
            medium = Medium(fd, patch)
            if what == "add":
                recovery.add_slot(fd, keys, SECOND)
            elif what == "remove":
                recovery.remove_slot(fd, 1, None)
            else:
                recovery.restore_header(fd, keys, backup)
        named = before | material(fd)
        assert sorted(named) == [0, 1]
        found = set()
        for area in medium.after_cuts:
            os.pwrite(fd, area, 0)
            datakeys.unwrap(read_header(fd), keys).wipe()
            slots = material(fd)
            found.add(tuple(slots))
            kept = set(slots) - ({1} if what == "remove" else set())
            assert all(named[number] == slots[number] for number in kept)
        assert found == {(0,), (0, 1)}  # as before, and as after
        os.close(fd)
