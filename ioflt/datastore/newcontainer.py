"""Containers made: header, tokens and state blocks of a new, empty file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ioflt.crypto.rng import new_uuid, random_bytes
from ioflt.crypto.secret import Secret
from ioflt.datastore import atomic, stateblocks, tagfiles
from ioflt.datastore.datakeys import rewrap
from ioflt.format.luks2 import header as luks2
from ioflt.format.luks2 import state
from ioflt.format.luks2.layout import DATA_OFFSET
from ioflt.format.luks2.state import StateBlock
from ioflt.format.luks2.token import IofltToken
from ioflt.format.luks2.token import aad as token_aad
from ioflt.keys.service import KeyService
from ioflt.types import KeyRef


def new_file_id() -> int:
    """A random file id: bit 62 set, bit 63 clear, so that it never meets a backing inode number."""
    return (1 << 62) | (int.from_bytes(random_bytes(8)) & ((1 << 62) - 1))


@dataclass(frozen=True, slots=True)
class New:
    """What opens a container that was just made, without asking keyd again. Owns `dek`."""

    header: luks2.Header
    dek: Secret


def create(
    fd: int,
    keys: KeyService,
    by: Sequence[KeyRef],
    *,
    thin: bool,
    uuid: str | None = None,
    file_id: int | None = None,
    tags_in: int | None = None,
) -> None:
    """As `make`, for who does not go on with its key."""
    make(fd, keys, by, thin=thin, uuid=uuid, file_id=file_id, tags_in=tags_in).dek.wipe()


def make(
    fd: int,
    keys: KeyService,
    by: Sequence[KeyRef],
    *,
    thin: bool,
    uuid: str | None = None,
    file_id: int | None = None,
    tags_in: int | None = None,
) -> New:
    """Make an empty container in the new, empty file `fd`, under a new DEK wrapped by each key of `by`.

    Writes 40 KiB, syncs nothing: the caller does, before the file gets a name. Both state slots are written,
    so that no later commit needs space. `tags_in`: the directory of the home, which gets a file of tags for
    it, durable already.
    """
    uuid, tagged = uuid or new_uuid(), tags_in is not None
    ((dek, blob),) = keys.generate(by[0], [token_aad(uuid, thin, by[0], tagged=tagged)])
    try:
        token = IofltToken(by[0], thin, blob, tagged)
        header = luks2.new(uuid, dek, token)
        if len(by) > 1:
            header = header.with_tokens([token, *(rewrap(token, keys, uuid, key) for key in by[1:])])
        file_id = file_id or new_file_id()
        primary, secondary = luks2.serialize(header)
        atomic.write_all(fd, primary + secondary)
        with state.mac_key(dek, uuid) as mac_key:
            for sequence in (1, 2):
                stateblocks.write(fd, StateBlock(sequence, 0, file_id, None), mac_key)
        os.ftruncate(fd, DATA_OFFSET)
        if tags_in is not None:
            os.close(tagfiles.create(tags_in, dek, uuid))
        return New(header, dek)
    except BaseException:  # nobody else wipes it
        dek.wipe()
        raise
