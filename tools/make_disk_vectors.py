"""Writes tests/vectors/qcow2, cowd and sesparse with `struct` and `zlib`: no code of `ioflt.format` is used.

tools/make_disk_vectors.py [DIRECTORY]
"""

from __future__ import annotations

import hashlib
import struct
import sys
import zlib
from functools import partial
from pathlib import Path

from ioflt.testing.vectors import Vector, to_bytes

TARGET = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parents[1] / "tests" / "vectors"

# qcow2 with clusters of 512 bytes: an L2 table has 64 entries, and is for 32 KiB.
CLUSTER = 512
SIZE = 48 << 10
COPIED = 1 << 63
COMPRESSED = 1 << 62
L1_AT, L2_AT, DATA_AT = 1 * CLUSTER, 2 * CLUSTER, 4 * CLUSTER


def body(number: int, length: int = CLUSTER) -> bytes:
    """No two clusters alike."""
    return b"".join(hashlib.sha256(bytes((number, i))).digest() for i in range(length // 32))


def long(number: int) -> bytes:
    """A grain of 4 KiB that compresses well."""
    return body(number, 32) * 128


def qcow2(
    l2: dict[int, int],
    data: bytes,
    *,
    version: int = 3,
    magic: bytes = b"QFI\xfb",
    bits: int = 9,
    size: int = SIZE,
    crypt: int = 0,
    l1: tuple[int, ...] = (L2_AT | COPIED, L2_AT + CLUSTER | COPIED),
    l1_size: int = 2,
    l1_at: int = L1_AT,
    incompatible: int = 0,
    length: int = 104,
    after: bytes = b"",
    extensions: bytes = b"",
    backing: bytes = b"",
    backing_at: int | None = None,
) -> bytes:
    """An image: header, L1 table, two L2 tables, then the clusters in `data`."""
    end = (104 if version == 3 else 72) + len(after)
    more = extensions + bytes(8)
    place = (end + len(more) if backing else 0) if backing_at is None else backing_at
    head = struct.pack(
        ">4sIQIIQIIQQIIQ", magic, version, place, len(backing), bits, size, crypt, l1_size, l1_at, 0, 0, 0, 0
    )
    if version == 3:
        head += struct.pack(">QQQII", incompatible, 0, 0, 4, length)
    image = bytearray(DATA_AT)
    front = head + after + more + backing
    image[: len(front)] = front
    struct.pack_into(f">{len(l1)}Q", image, L1_AT, *l1)
    for number, entry in l2.items():
        struct.pack_into(">Q", image, L2_AT + 8 * number, entry)
    return bytes(image) + data


def at(number: int) -> int:
    """The entry of the cluster that comes `number`th in the data."""
    return DATA_AT + number * CLUSTER | COPIED


def extension(kind: int, data: bytes, length: int | None = None) -> bytes:
    size = len(data) if length is None else length
    return struct.pack(">II", kind, size) + data.ljust(-(-len(data) // 8) * 8, b"\0")


def disk(size: int = SIZE, unit: int = CLUSTER, **pieces: bytes) -> str:
    """SHA-256 of the disk that has these clusters (`c5=…`) and zeros else."""
    found = bytearray(size)
    for name, data in pieces.items():
        start = int(name[1:]) * unit
        found[start : start + len(data)] = data
    return hashlib.sha256(found).hexdigest()


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    return packer.compress(data) + packer.flush()


def write(kind: str, name: str, expect: str, comment: str, image: bytes, **headers: str) -> None:
    made = {"expect": expect, "comment": comment, "body": "zlib base64", **headers}
    folder = TARGET / kind
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(to_bytes(Vector(name, made, image)))


def packed(data: bytes, sectors: int) -> tuple[int, bytes]:
    """The entry of a compressed cluster 100 bytes into the data, and the data."""
    place = DATA_AT + 100
    entry = COMPRESSED | sectors << 61 | place
    return entry, (bytes(100) + data).ljust(2 * CLUSTER, b"\0")


FORMAT = 0xE2792ACA
ONE = {3: at(0)}
DATA = body(1)
TWO = body(1) + body(2)


def write_qcow2() -> None:
    ok = "ok"
    case = partial(write, "qcow2")
    case("one", ok, "one cluster", qcow2(ONE, DATA), sha256=disk(c3=DATA))
    case("version-2", ok, "version 2", qcow2(ONE, DATA, version=2), sha256=disk(c3=DATA))
    swapped = qcow2({3: at(1), 4: at(0), 95: at(1)}, TWO)
    case("places", ok, "clusters in another order, one used twice", swapped,
         sha256=disk(c3=body(2), c4=body(1), c95=body(2)))  # fmt: skip
    case("zero", ok, "marked as zeros, with a cluster", qcow2({3: at(0) | 1, 4: at(1)}, TWO),
         sha256=disk(c4=body(2)))  # fmt: skip
    case("no-table", ok, "no second L2 table", qcow2(ONE, DATA, l1=(L2_AT | COPIED, 0)),
         sha256=disk(c3=DATA))  # fmt: skip
    case("empty", ok, "nothing at all", qcow2({}, b"", l1=(0, 0)), sha256=disk())
    entry, data = packed(deflate(bytes(400) + DATA[:112]), 0)
    case("compressed", ok, "a compressed cluster", qcow2({7: entry}, data),
         sha256=disk(c7=bytes(400) + DATA[:112]))  # fmt: skip
    longer = bytes(100) + body(9, 448)
    entry, data = packed(deflate(longer[:512]), 1)
    case("compressed-long", ok, "one that reaches into the next sector", qcow2({7: entry}, data),
         sha256=disk(c7=longer[:512]))  # fmt: skip
    case("longer-header", ok, "a header with the compression", qcow2(ONE, DATA, length=112, after=bytes(8)),
         sha256=disk(c3=DATA))  # fmt: skip
    case("backing", ok, "a backing file and its format",
         qcow2(ONE, DATA, extensions=extension(FORMAT, b"qcow2"), backing=b"../day-1/base.qcow2"),
         sha256=disk(c3=DATA), backing="../day-1/base.qcow2", format="qcow2")  # fmt: skip
    case("backing-2", ok, "the same in version 2, without a format",
         qcow2(ONE, DATA, version=2, backing=b"base.qcow2"),
         sha256=disk(c3=DATA), backing="base.qcow2", format="-")  # fmt: skip
    case("extension", ok, "an extension that is not known",
         qcow2(ONE, DATA, extensions=extension(0x6803F857, bytes(48))), sha256=disk(c3=DATA))  # fmt: skip

    case("magic", "bad magic", "another format", qcow2(ONE, DATA, magic=b"QFI\xfa"))
    case("cut-2", "truncated", "71 bytes", qcow2(ONE, DATA)[:71])
    case("cut-3", "truncated", "103 bytes of version 3", qcow2(ONE, DATA)[:103])
    case("cut-l1", "truncated", "no L1 table", qcow2(ONE, DATA)[:L1_AT])
    case("cut-l2", "truncated", "half an L2 table", qcow2(ONE, DATA)[: L2_AT + 200])
    case("cut-data", "truncated", "half a cluster", qcow2(ONE, DATA)[: DATA_AT + 256])
    case("version-1", "unknown version", "version 1", qcow2(ONE, DATA, version=1))
    case("version-4", "unknown version", "version 4", qcow2(ONE, DATA, version=4))
    case("bits-8", "bad cluster size", "clusters of 256 bytes", qcow2(ONE, DATA, bits=8))
    case("bits-22", "bad cluster size", "clusters of 4 MiB", qcow2(ONE, DATA, bits=22))
    case("bits-2-32", "bad cluster size", "of 2^2^31", qcow2(ONE, DATA, bits=1 << 31))
    case("size-odd", "bad disk size", "half a sector", qcow2(ONE, DATA, size=SIZE + 256))
    case("size-2-63", "bad disk size", "beyond all files", qcow2(ONE, DATA, size=1 << 63))
    case("aes", "encrypted", "by AES", qcow2(ONE, DATA, crypt=1))
    case("luks", "encrypted", "by LUKS", qcow2(ONE, DATA, crypt=2))
    case("l1-short", "bad L1 table", "one entry, two needed", qcow2(ONE, DATA, l1_size=1))
    case("l1-long", "bad L1 table", "more than 32 MiB", qcow2(ONE, DATA, l1_size=(32 << 20) // 8 + 1))
    case("l1-huge", "bad L1 table", "a disk that needs more", qcow2(ONE, DATA, size=1 << 50))
    case("l1-odd", "bad L1 table", "not at a cluster", qcow2(ONE, DATA, l1_at=L1_AT + 8))
    case("l1-none", "bad L1 table", "nowhere", qcow2(ONE, DATA, l1_at=0))
    case("l1-far", "bad L1 table", "at 2^56", qcow2(ONE, DATA, l1_at=1 << 56))
    case("l1-reserved", "bad L1 entry", "a reserved bit", qcow2(ONE, DATA, l1=(L2_AT | COPIED | 1 << 60, 0)))
    case("l1-low", "bad L1 entry", "a low bit", qcow2(ONE, DATA, l1=(L2_AT | COPIED | 1, 0)))
    case("l2-reserved", "bad L2 entry", "a reserved bit", qcow2({3: at(0) | 1 << 57}, DATA))
    case("l2-low", "bad L2 entry", "a low bit", qcow2({3: at(0) | 2}, DATA))
    case("l2-zero-2", "bad L2 entry", "version 2 has no zeros", qcow2({3: at(0) | 1}, DATA, version=2))
    case("dirty", "marked dirty", "not closed", qcow2(ONE, DATA, incompatible=1))
    case("corrupt", "marked corrupt", "by QEMU", qcow2(ONE, DATA, incompatible=2))
    case("data-file", "external data file", "elsewhere", qcow2(ONE, DATA, incompatible=4))
    zstd = qcow2(ONE, DATA, incompatible=8, length=112, after=b"\1" + bytes(7))
    case("zstd", "unknown compression", "zstd", zstd)
    case("extended", "extended L2 entries", "subclusters", qcow2(ONE, DATA, incompatible=16))
    case("feature", "unknown feature", "bit 63", qcow2(ONE, DATA, incompatible=1 << 63))
    case("length-96", "bad header length", "too short", qcow2(ONE, DATA, length=96))
    case("length-108", "bad header length", "not a multiple of 8", qcow2(ONE, DATA, length=108))
    case("length-far", "bad header length", "longer than the file", qcow2(ONE, DATA, length=1 << 31))
    case("extension-long", "bad extension", "goes on behind the cluster",
         qcow2(ONE, DATA, extensions=extension(1, b"", 1 << 20)))  # fmt: skip
    case("format", "unknown backing format", "vpc",
         qcow2(ONE, DATA, extensions=extension(FORMAT, b"vpc"), backing=b"base"))  # fmt: skip
    for name, backing in {
        "absolute": b"/etc/shadow",
        "json": b'json:{"driver":"nbd"}',
        "nbd": b"nbd://10.0.0.1/x",
        "file": b"file:x.qcow2",
        "control": b"a\nb",
        "directory": b"base/",
    }.items():
        case(f"backing-{name}", "backing name not confined", f"the backing file {backing!r}",
             qcow2(ONE, DATA, backing=backing))  # fmt: skip
    case("backing-long", "backing name not confined", "1024 bytes",
         qcow2(ONE, DATA, bits=11, size=2048, l1=(0,), l1_at=2048, backing=b"b" * 1024))  # fmt: skip
    case("backing-far", "backing name not confined", "behind the first cluster",
         qcow2(ONE, DATA, backing=b"base", backing_at=CLUSTER - 2))  # fmt: skip
    entry, data = packed(b"\xff" * 100, 0)
    case("inflate", "bad compressed cluster", "no DEFLATE", qcow2({7: entry}, data))
    entry, data = packed(deflate(bytes(511)), 0)
    case("inflate-short", "bad compressed cluster", "511 bytes in it", qcow2({7: entry}, data))


# COWD: grains of one sector, the directory at 4, its only table at 5 to 36, grains from 37 on.
COWD_SECTORS = 100
COWD_GRAINS = 37


def cowd(
    table: dict[int, int],
    data: bytes,
    *,
    magic: bytes = b"COWD",
    version: int = 1,
    sectors: int = COWD_SECTORS,
    grain: int = 1,
    place: int = 4,
    entries: int = 1,
    directory: int = 5,
) -> bytes:
    head = struct.pack("<4s6I", magic, version, 3, sectors, grain, place, entries)
    numbers = [table.get(number, 0) for number in range(4096)]
    front = head.ljust(4 * 512, b"\0") + struct.pack("<I", directory).ljust(512, b"\0")
    return front + struct.pack("<4096I", *numbers) + data


def write_cowd() -> None:
    case = partial(write, "cowd")
    size = COWD_SECTORS * 512
    two = {3: COWD_GRAINS + 1, 4: COWD_GRAINS, 99: COWD_GRAINS + 1}
    case("places", "ok", "grains in another order, one used twice", cowd(two, TWO),
         sha256=disk(size, c3=body(2), c4=body(1), c99=body(2)))  # fmt: skip
    case("grain-8", "ok", "grains of 4 KiB, the last one cut", cowd({12: COWD_GRAINS}, long(3), grain=8),
         sha256=disk(size, 4096, c12=long(3)[:2048]))  # fmt: skip
    case("empty", "ok", "no table", cowd({}, b"", directory=0), sha256=disk(size))
    case("entries", "ok", "a longer directory", cowd(two, TWO, entries=100),
         sha256=disk(size, c3=body(2), c4=body(1), c99=body(2)))  # fmt: skip
    case("none", "ok", "no capacity", cowd({}, b"", sectors=0, entries=0), sha256=disk(0))
    case("magic", "bad magic", "of another format", cowd(two, TWO, magic=b"DWOC"))
    case("cut-header", "truncated", "27 bytes", cowd(two, TWO)[:27])
    case("cut-directory", "truncated", "no directory", cowd(two, TWO)[:2048])
    case("cut-table", "truncated", "half a table", cowd(two, TWO)[: 5 * 512 + 8192])
    case("cut-grain", "truncated", "half a grain", cowd(two, TWO)[:-256])
    case("far", "truncated", "a grain behind the end", cowd({1: 0xFFFFFFFF}, TWO))
    case("version", "unknown version", "version 2", cowd(two, TWO, version=2))
    case("grain-0", "bad grain size", "none", cowd(two, TWO, grain=0))
    case("grain-3", "bad grain size", "no power of two", cowd(two, TWO, grain=3))
    case("grain-4096", "bad grain size", "2 MiB", cowd(two, TWO, grain=4096))
    case("short", "bad grain directory", "one entry for two tables", cowd(two, TWO, sectors=4097))
    case("long", "bad grain directory", "2^32 - 1 entries", cowd(two, TWO, entries=(1 << 32) - 1))
    case("inside", "bad grain directory", "in the header", cowd(two, TWO, place=3))
    case("grain-in-header", "bad grain table entry", "sector 3", cowd({1: 3}, TWO))


# seSparse: volatile header at 1, directory at 2, two tables from 3 on, then grains of 4 KiB.
SE_SECTORS = 4096 * 8 + 24  # three grains of the second table
SE_GRAINS = 3 + 2 * 64
TABLE = 1 << 60


def grain(number: int) -> int:
    return 3 << 60 | (number & 0xFFF) << 48 | number >> 12


def sesparse(
    table: dict[int, int],
    data: bytes,
    *,
    magic: int = 0xCAFEBABE,
    version: int = 0x0000000200000001,
    sectors: int = SE_SECTORS,
    grain_size: int = 8,
    table_size: int = 64,
    flags: int = 0,
    reserved: int = 0,
    directory: tuple[int, int] = (TABLE, TABLE | 1),
    directory_size: int = 1,
    volatile: int = 0xCAFECAFE,
    journal: int = 0,
    tables: int = 3,
) -> bytes:
    places = (1, 1, 0, 0, 0, 0, 2, directory_size, tables, 128, 0, 0, 0, 0, SE_GRAINS, len(data) // 512)
    sizes = (magic, version, sectors, grain_size, table_size, flags, reserved, 0, 0, 0)
    head = struct.pack("<26Q", *sizes, *places).ljust(512, b"\0")
    state = struct.pack("<4Q", volatile, 0, 0, journal).ljust(512, b"\0")
    entries = [table.get(number, 0) for number in range(2 * 4096)]
    names = struct.pack("<2Q", *directory).ljust(512, b"\0")
    return head + state + names + struct.pack("<8192Q", *entries) + data


def write_sesparse() -> None:
    case = partial(write, "sesparse")
    size, unit = SE_SECTORS * 512, 4096
    first, second = long(1), long(2)
    both = first + second
    two = {3: grain(1), 5: grain(0), 4098: grain(1)}
    sum_of_two = disk(size, unit, c3=second, c5=first, c4098=second)
    case("places", "ok", "grains in another order, one used twice", sesparse(two, both), sha256=sum_of_two)
    swapped = sesparse({4096 + 3: grain(0), 1: grain(1)}, both, directory=(TABLE | 1, TABLE))
    case("tables", "ok", "tables in another order", swapped, sha256=disk(size, unit, c3=first, c4097=second))
    case("zeros", "ok", "unmapped, zeros, a grain", sesparse({0: 1 << 60 | 5, 1: 2 << 60, 2: grain(0)}, both),
         sha256=disk(size, unit, c2=first))  # fmt: skip
    case("empty", "ok", "no tables", sesparse({}, b"", directory=(0, 0)), sha256=disk(size))
    high = sesparse({0: grain(4096 + 1)}, bytes(4097 * 4096) + first)
    case("far", "ok", "the grain 4097, whose number is split", high, sha256=disk(size, unit, c0=first))
    case("magic", "bad magic", "of another format", sesparse(two, both, magic=0xCAFECAFE))
    case("cut-header", "truncated", "511 bytes", sesparse(two, both)[:511])
    case("cut-volatile", "truncated", "no volatile header", sesparse(two, both)[:512])
    case("cut-directory", "truncated", "no directory", sesparse(two, both)[:1024])
    case("cut-table", "truncated", "half a table", sesparse(two, both)[: 3 * 512 + 16384])
    case("cut-grain", "truncated", "half a grain", sesparse(two, both)[:-2048])
    case("behind", "truncated", "a grain behind the end", sesparse({0: grain(1 << 40)}, both))
    case("version", "unknown version", "2.2", sesparse(two, both, version=0x0000000200000002))
    case("grain", "bad grain size", "8 KiB", sesparse(two, both, grain_size=16))
    case("table", "bad grain size", "tables of 2048", sesparse(two, both, table_size=32))
    case("flags", "unknown flags", "one", sesparse(two, both, flags=1))
    case("reserved", "unknown flags", "in a reserved field", sesparse(two, both, reserved=1))
    case("large", "too large", "more than 64 TiB", sesparse(two, both, sectors=(64 << 40) // 512 + 1))
    case("short", "bad grain directory", "no sector", sesparse(two, both, directory_size=0))
    case("entry", "bad grain directory", "of another kind", sesparse(two, both, directory=(2 << 60, 0)))
    case("entry-low", "bad grain directory", "a number alone", sesparse(two, both, directory=(1, 0)))
    case("volatile", "bad volatile header", "another magic", sesparse(two, both, volatile=0xCAFEBABE))
    case("dirty", "marked dirty", "a journal to replay", sesparse(two, both, journal=1))
    case("kind", "bad grain table entry", "kind 4", sesparse({0: 4 << 60}, both))
    case("kind-0", "bad grain table entry", "a number of no kind", sesparse({0: 5}, both))


write_qcow2()
write_cowd()
write_sesparse()
