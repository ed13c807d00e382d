"""The sidecar of a recrypt in place: how far it came, and the segment it is at. SPEC.md has the layout.

Slot number *n* lies at place *n* mod 2 and has journal *n* mod 2, so that while one pair is written the other
stays whole. All fields lie in the first 160 bytes, inside one disk sector of any size.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from ioflt.crypto.kdf import hkdf
from ioflt.crypto.mac import TAG_SIZE, sha256, tag, verify
from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, BugError, CorruptDataError, MalformedError, UnsupportedError
from ioflt.types import SECTOR_SIZE

#: Bytes of a slot, and where the two are.
SLOT_SIZE = 4096
SLOT_OFFSETS = (0, 65536)
#: Where the first journal begins.
JOURNALS_OFFSET = 131072
#: The largest journal that is accepted, bytes.
MAX_SEGMENT = 64 << 20

_MAGIC = b"IOFLTrk\n"
_VERSION = 1
# magic, version, flags, sequence, UUID, UUID to be, body, segment, done, hot, mtime, hash of the journal
_HEAD = struct.Struct(">8sIIQ16s16sQQQQq32s")
_MAC = slice(_HEAD.size, _HEAD.size + TAG_SIZE)
_MAX_SEQUENCE = 2**63 - 1
_MAX_BODY = 2**63 - 2**20 - SECTOR_SIZE
_NO_HASH = bytes(TAG_SIZE)


@dataclass(frozen=True, slots=True)
class Slot:
    """Bytes of the body (of `body`) below `done` are under the new DEK; `hot` more lie in the journal.

    `journal_hash` is the SHA-256 of those, or zeros. `segment`: bytes of a journal. `mtime`: nanoseconds.
    """

    sequence: int
    uuid: str
    future_uuid: str
    body: int
    segment: int
    done: int
    hot: int
    mtime: int
    journal_hash: bytes = _NO_HASH


def mac_key(old: Secret, new: Secret, uuid: str, future_uuid: str) -> Secret:
    """The key of the slots' MAC, from both DEKs."""
    with Secret.allocate(len(old) + len(new)) as both:
        both.buffer()[: len(old)] = old.view()
        both.buffer()[len(old) :] = new.view()
        return hkdf(both, "recrypt", UUID(uuid).bytes + UUID(future_uuid).bytes)


def slot_offset(sequence: int) -> int:
    """Where the slot of that number lies."""
    return SLOT_OFFSETS[sequence % 2]


def journal_offset(sequence: int, segment: int) -> int:
    """Where the journal of the slot of that number lies."""
    return JOURNALS_OFFSET + sequence % 2 * segment


def file_size(segment: int) -> int:
    """Bytes of a sidecar."""
    return JOURNALS_OFFSET + 2 * segment


def has_journal(slot: Slot, journal: bytes) -> bool:
    """Whether these are the slot's `hot` bytes; a slot without any has them always."""
    return slot.hot == 0 or (len(journal) == slot.hot and sha256(journal) == slot.journal_hash)


def pack(slot: Slot, key: Secret) -> bytes:
    """The 4096 bytes of the slot; `key` is `mac_key(...)`. Raises BugError for a field out of range."""
    fault = _fault(slot)
    if fault:
        raise BugError(f"recrypt slot with a bad {fault}")
    head = _HEAD.pack(
        _MAGIC,
        _VERSION,
        0,
        slot.sequence,
        UUID(slot.uuid).bytes,
        UUID(slot.future_uuid).bytes,
        slot.body,
        slot.segment,
        slot.done,
        slot.hot,
        slot.mtime,
        slot.journal_hash,
    )
    return (head + tag(key, head)).ljust(SLOT_SIZE, b"\0")


def load(slot0: bytes, slot1: bytes, key: Secret) -> tuple[Slot, ...]:
    """The slots whose MAC verifies, newest first; a journal is for the caller to compare with its hash.

    Raises AuthenticationError("no valid recrypt slot") when there is none, UnsupportedError for another
    version, MalformedError when a MAC verifies over nonsense.
    """
    found = []
    for index, data in enumerate((slot0, slot1)):
        if len(data) != SLOT_SIZE:
            raise MalformedError("truncated recrypt slot")
        if not data.startswith(_MAGIC):
            continue
        _check_version(data)
        try:
            verify(key, data[: _HEAD.size], data[_MAC])
        except AuthenticationError:
            continue
        slot = _parse(data)
        if slot.sequence % 2 != index:
            raise MalformedError("recrypt slot in the wrong place")
        if data[_MAC.stop :].strip(b"\0"):
            raise MalformedError("non-zero padding", "recrypt slot")
        found.append(slot)
    if not found:
        raise AuthenticationError("no valid recrypt slot")
    return tuple(sorted(found, key=lambda slot: -slot.sequence))


def peek_mtime(slot0: bytes, slot1: bytes) -> int | None:
    """The mtime of the newest slot that parses, its MAC not verified; None when there is none."""
    found = []
    for data in (slot0, slot1):
        try:
            if len(data) == SLOT_SIZE and data.startswith(_MAGIC):
                found.append(_parse(data))
        except CorruptDataError:
            continue
    newest = max(found, key=lambda slot: slot.sequence, default=None)
    return None if newest is None else newest.mtime


def _check_version(data: bytes) -> None:
    version, flags = struct.unpack_from(">II", data, len(_MAGIC))
    if version != _VERSION:
        raise UnsupportedError("unknown version", f"recrypt slot {version}")
    if flags:
        raise UnsupportedError("unknown recrypt flag", f"{flags:#x}")


def _parse(data: bytes) -> Slot:
    _check_version(data)
    _, _, _, sequence, uuid, future, body, segment, done, hot, mtime, digest = _HEAD.unpack_from(data)
    uuids = str(UUID(bytes=uuid)), str(UUID(bytes=future))
    slot = Slot(sequence, *uuids, body, segment, done, hot, mtime, digest)
    fault = _fault(slot)
    if fault:
        raise MalformedError("bad recrypt slot", fault)
    return slot


def _fault(slot: Slot) -> str | None:
    if not 0 < slot.sequence <= _MAX_SEQUENCE:
        return "sequence"
    if not 0 < slot.segment <= MAX_SEGMENT or not 0 <= slot.hot <= slot.segment:
        return "segment"
    if not 0 <= slot.done <= slot.done + slot.hot <= slot.body <= _MAX_BODY:
        return "range"
    if any(number % SECTOR_SIZE for number in (slot.segment, slot.hot, slot.done, slot.body)):
        return "size"
    if (slot.hot == 0) != (slot.journal_hash == _NO_HASH):
        return "hash"
    return None
