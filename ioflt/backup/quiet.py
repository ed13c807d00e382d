"""Who uses a home that is backed up, and how nothing changes in it meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from ioflt.backup.writers import Asked, Mounts, Watcher, Writers, mounts_of, named
from ioflt.datastore.home import Home
from ioflt.errors import BusyError, IofltError, NotFoundError
from ioflt.format.manifest.model import Consistency
from ioflt.keys.watch_requests import WatchedVm


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
        found = None
        try:
            held.enter_context(home.exclusive())
        except BusyError:
            mounts = mounts_of(home.volume.path, held)
            if not mounts:
                raise
            found = Mounts(home, mounts)
            held.enter_context(home.shared())
        yield found


@contextmanager
def writers(home: Home, keyd: Watcher) -> Iterator[Writers | None]:
    """The same, where they only are to be watched, and to wait for a moment: keyd asks mounts that one may
    not ask oneself.

    Raises DeniedError, PeerError, BusyError where its files are in use and no mount shows them.
    """
    with ExitStack() as held:
        found: Writers | None = None
        try:
            held.enter_context(home.exclusive())
        except BusyError as busy:
            mounts = mounts_of(home.volume.path, held)
            if mounts:
                found = Mounts(home, mounts)
            else:
                found = Asked(held.enter_context(_watched(home, keyd, busy)))
            held.enter_context(home.shared())
        yield found


def _watched(home: Home, keyd: Watcher, busy: BusyError) -> WatchedVm:
    where = named(home)
    shown = os.fsencode(home.name).decode("utf-8", "replace")
    try:
        return keyd.watch_vm(where.id, shown, where.device, where.inode)
    except NotFoundError as error:
        raise busy from error
