"""A container is a bytearray: hypothesis drives both, thin and thick, with tags and without, and compares."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ioflt.datastore import newcontainer, openfile
from ioflt.datastore.container import Container
from ioflt.sectors import round_up
from ioflt.testing.local_keys import LocalKeys
from tests.small_areas import small_areas

LIMIT = 9 * 4096
edges = st.sampled_from([base + delta for base in range(0, LIMIT + 1, 4096) for delta in (-1, 0, 1) if base])
offsets = st.one_of(edges, st.integers(0, LIMIT))
lengths = st.one_of(st.sampled_from([1, 512, 4095, 4096, 4097, 8192]), st.integers(1, 3 * 4096))


class Model(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.keys = LocalKeys(self.directory)
        self.key = self.keys.new_key(None)
        self.path = self.directory / "disk"
        self.bytes = bytearray()
        self.fill = 0

    @initialize(thin=st.booleans(), tagged=st.booleans())
    def create(self, thin, tagged):
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        self.top = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY) if tagged else None
        newcontainer.create(fd, self.keys, [self.key], thin=thin, tags_in=self.top)
        self.open(fd)

    def open(self, fd, *, writable=True):
        self.file = Container.open(fd, self.keys, writable=writable, tags_in=self.top)

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

    @rule(offset=offsets)
    def write_nothing(self, offset):
        self.file.write(offset, b"")

    @rule(offset=offsets, length=lengths)
    def write_zeros(self, offset, length):
        self.file.write(offset, bytes(length))
        self.put(offset, bytes(length))

    @rule(length=lengths)
    def append(self, length):
        if len(self.bytes) < LIMIT:
            self.write(len(self.bytes), length)

    @rule(offset=offsets, length=lengths)
    def read(self, offset, length):
        assert bytes(self.file.read(offset, length)) == self.bytes[offset : offset + length]

    @rule(length=offsets)
    def truncate(self, length):
        self.file.truncate(length)
        self.put(length, b"")
        del self.bytes[length:]

    @rule(offset=offsets, length=lengths)
    def punch(self, offset, length):
        self.file.allocate(openfile.PUNCH_HOLE, offset, length)
        self.zero(offset, length)

    @rule(offset=offsets, length=lengths, keep=st.booleans())
    def zero_range(self, offset, length, keep):
        mode = openfile.ZERO_RANGE_KEEP_SIZE if keep else openfile.ZERO_RANGE
        try:
            self.file.allocate(mode, offset, length)
        except OSError as error:
            assert error.errno == errno.EOPNOTSUPP  # noqa: PT017 - not on every file system
            return
        if not keep:
            self.put(max(len(self.bytes), offset + length), b"")
        self.zero(offset, length)

    def zero(self, offset, length):
        end = min(offset + length, len(self.bytes))
        if offset < end:
            self.bytes[offset:end] = bytes(end - offset)

    @rule(offset=offsets, length=lengths, keep=st.booleans())
    def allocate(self, offset, length, keep):
        self.file.allocate(openfile.ALLOCATE_KEEP_SIZE if keep else openfile.ALLOCATE, offset, length)
        if not keep:
            self.put(max(len(self.bytes), offset + length), b"")

    @rule(offset=offsets)
    def seek(self, offset):
        """Every byte outside of data is zero, and a walk by data and holes reaches the end."""
        position = min(offset, len(self.bytes))
        while position < len(self.bytes):
            try:
                data = self.file.seek(position, os.SEEK_DATA)
            except OSError as error:
                assert error.errno == errno.ENXIO  # noqa: PT017
                data = len(self.bytes)
            assert position <= data <= len(self.bytes)
            assert not any(self.bytes[position:data])
            if data == len(self.bytes):
                break
            position = self.file.seek(data, os.SEEK_HOLE)
            assert data <= position <= len(self.bytes)
            # A reserved range counts as data while a clean page of it is cached: it may go in between.
            position = max(position, data + 1)

    @rule(offset=offsets)
    def seek_behind_the_end(self, offset):
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            with pytest.raises(OSError, match=os.strerror(errno.ENXIO)) as caught:
                self.file.seek(len(self.bytes) + offset, whence)
            assert caught.value.errno == errno.ENXIO

    @rule()
    def flush(self):
        self.file.flush()
        assert self.file.settled
        assert self.file.closable

    @rule()
    def scrub(self):
        if self.top is not None:
            assert self.file.scrub(lambda _: None) == ()

    @rule(data_only=st.booleans())
    def sync(self, data_only):
        self.file.sync(data_only=data_only)
        assert self.file.settled

    @rule()
    def refresh(self):
        self.file.flush()
        self.file.refresh()

    @rule(writable=st.booleans())
    def reopen(self, writable):
        self.file.flush()
        self.file.close()
        flags = os.O_RDONLY if not writable else os.O_RDWR
        self.open(os.open(self.path, flags), writable=writable)
        if not writable:
            self.whole()
            self.reopen(True)

    @rule()
    def wipe_and_rekey(self):
        self.file.flush()
        self.file.wipe()
        self.file.rekey(self.keys)

    @rule()
    def fill_step(self):
        step = self.file.fill_step()
        if step is not None:
            self.file.fill(step)

    @rule(sectors=st.integers(1, 3))
    def short_fill_step(self, sectors):
        step = self.file.fill_step()
        if step is not None:
            self.file.fill((step[0], min(step[1], sectors * 4096)))

    @rule()
    def save_fill_mark(self):
        self.file.save_fill_mark()

    @rule()
    def kill(self):
        """The process dies: what the kernel got stays."""
        if self.file.settled:
            self.file.close()
            self.open(os.open(self.path, os.O_RDWR))

    @rule(cut=st.integers(1, 2 * 4096))
    def body_cut_by_somebody(self, cut):
        """Sectors missing at the end read as zeros, and go on doing so."""
        if self.top is not None or len(self.bytes) % 4096 == 0:  # then the body's size may be the length
            return
        self.file.sync(data_only=True)
        self.file.close()
        size = max(1 << 20, os.stat(self.path).st_size - cut)
        os.truncate(self.path, size)
        left = (size - (1 << 20)) // 4096 * 4096
        self.zero(left, len(self.bytes))
        self.open(os.open(self.path, os.O_RDWR))

    @invariant()
    def whole(self):
        if hasattr(self, "file"):
            assert self.file.length == len(self.bytes)
            assert bytes(self.file.read(0, LIMIT * 2)) == self.bytes

    def teardown(self):
        if hasattr(self, "file"):
            self.file.flush()
            self.file.close()
            self.open(os.open(self.path, os.O_RDONLY), writable=False)
            self.whole()
            assert self.file.body_size >= round_up(len(self.bytes)) or self.file._short
            self.file.close()
            if self.top is not None:
                os.close(self.top)
        self.keys.close()
        shutil.rmtree(self.directory)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """Nobody pulls the plug here: test_container_crash has that."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setattr(os, "fdatasync", lambda fd: None)


@pytest.fixture(autouse=True)
def _small_areas(monkeypatch):
    small_areas(monkeypatch)


TestModel = Model.TestCase
# "ci" has 300 examples: 300 runs of at most 40 steps are some 11,000.
TestModel.settings = settings(stateful_step_count=40)
