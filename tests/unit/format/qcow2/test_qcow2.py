"""qcow2 images written and read again: what was written is there, in as little space as it needs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.errors import BugError, CorruptDataError, MalformedError, UnsupportedError
from ioflt.format.mapping import Kind, Run
from ioflt.format.qcow2 import header
from ioflt.format.qcow2.reader import Reader
from ioflt.format.qcow2.writer import CLUSTER, MAX_SIZE, Writer
from tests.unit.format.images import content, reading

#: A piece of a disk: number of its first cluster after the one before, clusters, what is in them (0: zeros).
PIECES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(0, 255), st.booleans()), max_size=6
)


class File:
    """What a writer made, in memory, holes as zeros."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.writes = 0

    def put(self, position: int, data: bytes | bytearray | memoryview) -> None:
        self.writes += 1
        if len(self.data) < position + len(data):
            self.data.extend(bytes(position + len(data) - len(self.data)))
        self.data[position : position + len(data)] = data


def image(file: File) -> Reader:
    return Reader(reading(file.data))


@given(PIECES, st.integers(0, CLUSTER // 512 - 1), st.booleans())
def test_what_was_written_is_read(
    pieces: list[tuple[int, int, int, bool]], odd: int, increment: bool
) -> None:
    """With a backing file what was not written is absent, and zeros are not."""
    capacity = 40 * CLUSTER + odd * 512
    file, expected, written = File(), bytearray(capacity), bytearray(41)
    writer = Writer(file.put, capacity, backing="base.qcow2" if increment else None)
    at = 0
    for skip, count, value, told in pieces:
        at += skip
        data = bytes([value]) * min(count * CLUSTER, capacity - at * CLUSTER)
        if value == 0 and told:
            writer.zeros(at * CLUSTER, len(data))
        else:
            writer.write(at * CLUSTER, data)
        expected[at * CLUSTER : at * CLUSTER + len(data)] = data
        written[at : at + count] = b"\1" * count
        at += count
    assert writer.finish() == len(file.data) == writer.size
    assert content(image(file), reading(file.data)) == expected
    absent = bytearray(41)
    for start, length, kind, _ in image(file).runs(0, capacity):
        if kind is Kind.ABSENT:
            absent[start // CLUSTER : -(-(start + length) // CLUSTER)] = b"\1" * -(-length // CLUSTER)
    if increment:
        assert all(absent[number] != written[number] for number in range(40 + bool(odd)))


@given(st.lists(st.tuples(st.integers(0, 6 * CLUSTER - 1), st.integers(0, 255)), max_size=20))
def test_hostile_images_are_read_or_refused(changes: list[tuple[int, int]]) -> None:
    file = File()
    writer = Writer(file.put, 10 * CLUSTER)
    writer.write(0, b"a" * CLUSTER)
    writer.finish()
    for at, value in changes:
        file.data[at % len(file.data)] = value
    try:
        content(image(file), reading(file.data))
    except CorruptDataError:
        return


@given(st.integers(0, 8 * CLUSTER - 1), st.integers(1, 8 * CLUSTER))
def test_runs_of_a_part_are_parts_of_all(offset: int, length: int) -> None:
    file = File()
    writer = Writer(file.put, 8 * CLUSTER, backing="b")
    writer.write(CLUSTER, b"a" * CLUSTER * 2)
    writer.zeros(4 * CLUSTER, CLUSTER)
    writer.write(5 * CLUSTER, b"b" * CLUSTER)
    writer.finish()
    length = min(length, 8 * CLUSTER - offset)

    def points(runs: list[Run]) -> list[tuple[int, Kind, int]]:
        every = 512
        return [
            (at, run.kind, run.place + at - run.start if run.kind is Kind.DATA else 0)
            for run in runs
            for at in range(-(-run.start // every) * every, run.start + run.length, every)
        ]

    part = list(image(file).runs(offset, length))
    everything = points(list(image(file).runs(0, 8 * CLUSTER)))
    assert sum(run.length for run in part) == length
    assert points(part) == [one for one in everything if offset <= one[0] < offset + length]


def test_space_is_for_data_alone() -> None:
    """64 TiB, of which one cluster is there: an L1 table of 1 MiB, and little else."""
    file = File()
    writer = Writer(file.put, 64 << 40)
    writer.write(5 << 40, b"x" * CLUSTER)
    size = writer.finish()
    assert size == (1 << 20) + 5 * CLUSTER
    assert [run for run in image(file).runs(0, 64 << 40) if run.kind is not Kind.ABSENT] == [
        Run(5 << 40, CLUSTER, Kind.DATA, (1 << 20) + CLUSTER)
    ]


def test_clusters_that_are_named_are_counted() -> None:
    file = File()
    writer = Writer(file.put, 2 << 30, backing="base")
    writer.write(0, b"x" * CLUSTER * 3)
    writer.zeros(3 * CLUSTER, 5 * CLUSTER)
    writer.write(1 << 30, b"x" * CLUSTER)
    writer.finish()
    assert (image(file).clusters(), image(file).tables()) == (4, 2)


def test_what_lies_together_is_written_and_read_together() -> None:
    file = File()
    writer = Writer(file.put, 1 << 30)
    writer.write(0, b"x" * CLUSTER * 16)
    assert file.writes == 1
    writer.finish()
    assert next(image(file).runs(0, 1 << 30)) == Run(0, CLUSTER * 16, Kind.DATA, 2 * CLUSTER)


def test_an_image_that_was_not_finished_is_none() -> None:
    file = File()
    writer = Writer(file.put, 1 << 30)
    writer.write(0, b"x" * CLUSTER)
    with pytest.raises(MalformedError, match="bad magic"):
        image(file)


def test_an_increment_names_what_it_is_made_over() -> None:
    file = File()
    Writer(file.put, 1 << 20, backing="../day 1/base.raw", backing_format="raw").finish()
    found = header.parse(bytes(file.data))
    assert (found.backing, found.backing_format) == ("../day 1/base.raw", "raw")
    with pytest.raises(MalformedError, match="backing name not confined"):
        Writer(file.put, 1 << 20, backing="/base.raw")


@pytest.mark.parametrize(
    ("offset", "length"), [(0, CLUSTER), (CLUSTER + 512, CLUSTER), (2 * CLUSTER, 512), (4 * CLUSTER, CLUSTER)]
)
def test_only_whole_clusters_in_order(offset: int, length: int) -> None:
    writer = Writer(File().put, 4 * CLUSTER)
    writer.write(CLUSTER, b"x" * CLUSTER)
    with pytest.raises(BugError):
        writer.write(offset, bytes(length))
    with pytest.raises(BugError):
        writer.zeros(offset, length)


def test_sizes() -> None:
    with pytest.raises(UnsupportedError, match="too large"):
        Writer(File().put, MAX_SIZE + 512)
    with pytest.raises(BugError):
        Writer(File().put, 513)
    file = File()
    Writer(file.put, 0).finish()
    assert image(file).capacity == 0
