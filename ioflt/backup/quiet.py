"""Who uses a home that is backed up, and how nothing changes in it meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from ioflt.backup.writers import Mounts, mounts_of
from ioflt.datastore.home import Home
from ioflt.errors import BusyError, IofltError
from ioflt.format.manifest.model import Consistency


@dataclass(frozen=True, slots=True)
class Quiet:
    """`held`: the mounts that hold writes back; None where nobody has a file open."""

    consistency: Consistency
    held: Mounts | None

    def check(self) -> None:
        """See that nobody wrote so far. Raises BusyError where a mount ended, or another one began."""
        if self.held is not None:
            self.held.check()


@contextmanager
def quiet(home: Home) -> Iterator[Quiet]:
    """Nobody has a file of it open; or the mounts of its datastore hold writes back until the block ends, as
    long as they live: `check` comes before anybody relies on what was read.

    Raises BusyError where its files are in use and no mount can be asked.
    """
    with users(home) as mounts:
        if mounts is not None:
            try:
                mounts.hold_all()
            except IofltError as why:
                raise BusyError(f"in use, and its mount holds no writes back: {why.message}") from why
        yield Quiet("crash-consistent" if mounts else "powered off", mounts)


@contextmanager
def users(home: Home) -> Iterator[Mounts | None]:
    """The mounts that may write to it meanwhile; None, if nobody has a file of it open.

    Raises BusyError where its files are in use and no mount can be asked.
    """
    with ExitStack() as held:
        mounts = None
        try:
            held.enter_context(home.exclusive())
        except BusyError:
            found = mounts_of(home.volume.path, held)
            if not found:
                raise
            mounts = Mounts(home, found)
            held.enter_context(home.shared())
        yield mounts
