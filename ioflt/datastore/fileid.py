"""The UUID by which a file is known while it is converted, and the file id that a sealed VMX has for it."""

from __future__ import annotations

import os
from uuid import UUID

from ioflt.crypto.rng import random_bytes
from ioflt.datastore.header import read_header
from ioflt.datastore.standing import Treatment, stored_as
from ioflt.errors import CorruptDataError
from ioflt.format.vmx import sealed


def carries(fd: int, path: str, uuid: str) -> bool:
    """Whether `fd`, the file at `path`, is the encrypted file of that UUID (a sealed VMX has it as id)."""
    try:
        if stored_as(path) is Treatment.VMX:
            return sealed.peek(os.pread(fd, sealed.PEEK_SIZE, 0)).file_id == file_id_of(uuid)
        return read_header(fd).uuid == uuid
    except CorruptDataError:
        return False


def file_id_of(uuid: str) -> int:
    """The file id that goes with the UUID of a conversion: a sealed VMX has no room for more."""
    return (1 << 62) | (UUID(uuid).int & ((1 << 62) - 1))


def uuid_of(file_id: int) -> str:
    """A new UUID for which `file_id_of` gives this id (bit 62 set, bit 63 clear)."""
    low = (1 << 63) | (file_id & ((1 << 62) - 1))
    return str(UUID(int=int.from_bytes(random_bytes(8)) << 64 | low, version=4))
