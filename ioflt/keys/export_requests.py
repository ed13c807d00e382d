"""The requests to keyd about exports of virtual disks."""

from __future__ import annotations

from types import TracebackType

from ioflt.errors import IofltError, PeerError
from ioflt.keys.asking import Asker
from ioflt.keys.link import Link
from ioflt.types import KeyRef
from ioflt.wire import failure
from ioflt.wire.failure import Failure
from ioflt.wire.keyd import replies, requests, values


class BegunExport:
    """An export that keyd knows of, as long as this is open. For one thread."""

    def __init__(self, link: Link, ident: str) -> None:
        self.ident = ident
        self._link = link
        link.post(requests.AwaitExport())

    def fileno(self) -> int:
        """Readable once keyd has the export end, or is gone."""
        return self._link.fileno()

    def why(self) -> IofltError:
        """Once it is readable: why the export has to end. Raises ConnectionLost, PeerError."""
        answer = self._link.collect()
        if not isinstance(answer, Failure):
            raise PeerError(f"keyd answered an AwaitExport with a {type(answer).__name__}")
        return failure.rebuild(answer)

    def close(self) -> None:
        """It is over. May be called again."""
        self._link.close()

    def __enter__(self) -> BegunExport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ExportRequests(Asker):
    def begin_export(
        self,
        home_id: str,
        datastore_id: str,
        shown: str,
        disk: str,
        transport: values.ExportTransport,
        *,
        key: KeyRef | None,
        ticket: str | None = None,
        until: int | None = None,
    ) -> BegunExport:
        """A disk of that VM is given out from now on. `key`: one of the VM's, None for a clear one.

        Raises DeniedError, StorageError.
        """
        named = None if key is None else values.Key.of(key)
        request = requests.BeginExport(home_id, datastore_id, shown, disk, transport, named, ticket, until)
        link, begun = self._ask_alone(request, replies.ExportBegun)
        try:
            return BegunExport(link, begun.id)
        except BaseException:  # nobody else closes it
            link.close()
            raise

    def exports(self) -> list[values.OpenExport]:
        """Those that are open: his own, and those of VMs on which he has Global.Diagnostics."""
        found: list[values.OpenExport] = []
        while page := self._ask(
            requests.GetExports(found[-1].id if found else None), replies.Exports
        ).exports:
            found += page
        return found

    def end_export(self, export: BegunExport, reason: str) -> None:
        """That export is over, and why. Raises NotFoundError when keyd knows nothing of it."""
        self._ask(requests.EndExport(export.ident, reason[: values.MAX_EXPORT_TEXT]), replies.Done)
