"""The file in which the changes of a disk file are kept: its state, in two slots. SPEC.md has the layout.

State number *n* goes to slot *n* mod 2, so the one before it survives a torn write.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from ioflt.crypto.kdf import hkdf
from ioflt.crypto.mac import TAG_SIZE, tag, verify
from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, BugError, MalformedError, UnsupportedError
from ioflt.format.cbt.changeid import MAX_SEQUENCE, UUID_SIZE

#: What the name of the file ends with.
SUFFIX: Final = ".cbt"

#: Bytes of the disk file that have one mark, and bits of that.
BLOCK_SHIFT: Final = 16
BLOCK: Final = 1 << BLOCK_SHIFT

#: Marks of a page of the map, and its bytes.
PAGE_MARKS: Final = 1024
PAGE_SIZE: Final = PAGE_MARKS * 4
PAGE_SHIFT: Final = BLOCK_SHIFT + 10

SLOT_SIZE: Final = 4096
SLOT_OFFSETS: Final = (0, 4096)
#: Where the map begins.
MAP_OFFSET: Final = 65536

#: Most pages with marks, of 4 GiB of memory; a file that has more written is not tracked.
MAX_PAGES: Final = 1 << 20
#: Most ends that are remembered.
MAX_TAILS: Final = 64

_MAGIC: Final = b"IOFLTcb\n"
_VERSION: Final = 1
# magic, version, flags, number, uuid, sequence, tails, inode, size, mtime, ctime, root
_HEAD = struct.Struct(">8sIIQ16sIIQQqq32s")
_MAC = slice(_HEAD.size, _HEAD.size + TAG_SIZE)
_TAIL = struct.Struct(">IIQ")  # sequence, reserved, block
_IN_USE = 1
_MAX_NUMBER = 2**63 - 1
_PAGE_DIGEST = struct.Struct(">Q32s")


@dataclass(frozen=True, slots=True)
class Stamp:
    """The disk file when its last writer went; times in nanoseconds, `ctime` 0 where it says nothing."""

    inode: int
    size: int
    mtime: int
    ctime: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """`sequence`: in which changes are marked now. `in_use`: a writer is at work, the map is not whole.

    `tails`, rising in both: in that sequence all from that block on changed. `root`: of the map, `root_of`.
    """

    number: int
    uuid: bytes
    sequence: int
    stamp: Stamp
    tails: tuple[tuple[int, int], ...]
    root: bytes
    in_use: bool = False


def mac_key(dek: Secret, uuid: str) -> Secret:
    """The key of the MAC, for the changes of the container `uuid`."""
    return hkdf(dek, "changed-blocks", UUID(uuid).bytes)


def clear_key() -> Secret:
    """In its place for a clear file: the MAC is a checksum then."""
    return Secret.allocate(TAG_SIZE)


def root_of(digests: Mapping[int, bytes]) -> bytes:
    """Of the map whose pages with marks have those SHA-256 digests."""
    hashed = hashlib.sha256()
    for page in sorted(digests):
        hashed.update(_PAGE_DIGEST.pack(page, digests[page]))
    return hashed.digest()


def slot_offset(number: int) -> int:
    """Where the slot of that number lies."""
    return SLOT_OFFSETS[number % 2]


def pages_of(size: int) -> int:
    """How many pages a disk file of so many bytes has."""
    return -(-size // (BLOCK * PAGE_MARKS))


def page_offset(page: int) -> int:
    """Where that page of the map lies."""
    return MAP_OFFSET + page * PAGE_SIZE


def pack(state: State, key: Secret) -> bytes:
    """The bytes of the slot. Raises BugError for a state that would not be read again."""
    fault = _fault(state)
    if fault:
        raise BugError(f"state of changes with a bad {fault}")
    stamp = state.stamp
    head = _HEAD.pack(
        _MAGIC,
        _VERSION,
        _IN_USE if state.in_use else 0,
        state.number,
        state.uuid,
        state.sequence,
        len(state.tails),
        stamp.inode,
        stamp.size,
        stamp.mtime,
        stamp.ctime,
        state.root,
    )
    tails = b"".join(_TAIL.pack(sequence, 0, block) for sequence, block in state.tails)
    return (head + tag(key, head + tails) + tails).ljust(SLOT_SIZE, b"\0")


def load(slot0: bytes, slot1: bytes, key: Secret) -> State:
    """The newest state whose MAC verifies.

    Raises AuthenticationError("no valid state of changes") when there is none, UnsupportedError when a slot
    is of another version or has an unknown flag, MalformedError when a MAC verifies over nonsense.
    """
    found = []
    for index, slot in enumerate((slot0, slot1)):
        if len(slot) == SLOT_SIZE and slot.startswith(_MAGIC):
            state = _parse(slot, key)
            if state is not None:
                if state.number % 2 != index:
                    raise MalformedError("state of changes in the wrong slot")
                found.append(state)
    if not found:
        raise AuthenticationError("no valid state of changes")
    return max(found, key=lambda state: state.number)


def _parse(slot: bytes, key: Secret) -> State | None:
    """None when the MAC does not verify."""
    _, version, flags, number, uuid, sequence, count, *stamp, root = _HEAD.unpack_from(slot)
    if version != _VERSION:
        raise UnsupportedError("unknown version", f"state of changes {version}")
    if flags & ~_IN_USE:
        raise UnsupportedError("unknown flag of changes", f"{flags:#x}")
    end = _MAC.stop + count * _TAIL.size
    if count > MAX_TAILS:
        return None
    try:
        verify(key, slot[: _HEAD.size] + slot[_MAC.stop : end], slot[_MAC])
    except AuthenticationError:
        return None
    entries = list(_TAIL.iter_unpack(slot[_MAC.stop : end]))
    tails = tuple((mark, block) for mark, _, block in entries)
    state = State(number, uuid, sequence, Stamp(*stamp), tails, root, bool(flags & _IN_USE))
    fault = "padding" if any(slot[end:]) or any(zero for _, zero, _ in entries) else _fault(state)
    if fault:
        raise MalformedError("bad state of changes", fault)
    return state


def _fault(state: State) -> str | None:
    if not 0 < state.number <= _MAX_NUMBER:
        return "number"
    if len(state.uuid) != UUID_SIZE or not 0 < state.sequence <= MAX_SEQUENCE or len(state.root) != 32:
        return "sequence"
    if len(state.tails) > MAX_TAILS:
        return "number of tails"
    before = (0, -1)
    for mark, block in state.tails:
        if not (before[0] < mark <= state.sequence and before[1] < block < 1 << (63 - BLOCK_SHIFT)):
            return "tail"
        before = (mark, block)
    return None
