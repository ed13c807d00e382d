"""The state blocks of a stored container, in their two slots: see `format.luks2.state` for what they say."""

from __future__ import annotations

import os

from ioflt.crypto.secret import Secret
from ioflt.datastore import atomic
from ioflt.format.luks2 import state
from ioflt.format.luks2.layout import STATE_SLOT_OFFSETS, STATE_SLOT_SIZE
from ioflt.format.luks2.state import StateBlock


def read_slots(fd: int) -> tuple[bytes, bytes]:
    """The two slots, 4096 bytes each (less where the file ends)."""
    first, second = STATE_SLOT_OFFSETS
    return os.pread(fd, STATE_SLOT_SIZE, first), os.pread(fd, STATE_SLOT_SIZE, second)


def peek(fd: int) -> StateBlock | None:
    """See `state.peek`: nobody verified it."""
    return state.peek(*read_slots(fd))


def load(fd: int, key: Secret) -> StateBlock:
    """The newest one that verifies. Raises CorruptDataError."""
    return state.load(*read_slots(fd), key)


def write(fd: int, block: StateBlock, key: Secret) -> None:
    """Into its slot, which is that of the one before the last. Syncs nothing."""
    atomic.write_all(fd, state.pack(block, key), STATE_SLOT_OFFSETS[state.slot_of(block)])
