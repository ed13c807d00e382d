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
    """`area`: the first AREA_SIZE bytes of the container at `path`, relative to the home."""

    path: str
    area: bytes = field(repr=False)


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
        blocks = [saved.area[start : start + _BLOCK] for start in range(0, AREA_SIZE, _BLOCK)]
        bits = sum(1 << (_BITS - 1 - index) for index, block in enumerate(blocks) if block != _ZERO)
        kept = b"".join(block for block in blocks if block != _ZERO)
        parts += [_ENTRY.pack(len(path), bits.to_bytes(_BITS // 8)), path, kept]
        size += _ENTRY.size + len(path) + len(kept)
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
        path_size, bitmap = _ENTRY.unpack(reader.take(_ENTRY.size))
        path = check_path(reader.take(path_size).decode("utf-8", "surrogateescape"))
        bits = int.from_bytes(bitmap)
        blocks = []
        for index in range(_BITS):
            present = bits >> (_BITS - 1 - index) & 1
            blocks.append(reader.take(_BLOCK) if present else _ZERO)
            if present and blocks[-1] == _ZERO:
                raise MalformedError("zero block")
        yield SavedHeader(path, b"".join(blocks))
