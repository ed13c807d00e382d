"""Changed blocks: what is marked, what is known after a restart, and what a crash makes of it."""

import errno
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ioflt.errors import ChangesUnknownError
from ioflt.filters.backing import Backing
from ioflt.filters.cbt import Cbt
from ioflt.filters.changemap import ChangeMap, stamp_of
from ioflt.format.cbt import sidecar
from ioflt.format.cbt.sidecar import BLOCK, MAX_TAILS

SIZE = 64 * BLOCK


class Disk:
    """A file of 64 blocks, and its changes."""

    def __init__(self, path):
        self.path, self.changes_path = path / "disk", path / "disk.cbt"
        self.path.touch()
        self.changes_path.touch()
        os.truncate(self.path, SIZE)
        self.fd = -1
        self.open()

    def open(self):
        if self.fd >= 0:
            self.close()
        self.fd = os.open(self.path, os.O_RDWR)
        self.map = ChangeMap(
            os.open(self.changes_path, os.O_RDWR),
            sidecar.clear_key(),
            lambda: stamp_of(self.fd, with_ctime=True),
            name="disk",
        )
        self.cbt = Cbt(Backing(self.fd, 0), self.map, "disk")

    def close(self):
        self.cbt.close()
        os.close(self.fd)

    def since(self, taken):
        return list(self.map.since(taken.sequence))


@pytest.fixture
def disk(tmp_path):
    made = Disk(tmp_path)
    yield made
    made.close()


def test_at_first_all_counts_as_changed(disk):
    first = disk.map.take()
    assert first.sequence == 1
    assert list(disk.map.since(0)) == [(0, None)]
    assert disk.since(first) == []


@pytest.mark.parametrize("again", [False, True])
def test_blocks_are_named_by_what_touches_them(disk, again):
    taken = disk.map.take()
    disk.cbt.write(BLOCK - 1, b"x")
    disk.cbt.write(3 * BLOCK - 1, b"xy")
    disk.cbt.write(5 * BLOCK, bytes(2 * BLOCK + 1))
    disk.cbt.punch(10 * BLOCK, BLOCK)
    disk.cbt.zero(20 * BLOCK + 5, 1)
    disk.cbt.write(30 * BLOCK, b"")
    disk.cbt.write(2 * SIZE, b"")
    disk.cbt.allocate(40 * BLOCK, BLOCK, keep_size=True)
    disk.cbt.read(50 * BLOCK, BLOCK)
    if again:
        disk.cbt.settle()
        disk.open()
    assert disk.since(taken) == [(0, 1), (2, 2), (5, 3), (10, 1), (20, 1)]
    assert list(disk.map.since(taken.sequence, 6)) == [(6, 2), (10, 1), (20, 1)]


def test_every_earlier_id_is_answered(disk):
    taken = []
    for block in range(5):
        taken.append(disk.map.take())
        disk.cbt.write(block * 2 * BLOCK, b"x")
        if block % 2:
            disk.cbt.settle()
            disk.open()
    assert [disk.since(one) for one in taken] == [[(2 * n, 1) for n in range(first, 5)] for first in range(5)]
    assert {one.uuid for one in taken} == {disk.map.uuid}
    disk.cbt.write(0, b"x")  # a block counts by its last change
    assert disk.since(taken[4]) == [(0, 1), (8, 1)]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda cbt: cbt.resize(10 * BLOCK + 1), [(10, None)]),
        (lambda cbt: cbt.resize(SIZE + 7 * BLOCK), [(64, None)]),
        (lambda cbt: cbt.resize(SIZE), []),
        (lambda cbt: cbt.write(SIZE + BLOCK, b"x"), [(64, None)]),
        (lambda cbt: cbt.write(SIZE - 1, b"xy"), [(63, None)]),
        (lambda cbt: cbt.allocate(SIZE, 1, keep_size=False), [(64, None)]),
        (lambda cbt: (cbt.resize(0), cbt.resize(SIZE)), [(0, None)]),
        (lambda cbt: cbt.punch(62 * BLOCK, SIZE), [(62, 2)]),
        (lambda cbt: (cbt.write(0, b"x"), cbt.resize(BLOCK)), [(0, None)]),
    ],
)
def test_lengths(disk, change, named):
    taken = disk.map.take()
    change(disk.cbt)
    assert disk.since(taken) == named
    disk.cbt.settle()
    disk.open()
    assert disk.since(taken) == named
    assert disk.since(disk.map.take()) == []


def test_a_huge_file_costs_little(disk):
    disk.cbt.resize(1 << 43)
    taken = disk.map.take()
    disk.cbt.write((1 << 42) + 5, b"x")
    disk.cbt.punch(1 << 40, 1 << 41)
    assert disk.since(taken) == [(1 << 24, None)]
    disk.cbt.resize(1 << 42)
    disk.cbt.settle()
    about = os.stat(disk.changes_path)
    assert about.st_blocks * 512 < 1 << 20
    assert about.st_size <= sidecar.page_offset(sidecar.pages_of(1 << 42))
    disk.open()
    assert disk.since(taken) == [(1 << 24, None)]


def test_more_ends_than_are_kept(disk):
    taken = []
    for step in range(MAX_TAILS + 10):
        taken.append(disk.map.take())
        disk.cbt.write(SIZE + step * BLOCK, b"x")
    for step in (20, MAX_TAILS):
        assert disk.since(taken[step]) == [(63 + step, None)]
    assert disk.since(taken[3]) == [(0, None)]  # generous with the oldest
    disk.cbt.settle()
    disk.open()
    assert disk.since(taken[MAX_TAILS]) == [(63 + MAX_TAILS, None)]


@pytest.mark.allow_log("good order")
def test_what_did_not_end_well_is_tracked_anew(disk, caplog):
    taken = disk.map.take()
    disk.cbt.write(0, b"x")
    disk.open()
    assert disk.map.uuid != taken.uuid
    assert "did not end in good order" in caplog.text
    assert list(disk.map.since(0)) == [(0, None)]
    again = disk.map.take()
    disk.open()
    assert disk.map.uuid == again.uuid


@pytest.mark.parametrize("settled", [0, 1, 3])
def test_who_wrote_nothing_leaves_all_as_it_was(disk, settled):
    taken = disk.map.take()
    for _ in range(settled):
        disk.cbt.settle()
        disk.cbt.read(0, 10)
    disk.open()
    assert disk.map.uuid == taken.uuid


def _other_size(disk):
    os.truncate(disk.path, SIZE - 1)


def _other_content(disk):
    disk.path.write_bytes(bytes(SIZE))


def _replaced(disk):
    copy = disk.path.with_name("copy")
    copy.write_bytes(bytes(SIZE))
    info = disk.path.stat()
    os.utime(copy, ns=(info.st_atime_ns, info.st_mtime_ns))
    copy.rename(disk.path)


@pytest.mark.allow_log("changed or replaced")
@pytest.mark.parametrize("change", [_other_size, _other_content, _replaced])
def test_a_change_behind_our_back_is_seen(disk, change, caplog):
    taken = disk.map.take()
    disk.cbt.write(0, b"x")
    disk.cbt.settle()
    change(disk)
    disk.open()
    assert disk.map.take().uuid != taken.uuid
    assert "changed or replaced" in caplog.text


def _cut(path):
    os.truncate(path, path.stat().st_size - 1)


def _flip(path):
    with path.open("r+b") as file:
        file.seek(sidecar.MAP_OFFSET + 3)
        file.write(b"\x55")


def _no_marks(path):
    os.truncate(path, sidecar.MAP_OFFSET)


def _other_slots(path):
    with path.open("r+b") as file:
        file.write(bytes(8192))


@pytest.mark.allow_log("a full backup is due")
@pytest.mark.parametrize("damage", [_cut, _flip, _no_marks, _other_slots])
def test_a_damaged_map_is_tracked_anew(disk, damage, caplog):
    taken = disk.map.take()
    disk.cbt.write(0, b"x")
    disk.cbt.settle()
    damage(disk.changes_path)
    disk.open()
    assert disk.map.uuid != taken.uuid
    assert "a full backup is due" in caplog.text


@pytest.mark.allow_log("a full backup is due")
def test_of_a_map_no_more_is_read_than_the_disk_has(disk, caplog, monkeypatch):
    taken = disk.map.take()
    disk.cbt.write(0, b"x")
    disk.cbt.settle()
    with disk.changes_path.open("r+b") as file:  # sparse: what is in it would be 4 GiB to read
        file.seek(sidecar.page_offset(sidecar.MAX_PAGES))
        file.write(b"x")
    disk.open()
    pread = os.pread
    read = []

    def counted(fd, length, offset):
        read.append(length)
        return pread(fd, length, offset)

    monkeypatch.setattr(os, "pread", counted)
    assert disk.map.uuid != taken.uuid
    assert read == [sidecar.SLOT_SIZE] * 2
    assert (
        "disk: changed blocks are tracked anew, a full backup is due: bad map of changes (it is longer"
        in (caplog.text)
    )


@pytest.mark.parametrize("again", [False, True])
def test_marks_of_what_a_shorter_file_had_are_not_missed(disk, again):
    long = 4 * sidecar.PAGE_MARKS * BLOCK
    disk.cbt.resize(long)
    before = disk.map.take()
    disk.cbt.write(long - 1, b"x")
    disk.cbt.resize(SIZE)
    if again:
        disk.cbt.settle()
        disk.open()
    after = disk.map.take()
    assert disk.since(before) == [(64, None)]
    disk.cbt.resize(long)
    disk.cbt.write(long - 1, b"y")
    disk.cbt.settle()
    disk.open()
    assert disk.since(before) == disk.since(after) == [(64, None)]


def test_ids_from_ahead_are_refused(disk):
    taken = disk.map.take()
    for sequence in (taken.sequence + 1, 2**32 - 1):
        with pytest.raises(ChangesUnknownError, match="none of what is tracked now"):
            list(disk.map.since(sequence))


def test_sequences_go_together_and_come_to_an_end(disk):
    first = disk.map.take(50)
    assert first.sequence == 50
    assert disk.map.take(3).sequence == 51
    disk.cbt.write(0, b"x")
    last = disk.map.take(2**32 - 2)
    assert (last.uuid, last.sequence) == (first.uuid, 2**32 - 2)
    again = disk.map.take()
    assert again.uuid != first.uuid
    assert again.sequence == 1
    disk.cbt.write(BLOCK, b"x")
    assert disk.since(again) == [(1, 1)]
    disk.cbt.settle()
    disk.open()
    assert disk.map.uuid == again.uuid
    assert disk.since(again) == [(1, 1)]


@pytest.mark.allow_log("could not be written")
def test_what_cannot_be_written_stays_as_after_a_crash(disk, monkeypatch, caplog):
    taken = disk.map.take()
    disk.cbt.write(0, b"x")

    def full(fd, data, offset):
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        disk.cbt.settle()
    assert "could not be written" in caplog.text
    assert not disk.cbt.at_rest
    disk.cbt.settle()
    disk.open()
    assert disk.map.uuid == taken.uuid
    assert disk.since(taken) == [(0, 1)]


def test_no_write_without_the_mark_of_a_writer(disk, monkeypatch):
    def full(fd, data, offset):
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="no space"):
            disk.cbt.write(0, b"x")
    assert os.pread(disk.fd, 1, 0) == b"\0"


def test_a_map_that_takes_no_writes(disk):
    taken = disk.map.take()
    disk.cbt.write(0, b"x")
    disk.cbt.settle()

    def reader():
        fd = os.open(disk.changes_path, os.O_RDONLY)
        return ChangeMap(fd, sidecar.clear_key(), lambda: stamp_of(disk.fd, with_ctime=True))

    found = reader()
    assert list(found.since(taken.sequence)) == [(0, 1)]
    found.close()
    disk.cbt.write(0, b"x")
    found = reader()
    with pytest.raises(ChangesUnknownError, match="good order"):
        list(found.since(taken.sequence))
    found.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    blocks=st.sets(st.integers(0, 100_000), max_size=40), more=st.sets(st.integers(0, 300_000), max_size=40)
)
def test_marks_that_others_set(disk, blocks, more):
    """As from a mount's threads: bits, which the next call here takes for marks of this sequence."""

    def mark(numbers):
        marks = disk.map.marks(max(numbers, default=0))
        for number in numbers:
            marks[number // 8] |= 1 << number % 8

    first = disk.map.take()
    mark(blocks)
    second = disk.map.take()
    mark(more)
    assert named(disk.since(first)) == blocks | more
    assert named(disk.since(second)) == more
    assert named(disk.since(disk.map.take())) == set()


def named(runs):
    return {block for first, count in runs for block in range(first, first + count)}


def test_marks_are_on_the_medium_when_the_writer_went(disk):
    taken = disk.map.take()
    disk.cbt.write(0, b"begins")
    assert disk.cbt.native().marks is not None
    disk.cbt.native().marks[5] = 0b1000
    disk.cbt.settle()
    assert disk.cbt.native().writes is False
    disk.open()
    assert disk.since(taken) == [(0, 1), (43, 1)]
