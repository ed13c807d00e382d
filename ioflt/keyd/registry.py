"""The providers that are configured, each read when it is first named."""

from __future__ import annotations

import contextlib
import threading

from ioflt.errors import (
    ExistsError,
    IofltError,
    KeyNotFound,
    KeyUnavailableError,
    NotFoundError,
    ProviderUnavailable,
    UsageError,
)
from ioflt.keys.cache import KeyCache
from ioflt.keys.native import NativeProvider
from ioflt.keys.provider import KeyProvider
from ioflt.keys.store import LOCAL, ProviderStore
from ioflt.wire.keyd.messages import ProviderStatus

#: KDKs kept: one for each native provider.
_MAX_PROVIDERS = 128


class Registry:
    """Providers by name. Safe for calls from several threads; its lock is held while files are read."""

    def __init__(self, store: ProviderStore) -> None:
        self._store = store
        self._kdks: KeyCache[str] = KeyCache(_MAX_PROVIDERS)
        self._lock = threading.Lock()
        self._native: dict[str, NativeProvider] = {}
        self._locked = False

    def default(self) -> str:
        """The chosen or only provider, else `local`, made when there is none. UsageError: it is not clear."""
        name = self._store.default()
        if name is None:
            with contextlib.suppress(ExistsError):  # another process was first
                self._store.create(LOCAL)
            return LOCAL
        return name

    def get(self, name: str) -> KeyProvider:
        """A provider. Raises KeyNotFound when none has that name, ProviderUnavailable for a bad file."""
        with self._lock:
            known = self._native.get(name)
            return known if known is not None else self._load(name)

    def reload(self) -> set[str]:
        """Read all files again. Returns the names of providers that are gone or are others now."""
        changed = set()
        with self._lock:
            for name, provider in list(self._native.items()):
                try:
                    file = self._store.load(name)
                except IofltError:
                    same = False
                else:
                    same = (file.uuid, file.kdk_id) == (provider.file.uuid, provider.file.kdk_id)
                    provider.file = file if same else provider.file
                if not same:
                    provider.lock()
                    del self._native[name]
                    changed.add(name)
        return changed

    def status(self) -> tuple[ProviderStatus, ...]:
        """All providers, those with a bad file too."""
        return tuple(self._status(name) for name in self._store.names())

    def reminders(self) -> list[str]:
        """Of providers that were never backed up. Opens none: this comes with every command."""
        return self._store.reminders()

    def lock(self) -> None:
        """Make all forget their secrets; those that are read later are locked too."""
        with self._lock:
            self._locked = True
            for provider in self._native.values():
                provider.lock()
            self._kdks.wipe()

    def unlock(self) -> None:
        """Open those again that need no passphrase; `status` tells of the others."""
        with self._lock:
            self._locked = False
            known = list(self._native.values())
        for provider in known:
            with contextlib.suppress(KeyUnavailableError):
                provider.unlock(None)

    def _load(self, name: str) -> NativeProvider:
        try:
            file = self._store.load(name)
        except (NotFoundError, UsageError):
            raise KeyNotFound(f"no provider {name[:80]} is configured here") from None
        except IofltError as error:
            raise ProviderUnavailable(f"the file of the provider {name}: {error.message}") from error
        provider = self._native[name] = NativeProvider(file, self._store.path(name), self._kdks)
        if self._locked:
            provider.lock()
        return provider

    def _status(self, name: str) -> ProviderStatus:
        try:
            return self.get(name).status()
        except IofltError as error:
            return ProviderStatus(name, "native", "unavailable", (), False, error.message)
