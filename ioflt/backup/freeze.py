"""File systems of a guest held still for a moment, by the agent in it, and let go in any case."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ioflt.backup.qmp import GuestAgent
from ioflt.errors import IofltError, PeerError
from ioflt.format.manifest.model import Consistency

#: Seconds that a guest has to write everything back.
FREEZE_S: Final = 60.0
_THAW_S: Final = 30.0


@dataclass(slots=True)
class Moment:
    """What can be said of it, once it is over."""

    consistency: Consistency = "crash-consistent"


@contextmanager
def frozen(agent: Path | None) -> Iterator[Moment]:
    """The guest's file systems are frozen while the block runs, if an agent's socket is given.

    Raises PeerError where it does not freeze them, and where they may still be frozen.
    """
    moment = Moment()
    if agent is None:
        yield moment
        return
    with GuestAgent(agent) as asked:
        try:
            count = asked.ask("guest-fsfreeze-freeze", timeout=FREEZE_S)
            yield moment
        except BaseException as error:
            try:
                _thaw(asked)
            except IofltError as left:
                error.add_note(left.message)
            raise
        thawed = _thaw(asked)
    # Fewer than before: the guest let go by itself, and nobody knows when.
    if isinstance(count, int) and isinstance(thawed, int) and 0 < count <= thawed:
        moment.consistency = "file-system-consistent (guest agent)"


def _thaw(asked: GuestAgent) -> object:
    try:
        if not asked.broken:
            return asked.ask("guest-fsfreeze-thaw", timeout=_THAW_S)
        with GuestAgent(asked.path) as another:
            return another.ask("guest-fsfreeze-thaw", timeout=_THAW_S)
    except IofltError as error:
        raise PeerError(
            f"the guest's file systems may still be frozen: {error.message}", file=asked.path
        ) from error
