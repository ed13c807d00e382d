"""Events about key providers: their files changed, they no longer answer, they answer again."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable

from ioflt.audit.event import Change, added, deleted, modified
from ioflt.crypto.secret import Secret
from ioflt.errors import IofltError, KeyUnavailableError, ProviderUnavailable
from ioflt.keyd.recorder import Recorder, event, provider_thing
from ioflt.keys.directory import ProviderDirectory


class ProviderWatch:
    """What is known of the providers. Safe for calls from several threads."""

    def __init__(self, directory: ProviderDirectory, recorder: Recorder) -> None:
        self._directory = directory
        self._recorder = recorder
        self._lock = threading.Lock()
        self._files = self._digests()
        self._silent: set[str] = set()

    def look(self) -> None:
        """One event for each provider whose file is another than when it was last looked at."""
        with self._lock:
            now = self._digests()
            for name in sorted(self._files.keys() | now.keys()):
                before, after = self._files.get(name), now.get(name)
                if before != after:
                    change = _of_file(before, after)
                    self._recorder.record(event("provider change", provider_thing(name), changes=[change]))
            self._files = now

    def know(self, name: str) -> None:
        """Take a provider's file as it is now for one that was looked at: its change is told otherwise."""
        with self._lock:
            self._files.pop(name, None)
            if name in self._directory.names():
                self._files[name] = self._digest(name)

    def heard(self, provider: str, answers: Iterable[Secret | KeyUnavailableError]) -> None:
        """Take note of what a provider answered; an event when it fell silent, or is not any more."""
        kinds = [type(answer) for answer in answers]
        if not kinds:
            return
        silent = all(kind is ProviderUnavailable for kind in kinds)
        with self._lock:
            if silent == (provider in self._silent):
                return
            change = modified("provider.answers", silent, not silent)
            self._recorder.record_soon(event("provider state", provider_thing(provider), changes=[change]))
            (self._silent.add if silent else self._silent.discard)(provider)

    def _digests(self) -> dict[str, str]:
        return {name: self._digest(name) for name in self._directory.names()}

    def _digest(self, name: str) -> str:
        try:
            return hashlib.sha256(self._directory.read(name)).hexdigest()
        except IofltError as error:
            return f"unreadable: {error.message}"


def _of_file(before: str | None, after: str | None) -> Change:
    path = "provider.file.sha256"
    if before is None:
        return added(path, after)
    return deleted(path, before) if after is None else modified(path, before, after)
