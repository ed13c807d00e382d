"""One header copy: 16 KiB ↔ `HeaderCopy`. The JSON in it stays text here."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

from ioflt.crypto.mac import sha256
from ioflt.errors import BugError, MalformedError, UnsupportedError
from ioflt.format.luks2.layout import BINARY_SIZE, HEADER_OFFSETS, HEADER_SIZE, JSON_SIZE

#: Bytes of a header copy's salt, which only makes equal headers differ.
SALT_SIZE = 64
#: The highest sequence number: no header reaches it by counting, and no forged one makes ours roll over.
MAX_SEQUENCE = 2**63 - 1

_MAGICS = (b"LUKS\xba\xbe", b"SKUL\xba\xbe")
_VERSION = 2
_CHECKSUM = b"sha256"
# magic, version, hdr_size, seqid, label, csum_alg, salt, uuid, subsystem, hdr_offset, padding, csum
_HEAD = struct.Struct(">6sHQQ48s32s64s40s48sQ184s64s")
_SUM = slice(_HEAD.size - 64, _HEAD.size)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class HeaderCopy:
    """The fields of one copy; `text` is its JSON, without the NULs that fill the area."""

    uuid: str
    sequence: int
    label: str
    subsystem: str
    salt: bytes
    text: bytes = field(repr=False)


def is_uuid(text: str) -> bool:
    """Whether `text` is a UUID in its one canonical spelling."""
    return _UUID.fullmatch(text) is not None


def pack(copy: HeaderCopy, which: int) -> bytes:
    """Copy `which` (0 primary, 1 secondary), 16 KiB. Raises BugError when a field does not fit."""
    if not is_uuid(copy.uuid) or not 0 < copy.sequence <= MAX_SEQUENCE or len(copy.salt) != SALT_SIZE:
        raise BugError("a header field is out of range")
    head = _HEAD.pack(
        _MAGICS[which],
        _VERSION,
        HEADER_SIZE,
        copy.sequence,
        _string(copy.label, 48),
        _CHECKSUM,
        copy.salt,
        copy.uuid.encode(),
        _string(copy.subsystem, 48),
        HEADER_OFFSETS[which],
        b"",
        b"",
    )
    if len(copy.text) >= JSON_SIZE:
        raise BugError("the header's JSON does not fit")
    area = bytearray(head.ljust(BINARY_SIZE, b"\0") + copy.text.ljust(JSON_SIZE, b"\0"))
    area[_SUM] = sha256(area).ljust(64, b"\0")
    return bytes(area)


def has_magic(data: bytes) -> bool:
    """Whether a header copy begins there, sound or not."""
    return data[: len(_MAGICS[0])] in _MAGICS


def unpack(area: bytes, which: int) -> HeaderCopy:
    """The copy `which` (0 primary, 1 secondary) in its 16 KiB. Raises MalformedError and UnsupportedError."""
    if len(area) != HEADER_SIZE:
        raise MalformedError("truncated header", f"{len(area)} bytes")
    magic, version, size, sequence, label, algorithm, salt, uuid, subsystem, offset, padding, _ = (
        _HEAD.unpack_from(area)
    )
    if magic != _MAGICS[which]:
        raise MalformedError("bad magic")
    if version != _VERSION:
        raise UnsupportedError("unknown version", f"LUKS {version}")
    if size != HEADER_SIZE:
        raise UnsupportedError("foreign header size", str(size))
    if offset != HEADER_OFFSETS[which]:
        raise MalformedError("bad header offset", str(offset))
    if algorithm.rstrip(b"\0") != _CHECKSUM:
        raise UnsupportedError("unknown checksum")
    zeroed = bytearray(area)
    zeroed[_SUM] = bytes(64)
    if area[_SUM] != sha256(zeroed).ljust(64, b"\0"):
        raise MalformedError("bad checksum")
    if any(padding) or area[_HEAD.size : BINARY_SIZE] != bytes(BINARY_SIZE - _HEAD.size):
        raise MalformedError("non-zero padding")
    if not 0 < sequence <= MAX_SEQUENCE:
        raise MalformedError("absurd sequence", str(sequence))
    return HeaderCopy(
        _uuid(uuid), sequence, _text(label), _text(subsystem), salt, _json_text(area[BINARY_SIZE:])
    )


def _string(text: str, size: int) -> bytes:
    data = text.encode()
    if len(data) >= size or b"\0" in data:
        raise BugError("a header string does not fit")
    return data


def _text(data: bytes) -> str:
    text = data.rstrip(b"\0")
    if b"\0" in text or len(text) == len(data):
        raise MalformedError("bad label")
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise MalformedError("bad label", "not UTF-8") from None


def _uuid(data: bytes) -> str:
    text = data.rstrip(b"\0").decode("latin-1")
    if not is_uuid(text):
        raise MalformedError("bad uuid")
    return text


def _json_text(area: bytes) -> bytes:
    end = area.find(b"\0")
    if end < 0:
        raise MalformedError("unterminated JSON")
    if area[end:] != bytes(len(area) - end):  # 12 KiB: 1 µs; rstrip, which goes by bytes, takes 40
        raise MalformedError("data after JSON")
    return area[:end]
