"""State blocks: what LUKS2 has no place for, in two slots between keyslots and data.

Number *n* goes to slot *n* mod 2, so the one before it survives a torn write. Fields and MAC lie in the first
96 bytes, inside one disk sector of any size. SPEC.md has the layout.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from ioflt.crypto.kdf import hkdf
from ioflt.crypto.mac import TAG_SIZE, tag, verify
from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, BugError, CorruptDataError, MalformedError, UnsupportedError
from ioflt.format.luks2.layout import STATE_SLOT_SIZE
from ioflt.types import SECTOR_SIZE

#: The longest file: header, body and a last whole sector stay below 2**63.
MAX_LENGTH = 2**63 - 2**20 - SECTOR_SIZE

_MAGIC = b"IOFLTst\n"
_VERSION = 1
# magic, version, flags, sequence, length, initialised, file id, reserved
_HEAD = struct.Struct(">8sIIQQQQ16s")
_MAC = slice(_HEAD.size, _HEAD.size + TAG_SIZE)
_MAX_SEQUENCE = 2**63 - 1
_HAS_LENGTH = 1
_HAS_INITIALISED = 2


@dataclass(frozen=True, slots=True)
class StateBlock:
    """`length` in bytes; None: the body's size. `file_id`: the mount's inode number, bit 62 set, 63 clear.

    `initialised`: in a thick container, the byte (of the body, multiple of a sector) above which a sector of
    zero ciphertext was never written; None: none is left, or the container is thin.
    """

    sequence: int
    length: int | None
    file_id: int
    initialised: int | None = None


def mac_key(dek: Secret, uuid: str) -> Secret:
    """The key of the state blocks' MAC, for the container `uuid`."""
    return hkdf(dek, "state", UUID(uuid).bytes)


def slot_of(state: StateBlock) -> int:
    """Which slot this block is written to, 0 or 1."""
    return state.sequence % 2


def pack(state: StateBlock, key: Secret) -> bytes:
    """The 4096 bytes of the slot; `key` is `mac_key(...)`. Raises BugError for a field out of range."""
    flags = 0
    if state.length is not None:
        flags |= _HAS_LENGTH
    if state.initialised is not None:
        flags |= _HAS_INITIALISED
    fault = _fault(state)
    if fault:
        raise BugError(f"state block with a {fault}")
    head = _HEAD.pack(
        _MAGIC,
        _VERSION,
        flags,
        state.sequence,
        state.length or 0,
        state.initialised or 0,
        state.file_id,
        b"",
    )
    return (head + tag(key, head)).ljust(STATE_SLOT_SIZE, b"\0")


def peek(slot0: bytes, slot1: bytes) -> StateBlock | None:
    """The newest block that parses, its MAC not verified; None when there is none.

    For `stat` only. The first 96 bytes of each slot are enough.
    """
    found = [block for slot in (slot0, slot1) if (block := _parse_or_none(slot)) is not None]
    return max(found, key=lambda block: block.sequence, default=None)


def load(slot0: bytes, slot1: bytes, key: Secret) -> StateBlock:
    """The newest block whose MAC verifies; `key` is `mac_key(...)`.

    Raises AuthenticationError("no valid state block") when there is none, UnsupportedError when a slot is of
    another version or has an unknown flag, MalformedError when a MAC verifies over nonsense.
    """
    found = []
    for index, slot in enumerate((slot0, slot1)):
        if len(slot) != STATE_SLOT_SIZE:
            raise MalformedError("truncated state block")
        if not slot.startswith(_MAGIC):
            continue
        _check_version(slot)
        try:
            verify(key, slot[: _HEAD.size], slot[_MAC])
        except AuthenticationError:
            continue
        block = _parse(slot)
        if slot_of(block) != index:
            raise MalformedError("state block in the wrong slot")
        if slot[_MAC.stop :] != bytes(STATE_SLOT_SIZE - _MAC.stop):
            raise MalformedError("non-zero padding", "state block")
        found.append(block)
    if not found:
        raise AuthenticationError("no valid state block")
    return max(found, key=lambda block: block.sequence)


def _check_version(slot: bytes) -> None:
    version = int.from_bytes(slot[8:12])
    if version != _VERSION:
        raise UnsupportedError("unknown version", f"state block {version}")


def _parse_or_none(slot: bytes) -> StateBlock | None:
    try:
        return _parse(slot)
    except CorruptDataError:
        return None


def _parse(slot: bytes) -> StateBlock:
    if len(slot) < _MAC.stop or not slot.startswith(_MAGIC):
        raise MalformedError("bad magic", "state block")
    _check_version(slot)
    _, _, flags, sequence, length, initialised, file_id, reserved = _HEAD.unpack_from(slot)
    if flags & ~(_HAS_LENGTH | _HAS_INITIALISED) or any(reserved):
        raise UnsupportedError("unknown state flag", f"{flags:#x}")
    if (length and not flags & _HAS_LENGTH) or (initialised and not flags & _HAS_INITIALISED):
        raise MalformedError("bad state block", "a value without its flag")
    block = StateBlock(
        sequence,
        length if flags & _HAS_LENGTH else None,
        file_id,
        initialised if flags & _HAS_INITIALISED else None,
    )
    fault = _fault(block)
    if fault:
        raise MalformedError("bad state block", fault)
    return block


def _fault(state: StateBlock) -> str | None:
    if not 0 < state.sequence <= _MAX_SEQUENCE:
        return "sequence out of range"
    if not 0 <= (state.length or 0) <= MAX_LENGTH:
        return "length out of range"
    mark = state.initialised or 0
    if not 0 <= mark <= MAX_LENGTH or mark % SECTOR_SIZE:
        return "mark out of range"
    if state.file_id >> 62 != 1:
        return "file id out of range"
    return None
