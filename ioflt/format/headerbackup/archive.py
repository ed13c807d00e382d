"""The file of `ioflt header backup`: bytes ↔ `HeaderBackup`. Layout and reasons in SPEC.md.

Nothing here is authenticated: the hash finds damage. What the file holds vouches for itself: the record by
its MAC, each header by the data key that its token unwraps.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from ioflt.crypto.mac import sha256
from ioflt.errors import MalformedError, UnsupportedError, UsageError
from ioflt.format.luks2.layout import KEYSLOTS_OFFSET, KEYSLOTS_SIZE
from ioflt.format.record import record as form
from ioflt.format.record.names import check_path

#: Bytes of a container's header area: header copies and keyslots, no state blocks.
AREA_SIZE: Final = KEYSLOTS_OFFSET + KEYSLOTS_SIZE

#: Longest file: three hundred containers with three passphrases each, or ten thousand with none.
MAX_SIZE: Final = 256 << 20

MAGIC: Final = b"IOFLThb\n"
VERSION: Final = 1

_BLOCK: Final = 4096
_ZERO: Final = bytes(_BLOCK)
_BITS: Final = AREA_SIZE // _BLOCK  # 200
_HASH_SIZE: Final = 32
# magic, version, number of containers, bytes of the record; behind it the record
_HEAD = struct.Struct(">8sIII")
# bytes of the path, which blocks of the area follow (the first block is the highest bit)
_ENTRY = struct.Struct(f">H{_BITS // 8}s")


@dataclass(frozen=True, slots=True)
class SavedHeader:
    """The first AREA_SIZE bytes of the container at `path`, relative to the home; blocks of zeros left out.

    `present`: which blocks there are, as in the file; `blocks`: they, joined.
    """

    path: str
    present: bytes
    blocks: bytes = field(repr=False)

    @classmethod
    def of(cls, path: str, area: bytes) -> SavedHeader:
        """That of a whole header area."""
        blocks = [area[start : start + _BLOCK] for start in range(0, AREA_SIZE, _BLOCK)]
        bits = sum(1 << (_BITS - 1 - index) for index, block in enumerate(blocks) if block != _ZERO)
        return cls(path, bits.to_bytes(_BITS // 8), b"".join(block for block in blocks if block != _ZERO))

    @property
    def area(self) -> bytes:
        """The whole header area, made when it is asked for: nearly all of it is zeros."""
        blocks = iter(_split(self.blocks))
        bits = int.from_bytes(self.present)
        return b"".join(next(blocks) if bits >> (_BITS - 1 - n) & 1 else _ZERO for n in range(_BITS))


@dataclass(frozen=True, slots=True)
class HeaderBackup:
    """The home's record file as it was, and its containers' headers, sorted by path."""

    record: bytes
    headers: tuple[SavedHeader, ...]


def write(backup: HeaderBackup) -> bytes:
    """The file. Raises UsageError when it would be longer than MAX_SIZE."""
    parts = [_HEAD.pack(MAGIC, VERSION, len(backup.headers), len(backup.record)), backup.record]
    size = _HASH_SIZE
    for saved in backup.headers:
        path = saved.path.encode("utf-8", "surrogateescape")
        parts += [_ENTRY.pack(len(path), saved.present), path, saved.blocks]
        size += _ENTRY.size + len(path) + len(saved.blocks)
        if size > MAX_SIZE - form.MAX_SIZE:
            raise UsageError("the header backup would be too large: too many passphrases in one home")
    body = b"".join(parts)
    return body + sha256(body)


def parse(data: bytes) -> HeaderBackup:
    """The backup in a file. Raises MalformedError, UnsupportedError."""
    if len(data) > MAX_SIZE:
        raise MalformedError("too large", f"{len(data)} bytes")
    if not data.startswith(MAGIC):
        raise MalformedError("bad magic", "no header backup")
    body, found = data[:-_HASH_SIZE], data[-_HASH_SIZE:]
    if len(body) < _HEAD.size:
        raise MalformedError("truncated")
    _, version, count, record_size = _HEAD.unpack_from(body)
    if version != VERSION:
        raise UnsupportedError("unknown version", f"header backup {version}")
    if sha256(body) != found:
        raise MalformedError("bad checksum")
    reader = _Reader(body, _HEAD.size)
    record = reader.take(record_size)
    headers = tuple(_entries(reader, count))
    if reader.left:
        raise MalformedError("data behind the end", f"{reader.left} bytes")
    paths = [saved.path for saved in headers]
    if paths != sorted(set(paths)):
        raise MalformedError("paths not sorted")
    return HeaderBackup(record, headers)


class _Reader:
    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self._position = position

    @property
    def left(self) -> int:
        return len(self._data) - self._position

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise MalformedError("truncated", f"{size} bytes wanted, {self.left} left")
        self._position += size
        return self._data[self._position - size : self._position]


def _entries(reader: _Reader, count: int) -> Iterator[SavedHeader]:
    for _ in range(count):
        path_size, present = _ENTRY.unpack(reader.take(_ENTRY.size))
        path = check_path(reader.take(path_size).decode("utf-8", "surrogateescape"))
        if not any(present):  # else a few bytes would be a container
            raise MalformedError("no header")
        blocks = reader.take(int.from_bytes(present).bit_count() * _BLOCK)
        if _ZERO in _split(blocks):
            raise MalformedError("zero block")
        yield SavedHeader(path, present, blocks)


def _split(blocks: bytes) -> list[bytes]:
    return [blocks[start : start + _BLOCK] for start in range(0, len(blocks), _BLOCK)]
