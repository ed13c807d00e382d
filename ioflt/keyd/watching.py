"""How one connection has a VM that runs backed up: by who may back up that VM, and with events of it."""

from __future__ import annotations

import os

from ioflt.access.objects import Place
from ioflt.access.privileges import Privilege
from ioflt.audit.event import Change, added
from ioflt.errors import BusyError, UsageError
from ioflt.keyd.permits import Permits, Rules
from ioflt.keyd.service import Service
from ioflt.keyd.session import Session
from ioflt.keyd.telling import Telling
from ioflt.keyd.vouching import Vouching
from ioflt.keyd.watched import Watched
from ioflt.wire.control.messages import Home, WrittenAreas
from ioflt.wire.keyd.requests import WatchVm
from ioflt.wire.keyd.values import Signing


class Watching:
    """Of one session. Each raises DeniedError, also once he may not any more; BusyError, PeerError."""

    def __init__(
        self,
        service: Service,
        rules: Rules,
        session: Session,
        permits: Permits,
        telling: Telling,
        vouching: Vouching,
    ) -> None:
        self._service = service
        self._rules = rules
        self._session = session
        self._permits = permits
        self._telling = telling
        self._vouching = vouching

    def begin(self, asked: WatchVm) -> None:
        """From now on its mounts note what is written to it. An event tells of it, and of which they are.

        Raises NotFoundError where no mount shows it, StorageError.
        """
        if self._session.watched is not None:
            raise BusyError("a connection watches one VM")
        place = self._vouching.check(Signing(asked.home_id, asked.shown, ""))
        home = Home(asked.device, asked.inode, asked.home_id)
        watched = Watched(self._service.paths, home, place.shown)
        try:
            self._tell("backup watch", place, [added("mounts", ", ".join(watched.mountpoints))])
        except BaseException:  # nobody else closes it
            watched.close()
            raise
        self._session.watched = watched, place

    def take(self) -> WrittenAreas:
        """What was written since then, or since it was taken last, or the first part of that."""
        watched, _ = self._may()
        return watched.take()

    def hold(self, limit: int) -> None:
        """What is written to it waits until `resume`, or for so many seconds. There is an event of it before.

        Raises StorageError.
        """
        watched, place = self._may()
        self._tell("backup hold", place, [added("mounts", ", ".join(watched.mountpoints))])
        watched.hold(limit)

    def resume(self) -> None:
        """It goes on. Raises BusyError where it did before, or another mount of it began."""
        if self._session.watched is not None:
            self._session.watched[0].resume()

    def _may(self) -> tuple[Watched, Place]:
        if self._session.watched is None:
            raise UsageError("this connection watches no VM")
        self._permits.require(Privilege.BACKUP, self._session.watched[1])
        return self._session.watched

    def _tell(self, operation: str, place: Place, changes: list[Change]) -> None:
        uid = self._session.peer.uid
        if uid not in (0, os.geteuid()) and not self._rules.told.take(uid, 1):
            raise BusyError(f"uid {uid} asks for more of this than keyd takes")
        told = self._telling.event(operation, place, changes=changes, privilege=Privilege.BACKUP)
        self._service.recorder.record(told)
