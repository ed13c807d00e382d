"""Writes tests/vectors/kmip/malformed: what is not KMIP, each for one reason.

Shares no code with `ioflt.wire`: the bytes are put together here. A second run writes the same.

    tools/make_kmip_vectors.py [DIR]    write, to the place in the tree by default
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from ioflt.testing.vectors import Vector, to_bytes

ROOT = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "kmip" / "malformed"

STRUCTURE, INTEGER, LONG, BIG, ENUMERATION, BOOLEAN, TEXT, BYTES = range(1, 9)
DATE, INTERVAL = 9, 10


def item(
    tag: int, kind: int, value: bytes, *, length: int | None = None, padding: bytes | None = None
) -> bytes:
    """An item; `length` and `padding` lie, where they are given."""
    said = len(value) if length is None else length
    pad = bytes(-len(value) % 8) if padding is None else padding
    return struct.pack(">II", tag << 8 | kind, said) + value + pad


def integer(tag: int, value: int) -> bytes:
    return item(tag, INTEGER, struct.pack(">i", value))


def version(major: int = 1, minor: int = 4) -> bytes:
    return item(0x420069, STRUCTURE, integer(0x42006A, major) + integer(0x42006B, minor))


def request_header(count: int = 1, more: bytes = b"") -> bytes:
    return item(0x420077, STRUCTURE, version() + more + integer(0x42000D, count))


def batch_item(operation: int, payload: bytes) -> bytes:
    named = item(0x42005C, ENUMERATION, struct.pack(">I", operation))
    return item(0x42000F, STRUCTURE, named + item(0x420079, STRUCTURE, payload))


def request(*parts: bytes) -> bytes:
    return item(0x420078, STRUCTURE, b"".join(parts))


def response(payload: bytes) -> bytes:
    """The answer to a GetAttributes."""
    now = item(0x420092, DATE, bytes(8))
    header = item(0x42007A, STRUCTURE, version() + now + integer(0x42000D, 1))
    named = item(0x42005C, ENUMERATION, struct.pack(">I", 11)) + item(0x42007F, ENUMERATION, bytes(4))
    one = item(0x42000F, STRUCTURE, named + item(0x42007C, STRUCTURE, payload))
    return item(0x42007B, STRUCTURE, header + one)


GET = batch_item(10, item(0x420094, TEXT, b"id-1"))


def nested(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        inner = item(0x420008, STRUCTURE, inner)
    return inner


def ttlv() -> Iterator[tuple[str, bytes, str, str]]:
    one = integer(0x42000D, 1)
    yield "empty", b"", "cut short", "no bytes at all"
    yield "header-cut", one[:7], "cut short", "seven bytes of a header"
    yield "value-cut", one[:-1], "cut short", "the last byte of the padding is missing"
    yield (
        "length-of-4-gib",
        item(0x420094, TEXT, b"", length=0xFFFFFFFF),
        "cut short",
        "a length of 4 GiB - 1",
    )
    yield "trailing", one + bytes(8), "trailing bytes", "eight zero bytes after the item"
    yield "too-large", item(0x420094, BYTES, bytes(1 << 20)), "too large", "one MiB and a header"
    yield (
        "tag-reserved",
        item(0x410001, INTEGER, bytes(4)),
        "reserved tag",
        "neither the standard's nor an extension",
    )
    yield "type-0", item(0x42000D, 0, b""), "unknown type", "type 0"
    yield "type-12", item(0x42000D, 12, b""), "unknown type", "one beyond the last type"
    yield "integer-8", item(0x42000D, INTEGER, bytes(8)), "wrong length", "an integer of eight bytes"
    yield "integer-3", item(0x42000D, INTEGER, bytes(3)), "wrong length", "an integer of three bytes"
    yield (
        "integer-padding",
        item(0x42000D, INTEGER, bytes(4), padding=b"\0\0\0\1"),
        "padding not zero",
        "one bit",
    )
    yield "long-4", item(0x420097, LONG, bytes(4)), "wrong length", "a long integer of four bytes"
    yield "big-0", item(0x420052, BIG, b""), "wrong length", "a big integer of no bytes"
    yield "big-12", item(0x420052, BIG, bytes(12)), "wrong length", "a big integer of twelve bytes"
    yield (
        "enumeration-2",
        item(0x42005C, ENUMERATION, bytes(2)),
        "wrong length",
        "an enumeration of two bytes",
    )
    yield "boolean-2", item(0x420010, BOOLEAN, bytes(7) + b"\2"), "bad boolean", "neither 0 nor 1"
    yield "boolean-high", item(0x420010, BOOLEAN, b"\1" + bytes(7)), "bad boolean", "1 in the highest byte"
    yield "boolean-4", item(0x420010, BOOLEAN, bytes(4)), "wrong length", "a boolean of four bytes"
    yield "text-latin-1", item(0x420094, TEXT, b"\xfc"), "not UTF-8", "ü in Latin 1"
    yield "text-overlong", item(0x420094, TEXT, b"\xc0\x80"), "not UTF-8", "NUL in two bytes"
    yield "text-surrogate", item(0x420094, TEXT, b"\xed\xa0\x80"), "not UTF-8", "half of a pair"
    yield "text-padding", item(0x420094, TEXT, b"a", padding=b"\0\0\0\0\0\0 "), "padding not zero", "a space"
    yield (
        "bytes-padding",
        item(0x420093, BYTES, b"a", padding=b"\1" + bytes(6)),
        "padding not zero",
        "one bit",
    )
    yield "date-4", item(0x420092, DATE, bytes(4)), "wrong length", "a time of four bytes"
    yield "interval-8", item(0x420049, INTERVAL, bytes(8)), "wrong length", "an interval of eight bytes"
    yield "structure-12", item(0x420008, STRUCTURE, bytes(12)), "wrong length", "no multiple of eight"
    inside = item(0x420008, STRUCTURE, integer(0x420009, 1)[:8])
    yield "child-beyond", inside + bytes(8), "cut short", "a child that ends after its structure"
    yield "too-deep", nested(34), "nested too deeply", "34 structures in each other"


def message() -> Iterator[tuple[str, bytes, str, str]]:
    yield "not-a-message", request_header(), "another message", "a header by itself"
    yield "no-header", request(GET), "missing field", "a batch item comes first"
    yield (
        "no-version",
        request(item(0x420077, STRUCTURE, integer(0x42000D, 1)), GET),
        "missing field",
        "in the header",
    )
    yield (
        "no-payload",
        request(request_header(), item(0x42000F, STRUCTURE, b"")),
        "missing field",
        "an empty item",
    )
    yield "batch-count", request(request_header(2), GET), "wrong batch count", "two are said, one is there"
    yield "two-versions", request(request_header(1, version()), GET), "twice the same field", "in the header"
    yield (
        "foreign-part",
        request(request_header(), GET, integer(0x42000D, 1)),
        "unknown field",
        "after the items",
    )
    many = request(request_header(1025), GET * 1025)
    yield "batch-1025", many, "too many items", "1,025 items"
    numbered = integer(0x420094, 1)
    yield "id-integer", response(numbered), "wrong type", "a unique identifier that is a number"
    yield "no-id", response(b""), "missing field", "attributes of nobody"
    header = item(0x420077, INTEGER, bytes(4))
    yield "header-integer", request(header, GET), "wrong type", "a header that is a number"


def xml() -> Iterator[tuple[str, bytes, str, str]]:
    def leaf(kind: str, value: str, name: str = "BatchCount") -> bytes:
        return f'<{name} type="{kind}" value="{value}"/>'.encode()

    yield "not-xml", b"<KMIP>", "not XML", "never closed"
    bomb = b'<!DOCTYPE a [<!ENTITY b "c">]><BatchCount type="Integer" value="&b;"/>'
    yield "entity", bomb, "not XML", "a document that defines entities"
    yield "tag-unknown", leaf("Integer", "1", "NoSuchTag"), "unknown tag", "a name that no version has"
    yield "ttlv-no-number", b'<TTLV type="Integer" value="1"/>', "unknown tag", "the tag's number is missing"
    yield "type-unknown", leaf("Float", "1"), "unknown type", "KMIP has no fractions"
    yield "no-value", b'<BatchCount type="Integer"/>', "bad value", "an integer without a value"
    yield "integer-word", leaf("Integer", "one"), "bad value", "a word"
    yield "integer-large", leaf("Integer", "2147483648"), "bad value", "two to the 31st"
    yield "enumeration-name", leaf("Enumeration", "Created", "Operation"), "bad value", "no such operation"
    yield "mask-name", leaf("Integer", "Encrypt Crypt", "CryptographicUsageMask"), "bad value", "no such use"
    yield "boolean-yes", leaf("Boolean", "yes", "BatchOrderOption"), "bad value", "neither true nor false"
    yield "bytes-odd", leaf("ByteString", "abc", "UniqueBatchItemID"), "bad value", "half a byte"
    yield (
        "date-month-13",
        leaf("DateTime", "2020-13-01T00:00:00Z", "TimeStamp"),
        "bad value",
        "a thirteenth month",
    )
    yield "value-and-child", b'<Name type="TextString" value="a"><NameType/></Name>', "bad value", "both"


def main() -> int:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    directory.mkdir(parents=True, exist_ok=True)
    for kind, cases in (("ttlv", ttlv()), ("message", message()), ("xml", xml())):
        for name, body, expect, comment in cases:
            headers = {"expect": expect, "comment": comment, "kind": kind}
            if len(body) > 4096:
                headers["body"] = "zlib base64"
            (directory / f"{kind}-{name}").write_bytes(to_bytes(Vector(name, headers, body)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
