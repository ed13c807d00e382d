"""Writes tests/vectors/qcow2 with `struct` and `zlib` alone: no code of `ioflt.format` is used.

tools/make_disk_vectors.py [DIRECTORY]
"""

from __future__ import annotations

import hashlib
import struct
import sys
import zlib
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


def disk(**pieces: bytes) -> str:
    """SHA-256 of the disk that has these clusters (`c5=…`) and zeros else."""
    found = bytearray(SIZE)
    for name, data in pieces.items():
        start = int(name[1:]) * CLUSTER
        found[start : start + len(data)] = data
    return hashlib.sha256(found).hexdigest()


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    return packer.compress(data) + packer.flush()


def write_qcow2(name: str, expect: str, comment: str, image: bytes, **headers: str) -> None:
    made = {"expect": expect, "comment": comment, "body": "zlib base64", **headers}
    folder = TARGET / "qcow2"
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


def write_all() -> None:
    ok = "ok"
    case = write_qcow2
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


write_all()
