"""The requests to keyd about the event log, and about what keyd says of reports for auditors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ioflt.audit.reader import LogFile, Page
from ioflt.keys.asking import Asker
from ioflt.wire.keyd import replies, requests, values


class EventRequests(Asker):
    """Every call may raise DeniedError, StorageError."""

    def set_event_log(
        self, required: bool | None = None, sink: values.EventSink | None = None
    ) -> replies.EventLogSettings:
        """Change what is not None; what the settings of the event log are then."""
        return self._ask(requests.SetEventLog(required, sink), replies.EventLogSettings)

    def note_events(self, events: Sequence[requests.Report]) -> replies.EventLogSettings:
        """Have events logged that keyd cannot see, at most `MAX_REPORTS`. Returns whether they have to be.

        When it fails, some may be there all the same. Raises BusyError when there were too many of late,
        StorageError when they have to be logged and cannot.
        """
        return self._ask(requests.NoteEvents(tuple(events)), replies.EventLogSettings)

    def event_files(self, folder: str | None = None) -> Iterator[LogFile]:
        """The event log, file by file, as it is when the first one is asked for; or that of a folder.

        Raises DeniedError, NotFoundError.
        """
        number, files = 0, 1
        while number < files:
            data = bytearray()
            while (page := self._event_page(number, len(data), folder)).data:
                data += page.data
            if number == 0:
                files = page.files
            if page.name:
                yield LogFile(page.name, bytes(data))
            number += 1

    def next_events(self, file: int, offset: int, folder: str | None = None) -> Page:
        """For `audit.reader.follow`: waits a while for a line where there is none yet.

        Raises DeniedError, NotFoundError.
        """
        page = self._event_page(file, offset, folder, wait=True)
        return Page(page.name, page.data, page.files)

    def _event_page(
        self, file: int, offset: int, folder: str | None, *, wait: bool = False
    ) -> replies.EventPage:
        return self._ask(requests.ReadEvents(file, offset, wait, folder), replies.EventPage)

    def attest(self, report: bytes) -> tuple[bytes, bytes]:
        """keyd's statement about the report of that SHA-256, and its signature. Raises DeniedError."""
        answer = self._ask(requests.Attest(report), replies.Attested)
        return answer.statement, answer.signature

    def may_sign(self, about: values.Signing) -> None:
        """Whether manifests about that would be signed. Raises DeniedError."""
        self._ask(requests.MaySign(about), replies.Done)

    def sign_manifest(self, manifest: bytes, about: values.Signing) -> tuple[bytes, bytes, str]:
        """keyd's statement about the backup's manifest of that SHA-256, its signature, the public key.

        Raises BusyError when there were too many of late.
        """
        answer = self._ask(requests.SignManifest(manifest, about), replies.ManifestSigned)
        return answer.statement, answer.signature, answer.key

    def manifest_key(self) -> str:
        """The public key that verifies these signatures, in PEM."""
        return self._ask(requests.GetManifestKey(), replies.Text).value

    def attest_key(self) -> str:
        """The public key that verifies these signatures, in PEM. Raises DeniedError."""
        return self._ask(requests.GetAttestKey(), replies.Text).value
