"""Operations that were interrupted and that anyone may finish: those that never write plaintext."""

from __future__ import annotations

from collections.abc import Set
from contextlib import suppress

from ioflt.datastore import clearfiles, erase, lifecycle, move, records
from ioflt.datastore import recrypt as shallow
from ioflt.datastore.container import Progress
from ioflt.datastore.deep import home as deep
from ioflt.datastore.recrypt import Here
from ioflt.datastore.volume import Volume
from ioflt.errors import IofltError
from ioflt.format.record import record as form
from ioflt.format.record.record import DatastoreRecord, Deep, HomeRecord, Operation, Recrypt
from ioflt.types import KeyRef


def interrupted(
    volume: Volume, *, progress: Progress | None = None, but: str | None = None, here: Here | None = None
) -> list[tuple[str, str]]:
    """Finish them in all homes except `but`; (home, what was finished). What fails is logged.

    `here`: what a mount does for files that it has open itself.
    """
    erased = erase.resume(volume, progress)
    moved = move.resume(volume, but=but)
    renamed = clearfiles.resume(volume, but=but)
    encrypted = lifecycle.resume_encryptions(volume, progress=progress, but=but)
    recrypted = shallow.resume(volume, progress=progress, but=but, here=here)
    rewritten = deep.resume(volume, progress=progress, but=but)
    return [
        *((hidden, "erase") for hidden in erased),
        *((name, "move") for name in moved),
        *((name, "rename") for name in renamed),
        *((name, "encryption") for name in encrypted),
        *((name, "recrypt") for name in recrypted),
        *((name, "deep recrypt") for name in rewritten),
    ]


def wanted(volume: Volume) -> Set[KeyRef]:
    """Keys that what is interrupted may need, by what records claim."""
    keys = set[KeyRef]()
    if volume.claimed.operation is not None:
        keys |= _keys(volume.claimed)
    for name in volume.homes():
        with suppress(IofltError, OSError):
            record = form.parse_home(records.read(volume.home(name).fd)).record
            if record.operation is not None and not _is_decryption(record):
                keys |= _keys(record) or _keys(volume.claimed)
    return keys


def _keys(record: HomeRecord | DatastoreRecord) -> set[KeyRef]:
    operation = record.operation
    changed = (*operation.old, *operation.to) if isinstance(operation, Recrypt | Deep) else ()
    return {*record.keys, *changed}


def _is_decryption(record: HomeRecord) -> bool:
    return isinstance(record.operation, Operation) and record.operation.kind == "decrypt"
