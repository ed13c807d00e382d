"""No change is ever missed: hypothesis writes to a tracked disk file, takes ids, closes and crashes.

What is not named since an id has to read as it did then, with zeros behind an end.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ioflt.datastore import cbt, newcontainer, openfile
from ioflt.datastore.container import Container
from ioflt.datastore.plain import PlainFile
from ioflt.errors import ChangesUnknownError
from ioflt.filters.backing import Backing
from ioflt.format.cbt.sidecar import BLOCK
from ioflt.testing.local_keys import LocalKeys

LIMIT = 6 * BLOCK
edges = st.sampled_from([base + delta for base in range(0, LIMIT + 1, BLOCK) for delta in (-1, 0, 1) if base])
offsets = st.one_of(edges, st.integers(0, LIMIT))
lengths = st.one_of(st.sampled_from([1, 4096, BLOCK, BLOCK + 1]), st.integers(1, 2 * BLOCK))


class Model(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.keys = LocalKeys(self.directory)
        self.path = self.directory / "disk"
        self.changes_path = self.directory / "disk.cbt"
        self.changes_path.touch()
        self.bytes = bytearray()
        self.fill = 0
        self.taken = []
        self.changed = False  # since it was opened

    @initialize(kind=st.sampled_from(["thin", "thick", "clear"]))
    def create(self, kind):
        self.kind = kind
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        if kind != "clear":
            newcontainer.create(fd, self.keys, [self.keys.new_key(None)], thin=kind == "thin")
        os.close(fd)
        self.open()
        self.write(0, LIMIT)  # so that not everything comes behind an end

    def open(self):
        fd = os.open(self.path, os.O_RDWR)
        if self.kind == "clear":
            self.file = PlainFile(fd, Backing(fd, 0))
        else:
            self.file = Container.open(fd, self.keys, writable=True)
        self.file.track(os.open(self.changes_path, os.O_RDWR))
        self.changed = False

    def data(self, length):
        self.fill = self.fill % 255 + 1
        return bytes([self.fill]) * length

    def put(self, offset, data):
        self.bytes.extend(bytes(max(0, offset - len(self.bytes))))
        self.bytes[offset : offset + len(data)] = data

    @rule(offset=offsets, length=lengths)
    def write(self, offset, length):
        data = self.data(length)
        self.file.write(offset, data)
        self.put(offset, data)
        self.changed = True

    @rule(length=offsets)
    def truncate(self, length):
        self.file.truncate(length)
        self.bytes.extend(bytes(max(0, length - len(self.bytes))))
        del self.bytes[length:]
        self.changed = True

    @rule()
    def shave(self):
        """The last byte goes, within a sector or not, and comes back as a zero."""
        if self.bytes:
            self.truncate(len(self.bytes) - 1)
            self.truncate(len(self.bytes) + 1)

    @rule(
        mode=st.sampled_from([openfile.PUNCH_HOLE, openfile.ZERO_RANGE, openfile.ZERO_RANGE_KEEP_SIZE]),
        offset=offsets,
        length=lengths,
    )
    def empty(self, mode, offset, length):
        self.file.allocate(mode, offset, length)
        end = offset + length
        if mode == openfile.ZERO_RANGE:
            self.bytes.extend(bytes(max(0, end - len(self.bytes))))
        end = min(end, len(self.bytes))
        if offset < end:
            self.bytes[offset:end] = bytes(end - offset)
        self.changed = True

    @rule(
        mode=st.sampled_from([openfile.ALLOCATE, openfile.ALLOCATE_KEEP_SIZE]), offset=offsets, length=lengths
    )
    def allocate(self, mode, offset, length):
        self.file.allocate(mode, offset, length)
        if mode == openfile.ALLOCATE:
            self.bytes.extend(bytes(max(0, offset + length - len(self.bytes))))
        self.changed = True

    @rule()
    def take(self):
        self.taken.append((self.file.changes.take(), bytes(self.bytes)))

    @rule()
    def flush(self):
        self.file.flush()

    @rule()
    def close(self):
        known = self.file.changes.uuid
        self.file.sync(data_only=False)
        self.file.flush()
        self.file.close()
        self.open()
        assert self.file.changes.uuid == known

    @rule()
    def crash(self):
        """The map as it is on the medium, the disk file whole."""
        known, lost = self.file.changes.uuid, not self.file.closable
        left = self.changes_path.read_bytes()
        self.file.sync(data_only=False)
        self.file.flush()
        self.file.close()
        self.changes_path.write_bytes(left)
        self.open()
        assert not lost or self.file.changes.uuid != known

    @invariant()
    def misses_nothing(self):
        if not self.taken:
            return
        now = bytes(self.bytes)
        for taken, then in self.taken[-4:]:
            if taken.uuid != self.file.changes.uuid:
                continue
            named = bytearray(now)
            before = then.ljust(len(now), b"\0")
            end = 0
            for start, length in cbt.areas_of(self.file, taken.sequence, 0):
                assert end <= start
                end = start + length
                assert length > 0
                assert end <= len(now)
                named[start:end] = before[start:end]
            assert named == before[: len(now)]

    def teardown(self):
        self.file.close()
        self.keys.close()
        shutil.rmtree(self.directory)


TestModel = pytest.mark.allow_log("tracked anew")(Model.TestCase)
TestModel.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


def test_an_id_from_ahead(tmp_path):
    fd = os.open(tmp_path / "disk", os.O_RDWR | os.O_CREAT)
    file = PlainFile(fd, Backing(fd, 0))
    file.track(os.open(tmp_path / "disk.cbt", os.O_RDWR | os.O_CREAT))
    with pytest.raises(ChangesUnknownError):
        list(cbt.areas_of(file, 9, 0))
    file.close()
