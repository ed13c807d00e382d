"""An export as keyd knows it: begun by its leave, ended by its word, known to the next keyd, too."""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import Final

from ioflt.backup.ticket import Ticket
from ioflt.datastore.home import Home
from ioflt.errors import DeniedError, IofltError
from ioflt.keys.channel import ConnectionLost
from ioflt.keys.client import KeyClient
from ioflt.keys.export_requests import BegunExport
from ioflt.types import HomeState
from ioflt.wire.keyd.values import ExportTransport

#: Before the reason, to whoever waits for the end.
ENDED: Final = "the export ended: "


class Known:
    """A context manager: keyd hears at its end why it ended, by what was raised or by `reason`."""

    def __init__(
        self, keys: KeyClient, home: Home, disk: str, transport: ExportTransport, ticket: Ticket | None
    ) -> None:
        """Raises DeniedError for whom it is not allowed, CorruptDataError, KeyUnavailableError."""
        standing = home.standing()
        record = standing.record
        if record is None:
            raise DeniedError(standing.problem or "no record vouches for it", file=home.name)
        self._keys = keys
        self._home_id, self._datastore_id, self._shown = record.home_id, record.datastore_id, home.name
        self._key = standing.key if standing.state is HomeState.ENCRYPTED else None
        self._disk, self._transport, self._ticket = disk, transport, ticket
        self.reason = "it could not be begun"
        self._begun = self._begin()

    def _begin(self) -> BegunExport:
        ticket = self._ticket
        return self._keys.begin_export(
            self._home_id,
            self._datastore_id,
            self._shown,
            self._disk,
            self._transport,
            key=self._key,
            ticket=ticket.name if ticket else None,
            until=ticket.until if ticket else None,
        )

    def fileno(self) -> int:
        """Readable once there is something to `hear`. Another one after that."""
        return self._begun.fileno()

    def hear(self) -> None:
        """Raises why it has to end: keyd says so, or knows it no more and does not let it begin again."""
        try:
            why = self._begun.why()
        except ConnectionLost:  # it died; a new one is started, and asked
            self._begun.close()
            self._begun = self._begin()
            return
        why.message = ENDED + why.message
        raise why

    def __enter__(self) -> Known:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        reason = self.reason if error is None else str(error).removeprefix(ENDED)
        with suppress(IofltError):  # keyd is gone, or has ended it itself
            self._keys.end_export(self._begun, reason)
        self._begun.close()
