"""The exports of virtual disks that are under way: which processes give out plaintext now.

keyd has each of them end when whom it serves may not read the VM any more, and all before the keys are
locked. An export lasts as long as the connection that began it; its process says why it ended, unless it was
killed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from ioflt.access.objects import Place
from ioflt.audit.event import Event
from ioflt.errors import IofltError, NotFoundError
from ioflt.keyd.recorder import Recorder
from ioflt.transport.unix import Peer
from ioflt.wire.keyd.values import OpenExport

#: Seconds that exports may take to be gone, their mounts and servers with them, before a lock goes on.
END_S = 20.0

#: Of one connection that was closed without a word.
KILLED = "its process is gone"


@dataclass(slots=True)
class Export:
    """`check` raises DeniedError when whom it serves may not any more; `ending` tells of its end.

    `place`: of the VM; `shown`: what who lists exports is told.
    """

    shown: OpenExport
    place: Place
    peer: Peer
    check: Callable[[], None]
    ending: Callable[[str], Event]
    #: Why it has to end, by keyd's word; None: it has not.
    ended: IofltError | None = None
    #: Why it ended, by its own.
    said: str | None = None
    #: Called once when it has to end, from any thread.
    tell: Callable[[], None] = field(default=lambda: None)

    @property
    def ident(self) -> str:
        return self.shown.id


class Exports:
    """Safe for several threads."""

    def __init__(self) -> None:
        self._all: dict[str, Export] = {}
        self._changed = threading.Condition()

    def begin(
        self,
        shown: OpenExport,
        place: Place,
        peer: Peer,
        check: Callable[[], None],
        ending: Callable[[str], Event],
    ) -> Export:
        """One more, which `gone` ends."""
        export = Export(shown, place, peer, check, ending)
        with self._changed:
            self._all[export.ident] = export
        return export

    def all(self) -> list[Export]:
        """Those that are open, by their ids."""
        with self._changed:
            return sorted(self._all.values(), key=lambda export: export.ident)

    def on_end(self, export: Export, tell: Callable[[], None]) -> None:
        """Call that once the export has to end, at once if it has to already."""
        with self._changed:
            export.tell = tell
            if export.ended is not None:
                tell()

    def say(self, ident: str, peer: Peer, reason: str) -> None:
        """That process ends its export for that reason. Raises NotFoundError."""
        with self._changed:
            export = self._all.get(ident)
            if export is None or (export.peer.pid, export.peer.uid) != (peer.pid, peer.uid):
                raise NotFoundError("no such export of this process")
            export.said = reason

    def gone(self, export: Export, recorder: Recorder) -> None:
        """Its connection is closed: an event tells why. May be called again."""
        with self._changed:
            if self._all.pop(export.ident, None) is None:
                return
            self._changed.notify_all()
        why = export.said or KILLED if export.ended is None else str(export.ended)
        recorder.record_if_possible(export.ending(why))

    def review(self) -> None:
        """Permissions are other than before: those end that serve who may not any more."""
        with self._changed:
            found = list(self._all.values())
        for export in found:
            try:
                export.check()
            except IofltError as error:
                self._end(export, error)

    def end_all(self, why: IofltError) -> None:
        """All end. Returns when their processes have none any more, or after `END_S`."""
        with self._changed:
            found = list(self._all.values())
        for export in found:
            self._end(export, why)
        with self._changed:
            self._changed.wait_for(lambda: not any(one.ident in self._all for one in found), END_S)

    def _end(self, export: Export, why: IofltError) -> None:
        with self._changed:
            if export.ended is None:
                export.ended = why
                export.tell()
