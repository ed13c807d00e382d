"""The sealed keys of all providers that have servers, and when they are used in place of an answer.

A provider that gives no answer is not asked again for a moment: a host whose key servers are silent opens its
VMs one after the other, and would wait for them each time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from typing import Final

from ioflt.crypto.secret import Secret
from ioflt.errors import (
    IofltError,
    KeyNotFound,
    KeyNotUsable,
    KeyUnavailableError,
    NotFoundError,
    ProviderUnavailable,
    UsageError,
)
from ioflt.keyd.kept import Facts
from ioflt.keys import provider_file
from ioflt.keys.cache import KeyCache
from ioflt.keys.directory import ProviderDirectory
from ioflt.keys.sealed import seal
from ioflt.keys.sealed.cache import SealedCache, Sealer
from ioflt.keys.sealed.clock import LatestTime
from ioflt.types import KeyRef
from ioflt.wire.keyd.replies import CacheStatus

#: Seconds for which sealed keys are used without asking a provider that has just not answered.
SILENCE_S = 30.0

#: Providers whose keys are their own host's: there is no server to do without.
_WITHOUT_SERVERS: Final = ("native", "")

_MAX_PROVIDERS = 128

_log = logging.getLogger(__name__)


class Sealing:
    """`SealedCache` by provider. Safe for calls from several threads.

    `sealer` binds new caches to this host.
    """

    def __init__(
        self, directory: ProviderDirectory, clock: LatestTime, sealer: Sealer = seal.to_this_host
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._sealer = sealer
        self._lock = threading.Lock()
        self._own_keys: KeyCache[str] = KeyCache(_MAX_PROVIDERS)
        self._caches: dict[str, SealedCache | None] = {}
        self._silent: dict[str, float] = {}  # until when
        self._locked = False

    def set(self, provider: str, days: int | None) -> None:
        """Seal the keys of a provider from now on, or no more.

        Raises NotFoundError; UsageError for one without servers; PeerError where nothing seals to this host.
        """
        if self._directory.kind(provider) in _WITHOUT_SERVERS:
            self._directory.read(provider)
            raise UsageError(f"the provider {provider} has no key servers: this host opens it without any")
        cache = self._of(provider)
        if cache is None:
            raise NotFoundError(f"no provider {provider} is configured here")
        if days is None:
            cache.stop()
        else:
            cache.start(days)

    def ready(self, provider: str) -> bool:
        """Whether keys of that provider are sealed, and can be used. May wait for what opens them."""
        cache = self._of(provider)
        return cache is not None and cache.ready()

    def is_silent(self, provider: str) -> bool:
        """Whether the provider has just not answered."""
        return time.monotonic() < self._silent.get(provider, 0.0)

    def get(self, key: KeyRef) -> tuple[Secret, Facts] | None:
        """A sealed key that is good."""
        cache = self._of(key.provider)
        found = None if cache is None else cache.get(key.key_id)
        if found is None:
            return None
        kek, fetched, expires = found
        return kek, Facts("sealed", fetched, expires)

    def expires(self, key: KeyRef) -> int | None:
        """Until when the sealed copy of a key is good; None when there is none."""
        cache = self._of(key.provider)
        return None if cache is None else cache.expires(key.key_id)

    def put(self, key: KeyRef, kek: Secret, fetched: int) -> None:
        """Seal what a provider gave, if its keys are sealed and `ready` was asked; written by `save`."""
        cache = self._of(key.provider)
        if cache is not None:
            cache.put(key.key_id, kek, fetched)

    def drop(self, key: KeyRef) -> None:
        """Forget a key, for good when this returns. Raises StorageError."""
        cache = self._of(key.provider)
        if cache is not None:
            cache.drop([key.key_id])

    def told(self, provider: str, answers: Iterable[tuple[str, Secret | KeyUnavailableError]]) -> None:
        """Take note of a provider's answers: keys that it refuses are forgotten."""
        refused, silent = [], False
        for key_id, answer in answers:
            if isinstance(answer, KeyNotFound | KeyNotUsable):
                refused.append(key_id)
            silent = silent or isinstance(answer, ProviderUnavailable)
        if silent:
            self._silent[provider] = time.monotonic() + SILENCE_S
        else:
            self._silent.pop(provider, None)
        cache = self._of(provider)
        if cache is None or not refused:
            return
        try:
            cache.drop(refused)
        except IofltError as error:  # it is in no memory any more, and written with the next change
            _log.error("sealed keys of the provider %s are not removed: %s", provider, error)

    def due(self) -> dict[str, list[str]]:
        """Keys, by provider, that should be asked for again."""
        found = {cache.name: cache.due() for cache in self._all()}
        return {name: ids for name, ids in found.items() if ids}

    def save(self) -> None:
        """Write what has changed."""
        for cache in self._all():
            cache.save()

    def lock(self) -> None:
        """Forget all sealed keys, on disk too, and take no new ones until `unlock`."""
        caches = self._all()
        with self._lock:
            self._locked = True
        for cache in caches:
            cache.locked = True
            try:
                cache.empty()
            except IofltError as error:
                _log.error("the sealed keys of the provider %s are not removed: %s", cache.name, error)

    def unlock(self) -> None:
        """Seal again."""
        with self._lock:
            self._locked = False
            self._caches.clear()

    def close(self) -> None:
        """Write what has changed, and forget what is in memory."""
        self.save()
        with self._lock:
            caches, self._caches = list(filter(None, self._caches.values())), {}
        for cache in caches:
            cache.close()
        self._own_keys.wipe()

    def reload(self) -> None:
        """Providers may have come, gone, or be others now."""
        with self._lock:
            caches, self._caches = list(filter(None, self._caches.values())), {}
            self._silent.clear()
        for cache in caches:
            cache.save()
            cache.close()

    def status(self, provider: str) -> CacheStatus | None:
        """What is sealed of a provider; None: nothing is to be."""
        cache = self._of(provider)
        return None if cache is None else cache.status()

    def warnings(self) -> list[str]:
        """Caches that are of no use here."""
        found = [(cache.name, cache.status()) for cache in self._all()]
        return [
            f"the sealed keys of the provider {name} are of no use: {status.reason}"
            for name, status in found
            if status is not None and status.reason
        ]

    def _of(self, provider: str) -> SealedCache | None:
        """None for what has no servers, or is not configured or broken."""
        with self._lock:
            if provider in self._caches:
                return self._caches[provider]
            try:
                data = self._directory.read(provider)
                uuid = provider_file.uuid_of(data)
            except IofltError:
                return None
            if provider_file.kind_of(data) in _WITHOUT_SERVERS:
                self._caches[provider] = None
                return None
            made = SealedCache(self._directory, provider, uuid, self._clock, self._own_keys, self._sealer)
            made.locked = self._locked
            self._caches[provider] = made
            return made

    def _all(self) -> list[SealedCache]:
        return [cache for name in self._directory.names() if (cache := self._of(name)) is not None]
