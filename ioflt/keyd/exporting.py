"""How one connection begins an export of a virtual disk, and says why it ended."""

from __future__ import annotations

import os
import secrets
import time

import msgspec

from ioflt.access.objects import Place
from ioflt.access.privileges import Privilege
from ioflt.audit.event import Event, added
from ioflt.errors import BusyError, UnshownError, UsageError
from ioflt.keyd.permits import Permits, Rules
from ioflt.keyd.recorder import Recorder
from ioflt.keyd.session import Session
from ioflt.keyd.shared_keys import Owner
from ioflt.keyd.telling import Telling
from ioflt.wire.keyd.requests import BeginExport, EndExport
from ioflt.wire.keyd.values import MAX_EXPORT_PAGE, OpenExport

#: Of an export: its begin and its end.
_EVENTS = 2


class Exporting:
    """Of one session, of the exports that all connections have in common."""

    def __init__(
        self, rules: Rules, recorder: Recorder, session: Session, permits: Permits, telling: Telling
    ) -> None:
        self._rules = rules
        self._recorder = recorder
        self._session = session
        self._permits = permits
        self._telling = telling

    def begin(self, asked: BeginExport) -> str:
        """Its id. There is an event of it before there is an export.

        Raises DeniedError, BusyError, UsageError, StorageError.
        """
        if self._session.export is not None:
            raise BusyError("a connection has one export")
        place = self._place(asked)
        self._check(asked)
        uid = self._session.peer.uid
        if uid not in (0, os.geteuid()) and not self._rules.told.take(uid, _EVENTS):
            raise BusyError(f"uid {uid} begins more exports than keyd takes")
        told = {
            "disk": asked.disk,
            "transport": asked.transport,
            "ticket": asked.ticket,
            "until": asked.until,
        }
        operation = "backup export" if asked.key is not None else "backup export: a clear VM"
        self._recorder.record(
            self._telling.event(operation, place, changes=[added("export", told)], privilege=None)
        )

        def ending(reason: str) -> Event:
            over = self._telling.event("export end", place, changes=[added("export", told)], privilege=None)
            return msgspec.structs.replace(over, reason=reason)

        peer = self._session.peer
        shown = OpenExport(
            secrets.token_hex(16),
            place.shown,
            asked.disk,
            str(self._session.caller.principal),
            peer.pid,
            asked.transport,
            int(time.time()),
            asked.ticket,
            asked.until,
        )
        export = self._rules.exports.begin(shown, place, peer, lambda: self._check(asked), ending)
        self._session.export = export
        return export.ident

    def seen(self, after: str | None) -> list[OpenExport]:
        """A page of those that are open, with ids after that one: his own, and those of VMs whose events he
        reads.
        """
        found = [export for export in self._rules.exports.all() if after is None or export.ident > after]
        own = self._session.peer.uid, str(self._session.caller.principal)
        return [
            export.shown
            for export in found
            if (export.peer.uid, export.shown.principal) == own
            or self._permits.has(Privilege.DIAGNOSTICS, export.place)
        ][:MAX_EXPORT_PAGE]

    def end(self, asked: EndExport) -> None:
        """Raises NotFoundError."""
        self._rules.exports.say(asked.id, self._session.peer, asked.reason)

    def _check(self, asked: BeginExport) -> None:
        """Raises DeniedError unless he may read it, as whoever opens a data key of that VM."""
        if asked.key is not None:
            self._permits.open(asked.key.ref, b"")

    def _place(self, asked: BeginExport) -> Place:
        """Of the VM, by records that were shown. Raises UnshownError, UsageError."""
        owner = Owner(asked.home_id, asked.datastore_id)
        if asked.key is None:
            known = self._rules.holdings.home(asked.home_id)
            if known is not None and known.keys:
                raise UsageError("the VM is encrypted: one of its keys is to be named")
            return Place(owner.vm, owner.datastore, asked.shown)
        if owner not in self._rules.holdings.owners(asked.key.ref):
            raise UnshownError(f"nobody has shown a record of {asked.shown} with the key {asked.key.ref}")
        return self._rules.holdings.place(owner)
