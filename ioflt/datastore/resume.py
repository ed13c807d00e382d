"""Operations that were interrupted and that anyone may finish: those that never write plaintext."""

from __future__ import annotations

from ioflt.datastore import clearfiles, erase, lifecycle, move
from ioflt.datastore import recrypt as shallow
from ioflt.datastore.container import Progress
from ioflt.datastore.deep import home as deep
from ioflt.datastore.recrypt import Here
from ioflt.datastore.volume import Volume


def interrupted(
    volume: Volume, *, progress: Progress | None = None, but: str | None = None, here: Here | None = None
) -> list[tuple[str, str]]:
    """Finish them in all homes except `but`; (home, what was finished). What fails is logged.

    `here`: what a mount does for files that it has open itself.
    """
    erased = erase.resume(volume)
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
