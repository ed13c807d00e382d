"""streamOptimized VMDK: what is inside an OVA. Compressed grains behind markers, their tables after them.

Both directions work on a stream and do no input or output. A file is at most 2 TiB long: tables count its
512-byte sectors in 32 bits. Layout and worked bytes: SPEC.md.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Generator, Iterator
from typing import Final, TypeAlias

from ioflt.errors import BugError, MalformedError, UnsupportedError
from ioflt.format.vmdk import sparse
from ioflt.format.vmdk.sparse import GD_AT_END, HEADER_SIZE, SparseHeader

#: Offset on the disk in bytes, and the bytes there.
Piece: TypeAlias = tuple[int, bytes]

#: Bytes of a grain that the writer makes, as all known writers do.
GRAIN: Final = 64 << 10

#: Largest grain accepted, bytes.
MAX_GRAIN: Final = 1 << 20

#: Largest disk, bytes: what VMware's products have at most, rounded up.
MAX_CAPACITY: Final = 64 << 40

_SECTOR: Final = 512
_ZEROS: Final = bytes(GRAIN)
#: Of a grain: its sector on the disk, bytes compressed.
MARKER: Final = struct.Struct("<QI")
_KIND: Final = struct.Struct("<QII")  # the same with size 0, and the kind of metadata
_EOS, _TABLE, _DIRECTORY, _FOOTER = range(4)
_OVERHEAD: Final = 128  # sectors before the first grain
_ENTRIES: Final = 512
_MAX_ENTRIES: Final = 4096
_MAX_TABLES: Final = 1 << 21  # those of the largest disk, with the grains and tables that all writers make
_MAX_OVERHEAD: Final = (128 << 20) // _SECTOR  # two copies of the tables of a 1 TiB disk
_FLAGS: Final = 0x30001  # line ends can be checked, compressed, markers
_MAX_SECTOR: Final = (1 << 32) - 1


class StreamReader:
    """Feed it a file's bytes as they come, in pieces of any size, then call `finish`.

    `header` and `descriptor` (its text without padding, None where there is none) are there once the first
    grain came, or after `finish`. Grains come in the order of the disk; what no grain covers is zeros.
    """

    def __init__(self) -> None:
        self.header: SparseHeader | None = None
        self.descriptor: bytes | None = None
        self._buffer = bytearray()
        self._position = 0  # of the buffer's start in the file, bytes
        self._parsing = self._parse()
        self._needs = True

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Piece]:
        """The grains that `data` completes; to be iterated to the end before the next call.

        Raises MalformedError: those of `sparse.parse`, "not streamOptimized", "grain too large",
        "bad grain table size", "tables too large", "bad grain data", "bad grain size",
        "grain out of order", "grain beyond capacity", "bad marker", "grain table wrong",
        "grain directory wrong", "footer wrong", "data after end"; UnsupportedError "too large".
        """
        self._buffer += data
        for piece in self._parsing:
            if piece is None:
                return
            yield piece
        if self._buffer:
            raise MalformedError("data after end")

    def finish(self) -> None:
        """The file ends here. Raises MalformedError "truncated", "bad magic", "grain table wrong"."""
        self._needs = False
        for piece in self._parsing:
            if piece is not None:
                raise BugError("`feed` was not iterated to its end")

    # The file, from its start to its end. A generator that yields None where it needs more bytes

    def _take(self, count: int, what: str) -> Generator[None, None, bytes]:
        while len(self._buffer) < count:
            if not self._needs:
                raise MalformedError("truncated", what)
            yield None
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        self._position += count
        return data

    def _at_end(self) -> Generator[None, None, bool]:
        while not self._buffer:
            if not self._needs:
                return True
            yield None
        return False

    def _parse(self) -> Generator[Piece | None, None, None]:
        first = yield from self._take(HEADER_SIZE, "header")
        header = self.header = _checked(sparse.parse(first))
        front = yield from self._take((header.overhead - 1) * _SECTOR, "before the first grain")
        front = first + front
        self.descriptor = sparse.descriptor_of(front)
        if header.gd_offset == GD_AT_END:
            yield from self._parse_streamed(header, _Tables(header))
        else:
            yield from self._parse_indexed(header, _Index(header, front))

    def _parse_indexed(self, header: SparseHeader, index: _Index) -> Generator[Piece | None, None, None]:
        """Tables before the grains, as qemu-img writes them; zeros may follow the last grain."""
        last, ended = -1, False
        while not (yield from self._at_end()):
            sector = self._position // _SECTOR
            marker = yield from self._take(_SECTOR, "marker")
            if marker == _ZEROS[:_SECTOR]:
                ended = True
            elif ended or marker[8:12] == bytes(4):
                raise MalformedError("bad marker", f"at sector {sector}")
            else:
                last, piece = yield from self._grain(header, marker, last)
                index.check(last, sector)
                yield piece
        index.check_complete()

    def _parse_streamed(self, header: SparseHeader, tables: _Tables) -> Generator[Piece | None, None, None]:
        """Tables behind their grains, then the directory, the footer, the end of stream."""
        last = -1
        directory = 0
        while True:
            sector = self._position // _SECTOR
            marker = yield from self._take(_SECTOR, "marker")
            value, size = MARKER.unpack_from(marker)
            if size:
                last, piece = yield from self._grain(header, marker, last)
                if directory:
                    raise MalformedError("bad marker", "a grain after the grain directory")
                tables.add(last, sector)
                yield piece
                continue
            _, _, kind = _KIND.unpack_from(marker)
            if kind == _TABLE and not directory and value == tables.table_sectors:
                tables.close((yield from self._take(value * _SECTOR, "grain table")), sector + 1)
            elif kind == _DIRECTORY and not directory and value == tables.directory_sectors:
                tables.check((yield from self._take(value * _SECTOR, "grain directory")), sector + 1)
                directory = sector + 1
            elif kind == _FOOTER and directory and value == 1:
                footer = yield from self._take(HEADER_SIZE, "footer")
                if check_footer(footer, header) != directory:
                    raise MalformedError("footer wrong", "does not agree with the grain directory")
                if (yield from self._take(_SECTOR, "end of stream")) != bytes(_SECTOR):
                    raise MalformedError("bad marker", "no end of stream after the footer")
                return
            else:
                raise MalformedError("bad marker", f"kind {kind}, {value} sectors, at sector {sector}")

    def _grain(
        self, header: SparseHeader, marker: bytes, last: int
    ) -> Generator[None, None, tuple[int, Piece]]:
        """The grain whose first sector of the file is `marker`: its number, offset and bytes."""
        sector, size = MARKER.unpack_from(marker)
        grain_bytes = header.grain_size * _SECTOR
        number, odd = divmod(sector, header.grain_size)
        if odd or sector >= header.capacity:
            raise MalformedError("grain beyond capacity", f"sector {sector} of {header.capacity}")
        if number <= last:
            raise MalformedError("grain out of order", f"sector {sector}")
        if size > grain_bytes + grain_bytes // 8 + 64:
            raise MalformedError("grain too large", f"{size} bytes compressed")
        more = -(-(MARKER.size + size) // _SECTOR) * _SECTOR - _SECTOR
        rest = yield from self._take(more, "grain")
        data = inflate((marker + rest)[MARKER.size : MARKER.size + size], grain_bytes)
        left = (header.capacity - sector) * _SECTOR
        if len(data) != grain_bytes and len(data) != min(left, grain_bytes):
            raise MalformedError("bad grain size", f"{len(data)} bytes at sector {sector}")
        return number, (sector * _SECTOR, data[:left])


def check_footer(data: bytes, header: SparseHeader) -> int:
    """The sector of the grain directory that a footer tells. Raises MalformedError "footer wrong"."""
    try:
        footer = sparse.parse(data)
    except (MalformedError, UnsupportedError) as error:
        raise MalformedError("footer wrong", str(error)) from None
    shape = (header.capacity, header.grain_size, header.entries_per_table)
    if (footer.capacity, footer.grain_size, footer.entries_per_table) != shape:
        raise MalformedError("footer wrong", "does not agree with the header")
    return footer.gd_offset


def _checked(header: SparseHeader) -> SparseHeader:
    if not header.stream_optimized or header.compression != 1:
        raise MalformedError("not streamOptimized")
    if header.grain_size * _SECTOR > MAX_GRAIN:
        raise MalformedError("grain too large", f"{header.grain_size} sectors")
    if header.entries_per_table % 128 or not 0 < header.entries_per_table <= _MAX_ENTRIES:
        raise MalformedError("bad grain table size", str(header.entries_per_table))
    if header.capacity > MAX_CAPACITY // _SECTOR:
        raise UnsupportedError("too large", f"a disk of {header.capacity} sectors")
    if _table_count(header) > _MAX_TABLES:
        raise MalformedError("bad grain table size", f"{_table_count(header)} tables")
    if not 1 <= header.overhead <= _MAX_OVERHEAD:
        raise MalformedError("tables too large", f"{header.overhead} sectors before the first grain")
    return header


def inflate(data: bytes, limit: int) -> bytes:
    """A grain. Raises MalformedError "bad grain data", "bad grain size" for more than `limit` bytes."""
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(data, limit + 1)
    except zlib.error as error:
        raise MalformedError("bad grain data", str(error)) from None
    if len(inflated) > limit:
        raise MalformedError("bad grain size", f"inflates to more than {limit} bytes")
    if not inflater.eof or inflater.unused_data:
        raise MalformedError("bad grain data", "no whole zlib stream")
    return inflated


def _table_count(header: SparseHeader) -> int:
    return -(-header.capacity // (header.grain_size * header.entries_per_table))


def _sector_count(size: int) -> int:
    return -(-size // _SECTOR)


def _numbers(data: bytes) -> array[int]:
    """Little-endian 32-bit numbers."""
    numbers = array("I", data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


class _Tables:
    """Where grains were seen, until the table that says so comes; then where tables were."""

    def __init__(self, header: SparseHeader) -> None:
        self._entries = header.entries_per_table
        self._open: dict[int, array[int]] = {}
        self._closed: dict[int, int] = {}
        self.table_sectors = self._entries * 4 // _SECTOR
        self.directory_sectors = _sector_count(_table_count(header) * 4)

    def add(self, number: int, sector: int) -> None:
        table, entry = divmod(number, self._entries)
        if sector > _MAX_SECTOR or table in self._closed:
            raise MalformedError("grain out of order", "behind the table it belongs to")
        if table not in self._open:
            self._open[table] = array("I", bytes(4 * self._entries))
        self._open[table][entry] = sector

    def close(self, data: bytes, sector: int) -> None:
        """A table came: it is that of the first grains that have none yet; a spare one is all zeros."""
        seen = _numbers(bytes(len(data)))
        if self._open:
            table = next(iter(self._open))
            seen = self._open.pop(table)
            self._closed[table] = sector
        _agree(_numbers(data), seen)

    def check(self, data: bytes, sector: int) -> None:
        """The directory came: it names the table of each grain."""
        directory = _numbers(data)
        wrong = any(directory[table] != place for table, place in self._closed.items())
        if self._open or wrong or max(directory, default=0) >= sector:
            raise MalformedError("grain directory wrong", "a grain's table is missing or elsewhere")


def _agree(table: array[int], seen: array[int]) -> None:
    """Each entry is the sector of its grain; 0 (or 1, "zeros") where no grain came."""
    if table != seen and any(a != b and (b or a > 1) for a, b in zip(table, seen, strict=True)):
        raise MalformedError("grain table wrong", "does not agree with the grains before it")


class _Index:
    """Tables that came before the grains."""

    def __init__(self, header: SparseHeader, front: bytes) -> None:
        self._entries = header.entries_per_table
        self._grain_size = header.grain_size
        self._front = front
        self._directory = _numbers(self._slice(header.gd_offset, _table_count(header) * 4))
        tables = [table for table in self._directory if table]
        if len(tables) * self._entries * 4 > len(front):  # else the same bytes would be read a million times
            raise MalformedError("grain table wrong", f"no room for {len(tables)} tables")
        self._expected = 0
        for table in tables:
            self._expected += sum(entry > 1 for entry in _numbers(self._slice(table, self._entries * 4)))

    def _slice(self, sector: int, size: int) -> bytes:
        data = self._front[sector * _SECTOR : sector * _SECTOR + size]
        if len(data) != size:
            raise MalformedError("grain table wrong", "not before the first grain")
        return data

    def check(self, number: int, sector: int) -> None:
        table, entry = divmod(number, self._entries)
        place = self._directory[table]
        if not place or self._slice(place, self._entries * 4)[entry * 4 :][:4] != sector.to_bytes(
            4, "little"
        ):
            raise MalformedError("grain table wrong", f"has no grain {number} at sector {sector}")
        self._expected -= 1

    def check_complete(self) -> None:
        if self._expected:
            raise MalformedError("truncated", f"{self._expected} grains less than the tables name")


class StreamWriter:
    """Makes a streamOptimized file: `start`, any number of `write`, `finish`; each returns the next bytes."""

    def __init__(self, capacity: int, descriptor: bytes) -> None:
        """`capacity` in bytes, a multiple of 512; `descriptor` as `compose` makes it, at most 63 KiB.

        Raises UnsupportedError "too large".
        """
        if capacity > MAX_CAPACITY:
            raise UnsupportedError("too large", f"a disk of {capacity} bytes")
        if capacity % _SECTOR or not 0 < len(descriptor) <= (_OVERHEAD - 1) * _SECTOR:
            raise BugError("bad capacity or descriptor")
        self._sectors = capacity // _SECTOR
        self._descriptor = descriptor
        self._position = 0  # in the file, sectors
        self._table = 0
        self._entries = array("I", bytes(4 * _ENTRIES))
        self._directory = array("I", bytes(4 * -(-capacity // (GRAIN * _ENTRIES))))
        self._number = 0  # the grain in hand
        self._grain = bytearray(GRAIN)
        self._end = 0  # of what was written, bytes of the disk

    def start(self) -> bytes:
        """Header and descriptor."""
        front = self._header(GD_AT_END) + self._descriptor
        return self._count(front.ljust(_OVERHEAD * _SECTOR, b"\0"))

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> bytes:
        """`data` (any size) at byte `offset` of the disk, which is not before the end of what came already.

        Grains of zeros take no space. Raises UnsupportedError "too large" for a file above 2 TiB.
        """
        if offset < self._end or offset + len(data) > self._sectors * _SECTOR:
            raise BugError("written out of order or beyond the disk's capacity")
        self._end = offset + len(data)
        view = memoryview(data)
        made = b""
        while view:
            number, start = divmod(offset, GRAIN)
            if number != self._number:
                made += self._flush()
                self._number = number
            step = min(GRAIN - start, len(view))
            self._grain[start : start + step] = view[:step]
            view = view[step:]
            offset += step
        return made

    def finish(self) -> bytes:
        """The last grain, tables, footer, end of stream."""
        made = self._flush() + self._flush_table()
        directory = self._numbers(self._directory)
        made += self._count(_KIND.pack(len(directory) // _SECTOR, 0, _DIRECTORY).ljust(_SECTOR, b"\0"))
        place = self._position
        made += self._count(directory)
        footer = _KIND.pack(1, 0, _FOOTER).ljust(_SECTOR, b"\0") + self._header(place)
        return made + self._count(footer + bytes(_SECTOR))

    def _flush(self) -> bytes:
        """The grain in hand, and before it the table of grains that are all written."""
        if self._grain == _ZEROS:
            return b""
        table, entry = divmod(self._number, _ENTRIES)
        made = b""
        if table != self._table:
            made = self._flush_table()
            self._table = table
        self._entries[entry] = self._position
        packed = zlib.compress(self._grain)
        self._grain = bytearray(GRAIN)
        grain = MARKER.pack(self._number * (GRAIN // _SECTOR), len(packed)) + packed
        return made + self._count(grain.ljust(_sector_count(len(grain)) * _SECTOR, b"\0"))

    def _flush_table(self) -> bytes:
        if not any(self._entries):
            return b""
        data = self._numbers(self._entries)
        made = self._count(_KIND.pack(len(data) // _SECTOR, 0, _TABLE).ljust(_SECTOR, b"\0"))
        self._directory[self._table] = self._position
        self._entries = array("I", bytes(4 * _ENTRIES))
        return made + self._count(data)

    def _count(self, data: bytes) -> bytes:
        self._position += len(data) // _SECTOR
        if self._position > _MAX_SECTOR:
            raise UnsupportedError("too large", "a streamOptimized file has at most 2 TiB")
        return data

    def _header(self, gd_offset: int) -> bytes:
        return sparse.pack(
            SparseHeader(
                version=3,
                flags=_FLAGS,
                capacity=self._sectors,
                grain_size=GRAIN // _SECTOR,
                descriptor_offset=1,
                descriptor_size=_sector_count(len(self._descriptor)),
                entries_per_table=_ENTRIES,
                gd_offset=gd_offset,
                overhead=_OVERHEAD,
                unclean=False,
                compression=1,
            )
        )

    @staticmethod
    def _numbers(values: array[int]) -> bytes:
        data = struct.pack(f"<{len(values)}I", *values)
        return data.ljust(_sector_count(len(data)) * _SECTOR, b"\0")
