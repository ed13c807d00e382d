"""The providers that are configured, each read when it is first named."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from ioflt.errors import (
    ExistsError,
    IofltError,
    KeyNotFound,
    KeyUnavailableError,
    NotFoundError,
    ProviderUnavailable,
    UsageError,
)
from ioflt.keys import provider_file
from ioflt.keys.cache import KeyCache
from ioflt.keys.directory import LOCAL
from ioflt.keys.kmip.provider import KmipProvider
from ioflt.keys.kmip.store import KmipStore
from ioflt.keys.native.provider import NativeProvider
from ioflt.keys.native.store import NativeStore
from ioflt.keys.pkcs11.provider import Pkcs11Provider
from ioflt.keys.pkcs11.store import Pkcs11Store
from ioflt.keys.transit.provider import TransitProvider
from ioflt.keys.transit.store import TransitStore
from ioflt.wire.keyd.replies import ProviderStatus

#: KDKs kept: one for each native provider.
_MAX_PROVIDERS = 128

#: The kinds of providers.
_Provider: TypeAlias = NativeProvider | KmipProvider | TransitProvider | Pkcs11Provider


class Registry:
    """Providers by name. Safe for calls from several threads; its lock is held while files are read."""

    def __init__(self, store: NativeStore) -> None:
        self._store = store
        self._kdks: KeyCache[str] = KeyCache(_MAX_PROVIDERS)
        self._lock = threading.Lock()
        self._kmip = KmipStore(store.directory)
        self._transit = TransitStore(store.directory)
        self._pkcs11 = Pkcs11Store(store.directory)
        self._providers: dict[str, _Provider] = {}
        self._locked = False

    def default(self) -> str:
        """The chosen or only provider, else `local`, made when there is none. UsageError: it is not clear."""
        name = self._store.default()
        if name is None:
            with contextlib.suppress(ExistsError):  # another process was first
                self._store.create(LOCAL)
            return LOCAL
        return name

    def get(self, name: str) -> _Provider:
        """A provider. Raises KeyNotFound when none has that name, ProviderUnavailable for a bad file."""
        with self._lock:
            known = self._providers.get(name)
            return known if known is not None else self._load(name)

    def reload(self) -> set[str]:
        """Read all files again. Returns the names of providers that are gone or are others now."""
        changed = set()
        with self._lock:
            for name, old in list(self._providers.items()):
                try:
                    new = self._read(name)
                except IofltError:
                    same = False
                else:
                    same = _take_over(old, new)
                if not same:
                    old.lock()
                    del self._providers[name]
                    changed.add(name)
        return changed

    def status(self) -> tuple[ProviderStatus, ...]:
        """All providers, those with a bad file too."""
        return tuple(self._status(name) for name in self._store.names())

    def reminders(self) -> list[str]:
        """What must hear who may back up providers: which never were."""
        return self._store.reminders()

    def warnings(self) -> list[str]:
        """What users of the providers must hear: certificates expire.

        Opens none and asks no server: this comes with every command.
        """
        lines: list[str] = []
        for name in self._store.names():
            with contextlib.suppress(IofltError):  # its status says it
                provider = self.get(name)
                if isinstance(provider, KmipProvider | TransitProvider):
                    lines += provider.warnings()
        return lines

    def lock(self) -> None:
        """Make all forget their secrets; those that are read later are locked too."""
        with self._lock:
            self._locked = True
            for provider in self._providers.values():
                provider.lock()
            self._kdks.wipe()

    def unlock(self) -> None:
        """Open those again that need no passphrase; `status` tells of the others."""
        with self._lock:
            self._locked = False
            known = list(self._providers.values())

        def unlock(provider: _Provider) -> None:
            with contextlib.suppress(KeyUnavailableError):
                provider.unlock(None)

        if known:  # side by side: one that hangs costs its own time limit only
            with ThreadPoolExecutor(len(known)) as pool:
                list(pool.map(unlock, known))

    def _load(self, name: str) -> _Provider:
        try:
            provider = self._read(name)
        except (NotFoundError, UsageError):
            raise KeyNotFound(f"no provider {name[:80]} is configured here") from None
        except IofltError as error:
            raise ProviderUnavailable(f"the file of the provider {name}: {error.message}") from error
        self._providers[name] = provider
        if self._locked:
            provider.lock()
        return provider

    def _read(self, name: str) -> _Provider:
        """The provider of a file, whichever kind it is of."""
        match provider_file.kind_of(self._store.read(name)):
            case "kmip":
                return KmipProvider(self._kmip.load(name), self._kmip)
            case "transit":
                return TransitProvider(self._transit.load(name))
            case "pkcs11":
                return Pkcs11Provider(self._pkcs11.load(name))
            case _:
                return NativeProvider(self._store.load(name), self._store.path(name), self._kdks)

    def _status(self, name: str) -> ProviderStatus:
        try:
            return self.get(name).status()
        except IofltError as error:
            return ProviderStatus(name, "native", "unavailable", (), False, error.message)


def _take_over(old: _Provider, new: _Provider) -> bool:
    """Give a provider in use what its file says now; False when the file is another provider's."""
    if isinstance(old, NativeProvider) and isinstance(new, NativeProvider):
        if (old.file.uuid, old.file.kdk_id) != (new.file.uuid, new.file.kdk_id):
            return False
        old.file = new.file  # it stays open
        return True
    if isinstance(old, KmipProvider) and isinstance(new, KmipProvider) and old.file.uuid == new.file.uuid:
        old.change(new.file)
        return True
    if isinstance(old, TransitProvider) and isinstance(new, TransitProvider):
        if old.file.uuid != new.file.uuid:
            return False
        old.change(new.file)
        return True
    if isinstance(old, Pkcs11Provider) and isinstance(new, Pkcs11Provider) and old.file.uuid == new.file.uuid:
        old.change(new.file)
        return True
    return False
