"""Ways into a container beside its tokens: passphrases, a header backup, and a body that others can read.

Everything here works on an open descriptor (read and write) whose OFD writer's lock the caller has; `reach`
gets it, or asks the mount that has it. Slot material is on the medium before a header names it, and is
overwritten before the header that forgets it: a removal that stops half-way leaves no way in. Tokens are
never touched, so no passphrase is ever the last way in.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ioflt.crypto.rng import random_bytes
from ioflt.crypto.secret import Secret
from ioflt.datastore import atomic, header, stateblocks
from ioflt.datastore.container import FILL_STEP, Container
from ioflt.datastore.datakeys import unwrap
from ioflt.datastore.newcontainer import new_file_id
from ioflt.errors import (
    AuthenticationError,
    CorruptDataError,
    KeyUnavailableError,
    MalformedError,
    NotFoundError,
)
from ioflt.format.luks2 import header as luks2
from ioflt.format.luks2 import keyslot, state
from ioflt.format.luks2.layout import (
    DATA_OFFSET,
    HEADERS_SIZE,
    KEYSLOTS_OFFSET,
    KEYSLOTS_SIZE,
    STATE_SLOT_OFFSETS,
    STATE_SLOT_SIZE,
)
from ioflt.format.luks2.state import StateBlock
from ioflt.keys.service import KeyService
from ioflt.sectors import round_down, round_up

#: Bytes of a header area, which is what a backup holds: both header copies and the keyslots.
HEADER_AREA = KEYSLOTS_OFFSET + KEYSLOTS_SIZE


def slots(fd: int) -> tuple[int, ...]:
    """The numbers of the passphrase slots. Raises CorruptDataError."""
    return header.read_header(fd).keyslots


def find_slot(fd: int, passphrase: Secret) -> int | None:
    """The slot that the passphrase opens. Each slot costs its key derivation. Raises CorruptDataError."""
    return _opened_by(fd, header.read_header(fd), passphrase)


def add_slot(fd: int, keys: KeyService, passphrase: Secret) -> int:
    """Let the passphrase open the container; the number of its slot, which may have been there before.

    Raises UsageError when all places are taken, BusyError, CorruptDataError, KeyUnavailableError, OSError.
    """
    with header.locked(fd):
        found = header.read_header(fd)
        number = _opened_by(fd, found, passphrase)
        if number is not None:
            _settle(fd)
            return number
        with unwrap(found, keys) as dek:
            made, offset, area = keyslot.make_keyslot(found, passphrase, dek)
        _put(fd, offset, area)
        header.change(fd, lambda _same: made)
        (number,) = set(made.keyslots) - set(found.keyslots)
        return number


def remove_slot(fd: int, slot: int | None, passphrase: Secret | None) -> int:
    """Remove the slot of that number, or else the one that the passphrase opens; its number.

    Raises NotFoundError when there is none, BusyError, CorruptDataError, OSError.
    """
    with header.locked(fd):
        found = header.read_header(fd)
        if slot is None and passphrase is not None:
            slot = _opened_by(fd, found, passphrase)
            if slot is None:
                _settle(fd)
                raise NotFoundError("no slot that this passphrase opens")
        if slot is None or slot not in found.keyslots:
            raise NotFoundError(f"no recovery slot {slot}")
        area = keyslot.area_of(found, slot)
        left = found.without_keyslot(slot)
        _put(fd, area.offset, random_bytes(area.size))
        header.change(fd, lambda _same: left)
        return slot


def read_header_area(fd: int) -> bytes:
    """What a backup holds of a container: its newest header, twice, and the keyslots; HEADER_AREA bytes.

    Raises CorruptDataError, BusyError.
    """
    with header.locked(fd):
        primary, secondary = luks2.serialize(header.read_header(fd))
        material = os.pread(fd, KEYSLOTS_SIZE, KEYSLOTS_OFFSET)
    return primary + secondary + material.ljust(KEYSLOTS_SIZE, b"\0")


def check_restore(fd: int, keys: KeyService, header_area: bytes) -> None:
    """Whether `restore_header` would refuse. `fd` need only be readable.

    Raises AuthenticationError("another container") or ("another key epoch"), CorruptDataError,
    KeyUnavailableError.
    """
    backup = _parse_area(header_area)
    with _verified_dek(backup, keys) as dek:
        _check_epoch(fd, keys, backup, dek)


def restore_header(fd: int, keys: KeyService, header_area: bytes) -> None:
    """Put a backup of `read_header_area` in place of what header and keyslots are now.

    State blocks that verify stay; where none does, the length becomes the body's size. Raises as
    `check_restore`, BusyError, OSError; then nothing was changed.
    """
    backup = _parse_area(header_area)
    with _verified_dek(backup, keys) as dek, header.locked(fd):
        has_state = _check_epoch(fd, keys, backup, dek)
        _put(fd, KEYSLOTS_OFFSET, header_area[HEADERS_SIZE:])
        if not has_state:
            _put_new_state(fd, backup, dek)
        present = _present(fd)
        newest = max(backup.sequence, present.sequence if present else 0)
        header.write(fd, backup.with_sequence(newest + 1))


def fill(fd: int, keys: KeyService, progress: Callable[[int], None], *, tags_in: int | None = None) -> int:
    """Write encrypted zeros into all holes of the body, so that stock tools read zeros there.

    Returns the bytes looked at. Takes over `fd`. `progress` hears of the bytes of each step. `tags_in`: the
    directory of its home. Keeps the mtime. Raises CorruptDataError, KeyUnavailableError, OSError.
    """
    container = Container.open(fd, keys, writable=True, tags_in=tags_in)
    try:
        size = min(container.body_size, round_up(container.length))
        while (step := container.fill_step()) is not None:  # thick, its filler not done yet
            container.fill(step)
            progress(step[1])
        if container.thin:
            for offset in range(0, size, FILL_STEP):
                length = min(FILL_STEP, size - offset)
                container.fill_holes(offset, length)
                progress(length)
        os.fsync(container.fd)
        container.flush()
        return size
    finally:
        container.close()


def _settle(fd: int) -> None:
    """Write both header copies anew, should an interrupted change have left them different."""
    if not header.is_whole(fd):
        header.change(fd, lambda same: same)


def _opened_by(fd: int, found: luks2.Header, passphrase: Secret) -> int | None:
    for number in found.keyslots:
        place = keyslot.area_of(found, number)
        try:
            keyslot.open_keyslot(found, number, os.pread(fd, place.size, place.offset), passphrase).wipe()
        except CorruptDataError:  # another passphrase, or a slot that only stock cryptsetup reads
            continue
        return number
    return None


def _parse_area(header_area: bytes) -> luks2.Header:
    if len(header_area) != HEADER_AREA:
        raise MalformedError("truncated header backup", f"{len(header_area)} bytes, not {HEADER_AREA}")
    backup = luks2.parse(header_area)
    luks2.check_profile(backup)
    return backup


def _verified_dek(backup: luks2.Header, keys: KeyService) -> Secret:
    dek = unwrap(backup, keys)
    try:
        luks2.verify_digest(backup, dek)
    except BaseException:  # no key stays, whatever it was
        dek.wipe()
        raise
    return dek


def _check_epoch(fd: int, keys: KeyService, backup: luks2.Header, dek: Secret) -> bool:
    """Refuse a backup of another container or key epoch. Returns whether a state block verifies.

    State blocks are the best witness, being MACed under DEK and UUID; after them the header's digest. Where
    neither is left there is nothing that the backup could contradict.
    """
    present = _present(fd)
    if present is not None and luks2.is_recrypting(present):
        raise AuthenticationError("another key epoch", "the data is being rewritten for another data key")
    has_state = _state_verifies(fd, backup, dek)
    if not has_state:
        if present is not None and present.uuid != backup.uuid:
            raise AuthenticationError("another container", f"the backup is of {backup.uuid}")
        if present is not None:
            _expect_digest(present, dek)
        elif stateblocks.peek(fd) is not None:
            raise AuthenticationError("another key epoch", "the state blocks were made with another key")
    if present is not None and _is_wrapped_anew(present, backup, keys):
        raise AuthenticationError("another key epoch", "the data key has been wrapped anew since the backup")
    return has_state


def _present(fd: int) -> luks2.Header | None:
    try:
        found = luks2.parse(os.pread(fd, HEADERS_SIZE, 0))
        luks2.is_recrypting(found)  # of our profile, but for that
        return found
    except CorruptDataError:
        return None


def _state_verifies(fd: int, backup: luks2.Header, dek: Secret) -> bool:
    with state.mac_key(dek, backup.uuid) as mac_key:
        try:
            stateblocks.load(fd, mac_key)
        except CorruptDataError:
            return False
    return True


def _expect_digest(present: luks2.Header, dek: Secret) -> None:
    try:
        luks2.verify_digest(present, dek)
    except AuthenticationError:
        raise AuthenticationError("another key epoch", "the backup is from before another data key") from None


def _is_wrapped_anew(present: luks2.Header, backup: luks2.Header, keys: KeyService) -> bool:
    """Whether the header in place names other KEKs than the backup does, and is not merely damaged."""
    if {token.key for token in present.tokens} == {token.key for token in backup.tokens}:
        return False
    try:
        unwrap(present, keys).wipe()
    except KeyUnavailableError:
        return True
    except CorruptDataError:
        return False
    return True


def _put_new_state(fd: int, backup: luks2.Header, dek: Secret) -> None:
    """A first state block: length as the body has it. A thick body counts as not yet filled: that is always
    true to what it holds, since a sector of data never encrypts to zeros."""
    if os.fstat(fd).st_size < DATA_OFFSET:
        os.ftruncate(fd, DATA_OFFSET)
    length = round_down(os.fstat(fd).st_size - DATA_OFFSET) if backup.tagged else None
    block = StateBlock(2, length, new_file_id(), None if backup.thin else 0)
    with state.mac_key(dek, backup.uuid) as mac_key:
        slot = state.slot_of(block)
        _put(fd, STATE_SLOT_OFFSETS[1 - slot], bytes(STATE_SLOT_SIZE))
        _put(fd, STATE_SLOT_OFFSETS[slot], state.pack(block, mac_key))


def _put(fd: int, offset: int, data: bytes) -> None:
    """Write and sync; the file's times stay."""
    info = os.fstat(fd)
    atomic.write_all(fd, data, offset)
    atomic.keep_times(fd, info)
    os.fsync(fd)
