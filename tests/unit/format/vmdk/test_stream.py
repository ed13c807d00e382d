"""streamOptimized: what is written is read back, in any pieces; every damage is told of by its reason."""

import re
import struct
import zlib
from array import array
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ioflt.errors import CorruptDataError, MalformedError, UnsupportedError
from ioflt.format.mapping import Kind
from ioflt.format.vmdk import descriptor, sparse, stream
from ioflt.format.vmdk.compose import compose
from ioflt.format.vmdk.grains import Grains
from ioflt.format.vmdk.stream import GRAIN, StreamReader, StreamWriter
from tests.unit.format.images import content as disk_of
from tests.unit.format.images import reading

SECTOR = 512
TABLE_SPAN = 512 * GRAIN
SPEC = Path(stream.__file__).with_name("SPEC.md")


def write(capacity: int, pieces: list[tuple[int, bytes]]) -> bytes:
    text = compose("streamOptimized", capacity=capacity, file_name="disk1.vmdk", cid=0x1A2B3C4D)
    writer = StreamWriter(capacity, text)
    return b"".join((writer.start(), *(writer.write(*piece) for piece in pieces), writer.finish()))


def read(data: bytes, step: int = 1 << 20) -> tuple[StreamReader, dict[int, bytes]]:
    reader = StreamReader()
    found: dict[int, bytes] = {}
    for start in range(0, len(data), step):
        found.update(reader.feed(data[start : start + step]))
    reader.finish()
    return reader, found


def refusal(data: bytes) -> str:
    with pytest.raises(CorruptDataError) as caught:
        read(bytes(data))
    return caught.value.reason


@st.composite
def contents(draw: st.DrawFn) -> tuple[int, list[tuple[int, bytes]]]:
    """A capacity, and pieces of data in order: unaligned, across grains and tables, zeros among them."""
    capacity = draw(st.integers(1, 3 * TABLE_SPAN // SECTOR)) * SECTOR
    points = draw(st.lists(st.integers(0, capacity), max_size=12).map(sorted))
    pieces = []
    for start, end in zip(points[::2], points[1::2], strict=False):
        length = min(end - start, draw(st.integers(0, 3 * GRAIN)))
        fill = draw(st.sampled_from([b"\0", b"\1", b"ab"]))
        pieces.append((start, (fill * length)[:length]))
    return capacity, pieces


@given(contents(), st.sampled_from([511, 4096, 100_000]))
@example((SECTOR, []), 1)
@example((SECTOR, [(0, b"x")]), 7)
@example((TABLE_SPAN + SECTOR, [(TABLE_SPAN - 1, b"xy")]), 4096)
def test_any_content_comes_back(content: tuple[int, list[tuple[int, bytes]]], step: int) -> None:
    capacity, pieces = content
    expected: dict[int, bytearray] = {}
    for offset, data in pieces:
        for at in range(len(data)):
            grain = expected.setdefault((offset + at) // GRAIN, bytearray(GRAIN))
            grain[(offset + at) % GRAIN] = data[at]
    written = write(capacity, pieces)
    reader, found = read(written, step)
    wanted = {
        number * GRAIN: bytes(grain)[: capacity - number * GRAIN]
        for number, grain in expected.items()
        if any(grain)
    }
    assert found == wanted
    assert reader.header is not None
    assert reader.header.capacity * SECTOR == capacity
    assert reader.descriptor is not None
    assert descriptor.parse(reader.descriptor).sectors * SECTOR == capacity
    image = Grains(reading(written), len(written))  # at any place, by the tables
    packed = [run.start for run in image.runs(0, capacity) if run.kind is Kind.PACKED]
    assert {start: image.unpack(start + 5)[1][: capacity - start] for start in packed} == wanted
    assert sum(run.length for run in image.runs(0, capacity)) == capacity


SMALL = write(4 * GRAIN, [(0, b"a" * GRAIN), (2 * GRAIN, b"b" * 100)])
FIRST = 128 * SECTOR  # the first grain; each takes one sector
SECOND = FIRST + SECTOR
TABLE = SECOND + SECTOR
DIRECTORY = TABLE + 5 * SECTOR
FOOTER = DIRECTORY + 2 * SECTOR


def patched(at: int, new: bytes) -> bytes:
    return SMALL[:at] + new + SMALL[at + len(new) :]


def grain(sector: int, content: bytes) -> bytes:
    packed = zlib.compress(content)
    return (struct.pack("<QI", sector, len(packed)) + packed).ljust(SECTOR, b"\0")


def test_layout() -> None:
    assert len(SMALL) == FOOTER + 3 * SECTOR
    assert SMALL[FIRST : FIRST + 12] == struct.pack("<QI", 0, len(zlib.compress(b"a" * GRAIN)))
    assert SMALL[TABLE : TABLE + 16] == struct.pack("<QII", 4, 0, 1)
    assert SMALL[DIRECTORY : DIRECTORY + 16] == struct.pack("<QII", 1, 0, 2)
    assert SMALL[FOOTER : FOOTER + 16] == struct.pack("<QII", 1, 0, 3)
    assert not any(SMALL[-SECTOR:])


@pytest.mark.parametrize(
    ("reason", "data"),
    [
        ("bad magic", b"KDMX" + SMALL[4:]),
        ("truncated", b""),
        ("truncated", SMALL[:SECTOR]),
        ("truncated", SMALL[: FIRST + 100]),
        ("truncated", SMALL[:TABLE]),
        ("truncated", SMALL[:-SECTOR]),
        ("data after end", SMALL + b"\0"),
        ("not streamOptimized", patched(8, struct.pack("<I", 3))),
        ("not streamOptimized", patched(77, b"\0\0")),
        ("grain too large", patched(20, struct.pack("<Q", 4096))),
        ("bad grain table size", patched(44, struct.pack("<I", 0))),
        ("bad grain table size", patched(44, struct.pack("<I", 1 << 20))),
        ("bad grain table size", patched(12, struct.pack("<QQQQI", 1 << 37, 128, 1, 20, 128))),
        ("tables too large", patched(64, struct.pack("<Q", 1 << 40))),
        ("tables too large", patched(64, struct.pack("<Q", 0))),
        ("too large", patched(12, struct.pack("<Q", 1 << 50))),
        ("grain beyond capacity", patched(SECOND, struct.pack("<Q", 512))),
        ("grain beyond capacity", patched(SECOND, struct.pack("<Q", 129))),
        ("grain out of order", patched(SECOND, struct.pack("<Q", 0))),
        ("grain too large", patched(SECOND + 8, struct.pack("<I", 1 << 30))),
        ("bad grain data", patched(FIRST + 20, b"\xff\xff\xff")),
        ("bad grain data", patched(FIRST + 8, struct.pack("<I", 50))),
        ("bad grain size", SMALL[:FIRST] + grain(0, b"a" * (GRAIN + 1)) + SMALL[SECOND:]),
        ("bad grain size", SMALL[:FIRST] + grain(0, b"a" * (GRAIN - 1)) + SMALL[SECOND:]),
        ("bad marker", patched(TABLE + 12, struct.pack("<I", 7))),
        ("bad marker", patched(TABLE, struct.pack("<Q", 1 << 60))),
        ("bad marker", patched(DIRECTORY, bytes(16))),
        ("bad marker", patched(len(SMALL) - SECTOR, b"\1")),
        ("bad marker", SMALL[:FOOTER] + grain(384, b"c" * GRAIN) + SMALL[FOOTER:]),
        ("grain table wrong", patched(TABLE + SECTOR, struct.pack("<I", 127))),
        ("grain table wrong", patched(TABLE + SECTOR + 4, struct.pack("<I", 129))),
        ("grain table wrong", SMALL[:SECOND] + SMALL[TABLE:]),
        ("grain directory wrong", patched(DIRECTORY + SECTOR, struct.pack("<I", 0))),
        ("grain directory wrong", SMALL[:TABLE] + SMALL[DIRECTORY:]),
        ("grain out of order", SMALL[:DIRECTORY] + grain(384, b"c" * GRAIN) + SMALL[DIRECTORY:]),
        ("footer wrong", patched(FOOTER + SECTOR, b"X")),
        ("footer wrong", patched(FOOTER + SECTOR + 12, struct.pack("<Q", 8))),
        ("footer wrong", patched(FOOTER + SECTOR + 56, struct.pack("<Q", 8))),
    ],
)
def test_refused(reason: str, data: bytes) -> None:
    assert refusal(data) == reason


def test_the_spec_shows_markers_as_they_are() -> None:
    _, _, section = SPEC.read_text().partition("\n## streamOptimized\n")
    lines = [
        bytes.fromhex(line.partition("      ")[0])
        for line in re.findall(r"^(?:[0-9a-f]{2} ){8}.*$", section, re.MULTILINE)
    ]
    far = write(TABLE_SPAN * 4, [(131072 * SECTOR, b"a" * GRAIN)])
    assert lines[0][:8] == far[FIRST : FIRST + 8]  # the size is that of one release of zlib
    assert lines[1:] == [SMALL[TABLE : TABLE + 16], SMALL[FOOTER : FOOTER + 16], SMALL[-SECTOR:][:16]]


def test_a_bomb_is_not_inflated() -> None:
    bomb = zlib.compress(bytes(50 << 20), 9)
    packed = (struct.pack("<QI", 0, len(bomb)) + bomb).ljust(-(-(12 + len(bomb)) // 512) * 512, b"\0")
    assert refusal(SMALL[:FIRST] + packed + SMALL[SECOND:]) == "bad grain size"


def test_a_table_may_call_a_grain_zeros() -> None:
    _, found = read(patched(TABLE + SECTOR + 4, struct.pack("<I", 1)))
    assert sorted(found) == [0, 2 * GRAIN]


@given(st.integers(0, len(SMALL) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_harmless(at: int, flip: int) -> None:
    try:
        _, found = read(patched(at, bytes([SMALL[at] ^ flip])))
    except CorruptDataError:
        return
    assert sorted(found) == [0, 2 * GRAIN]


@given(st.integers(0, len(SMALL) - 1))
def test_a_part_is_truncated(length: int) -> None:
    assert refusal(SMALL[:length]) in ("truncated", "bad magic")


def indexed(entry: int, tail: bytes) -> bytes:
    """Tables before the grains, as qemu-img has them: descriptor at 1, directory at 21, table at 22."""
    header = sparse.parse(SMALL)
    front = bytearray(SMALL[:FIRST])
    front[:SECTOR] = sparse.pack(
        sparse.SparseHeader(1, header.flags, 512, 128, 1, 20, 512, 21, 128, False, 1)
    )
    front[21 * SECTOR : 21 * SECTOR + 4] = struct.pack("<I", 22)
    front[22 * SECTOR : 22 * SECTOR + 4] = struct.pack("<I", entry)
    return bytes(front) + tail


def test_tables_in_front() -> None:
    _, found = read(indexed(128, SMALL[FIRST:SECOND]))
    assert found == {0: b"a" * GRAIN}
    _, found = read(indexed(128, SMALL[FIRST:SECOND] + bytes(5 * SECTOR)), 700)
    assert found == {0: b"a" * GRAIN}


@pytest.mark.parametrize(
    ("reason", "entry", "tail"),
    [
        ("truncated", 128, b""),
        ("grain table wrong", 129, SMALL[FIRST:SECOND]),
        ("grain table wrong", 128, SMALL[FIRST:TABLE]),
        ("bad marker", 128, bytes(SECTOR) + SMALL[FIRST:SECOND]),
        ("bad marker", 128, SMALL[FIRST:SECOND] + SMALL[TABLE:]),
    ],
)
def test_tables_in_front_refused(reason: str, entry: int, tail: bytes) -> None:
    assert refusal(indexed(entry, tail)) == reason


def test_a_table_in_front_is_not_read_for_ever() -> None:
    """128 MiB of tables could name one table 33 million times."""
    data = bytearray(indexed(128, SMALL[FIRST:SECOND]))
    data[12:20] = struct.pack("<Q", 64 * TABLE_SPAN // SECTOR)
    data[21 * SECTOR : 21 * SECTOR + 64 * 4] = struct.pack("<I", 22) * 64
    assert refusal(bytes(data)) == "grain table wrong"


def test_no_stream_above_the_largest_disk() -> None:
    with pytest.raises(UnsupportedError, match="too large"):
        StreamWriter(stream.MAX_CAPACITY + SECTOR, b"text")


@given(st.integers(1, 1 << 40), st.integers(0, 0xFFFFFFFE), st.sampled_from(["vmfs", "streamOptimized"]))
def test_a_composed_descriptor_parses(sectors: int, cid: int, kind: str) -> None:
    text = compose(kind, capacity=sectors * 512, file_name="ä-flat.vmdk", cid=cid, adapter="ide")
    disk = descriptor.parse(text, "ä.vmdk")
    assert (disk.create_type, disk.cid, disk.sectors) == (kind, cid, sectors)
    assert disk.file_names == ("ä-flat.vmdk",)
    assert disk.ddb["adapterType"] == "ide"


def hosted(capacity: int, table: list[int], data: bytes) -> bytes:
    """A sparse extent: directory in sector 1, one table at 2 to 5, grains of 4 KiB from sector 8."""
    header = sparse.SparseHeader(1, 3, capacity, 8, 0, 0, 512, 1, 8, False, 0)
    directory = struct.pack("<I", 2).ljust(SECTOR, b"\0")
    entries = array("I", table + [0] * (512 - len(table))).tobytes()
    return (sparse.pack(header) + directory + entries).ljust(8 * SECTOR, b"\0") + data


def sparse_pieces(data: bytes) -> list[tuple[int, bytes]]:
    """What the extent holds but zeros, by grains."""
    found = disk_of(Grains(reading(data), len(data)), reading(data))
    size = sparse.parse(data).grain_size * SECTOR
    parts = ((at, found[at : at + size]) for at in range(0, len(found), size))
    return [(at, part) for at, part in parts if any(part)]


def test_hosted_sparse() -> None:
    data = hosted(20, [8, 1, 16], b"a" * 4096 + b"b" * 4096)
    assert sparse_pieces(data) == [(0, b"a" * 4096), (8192, b"b" * 2048)]


@pytest.mark.parametrize(
    ("reason", "data"),
    [
        ("truncated", hosted(20, [8, 0, 16], b"a" * 4096)),
        ("truncated", hosted(20, [0xFFFFFFFF], b"")),
        ("truncated", hosted(20, [], b"")[:514]),
        ("too large", hosted(1 << 50, [], b"")),
    ],
)
def test_hosted_sparse_refused(reason: str, data: bytes) -> None:
    with pytest.raises(CorruptDataError) as caught:
        sparse_pieces(data)
    assert caught.value.reason == reason


def test_hosted_sparse_with_odd_tables() -> None:
    data = bytearray(hosted(20, [], b""))
    for capacity, entries in ((20, 0), (20, 1 << 30), (1 << 36, 1)):
        data[12:20] = struct.pack("<Q", capacity)
        data[44:48] = struct.pack("<I", entries)
        with pytest.raises(MalformedError, match="bad grain table size"):
            sparse_pieces(bytes(data))
