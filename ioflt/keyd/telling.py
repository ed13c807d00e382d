"""The events of one connection: who asked, for whom, and about what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from ioflt.access import transitions
from ioflt.access.objects import Place
from ioflt.access.transitions import Transition
from ioflt.audit.event import Change, Event, Outcome, Thing, modified
from ioflt.errors import DeniedError
from ioflt.format.record.record import Record
from ioflt.keyd.permits import Denied, Rules
from ioflt.keyd.recorder import Recorder, event
from ioflt.keyd.session import Session
from ioflt.keyd.shared_keys import Owner


class Telling:
    """Of one session, to the recorder."""

    def __init__(self, recorder: Recorder, rules: Rules, session: Session) -> None:
        self._recorder = recorder
        self._rules = rules
        self._holdings = rules.holdings
        self._session = session
        self._who = session.caller.principal

    @contextmanager
    def changing(self, change: Transition, record: Record, shown: str) -> Iterator[None]:
        """An event is on disk before the block is run; of progress there is none. Raises StorageError."""
        if not change.changes:
            yield
            return
        asked = ", ".join(dict.fromkeys(str(privilege) for privilege, _ in change.asks))
        told = [modified(*each) for each in change.changes]
        place = transitions.place_of(record, shown)
        with self._recorder.around(
            self.event(change.operation, place, changes=told, privilege=asked or None)
        ):
            yield

    def denial(self, error: DeniedError) -> None:
        """An event, unless there were more of late than are told."""
        if isinstance(error, Denied):
            about = self._session.operation or "keys"
            told = self.event(about, error.place, privilege=error.privilege, outcome="denied")
            self._rules.denials.tell(told, (self._who, error.privilege, error.place))

    def event(
        self,
        operation: str,
        place: Place,
        *,
        privilege: str | None,
        changes: Sequence[Change] = (),
        outcome: Outcome = "done",
    ) -> Event:
        """An event about that place, not recorded yet."""
        datastore = None
        if place.vm is not None and place.datastore is not None:
            around = self._holdings.place(Owner(None, place.datastore))
            datastore = Thing("datastore", place.datastore, around.shown)
        about = None
        if place.vm is not None:
            about = Thing("vm", place.vm, place.shown)
        elif place.datastore is not None:
            about = Thing("datastore", place.datastore, place.shown)
        elif place.folder is not None:
            about = Thing("folder", place.folder, place.shown)
        made = event(
            operation, about, changes=changes, outcome=outcome, privilege=privilege, datastore=datastore
        )
        return self.for_whom(made)

    def for_whom(self, made: Event) -> Event:
        """The event, with whom it was done for if that is not who connected."""
        if not self._session.for_other:
            return made
        by = msgspec.structs.replace(made.by, as_principal=str(self._who))
        return msgspec.structs.replace(made, by=by)
