"""The KEKs that keyd has, and where it gets them: memory, providers, and what is sealed to this host.

State      who sets it        what it refuses
OPEN       start, unlock      nothing
CLOSING    lock, second pass  what opens files (new keys, DEKs, VMX): mounts still end what they began
LOCKED     lock               all that needs a key

Threads: any number of calls run side by side. The state changes and KEKs enter the cache under `_lock`, so
that none enters after a lock wiped it; nobody waits for a provider while holding it. Whoever is going to wait
for one says so to `outward` first, before anything was changed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum, auto
from typing import TypeAlias

from ioflt.crypto.kdf import hkdf
from ioflt.crypto.secret import Secret
from ioflt.errors import KeyNotUsable, KeyUnavailableError, ProviderLocked, ProviderUnavailable
from ioflt.keyd import outward
from ioflt.keyd.kept import Facts, KeptKeys
from ioflt.keyd.missing import MissingKeys
from ioflt.keyd.provider_watch import ProviderWatch
from ioflt.keyd.registry import Registry
from ioflt.keyd.sealing import Sealing
from ioflt.keyd.users import Users
from ioflt.keys.native.store import NativeStore
from ioflt.keys.provider import Generations, KeyProvider
from ioflt.keys.removed import RemovedKeys
from ioflt.keys.sealed.cache import Sealer
from ioflt.keys.sealed.clock import LatestTime
from ioflt.keys.state import KeyState
from ioflt.types import KeyRef

#: Why a key is not had that this host is to do without.
REMOVED = "the key was removed from this host"

#: A KEK, and where it is from.
_Given: TypeAlias = tuple[Secret, Facts]


class State(Enum):
    OPEN = auto()
    CLOSING = auto()
    LOCKED = auto()


class Keks:
    """Over the providers of `store`. `removed`: the keys that this host is to do without."""

    def __init__(
        self,
        store: NativeStore,
        watch: ProviderWatch,
        users: Users,
        removed: RemovedKeys,
        clock: LatestTime,
        sealer: Sealer,
    ) -> None:
        self.registry = Registry(store)
        self.kept = KeptKeys(clock)
        self.sealing = Sealing(store, clock, sealer)
        self.removed = removed
        self.state = State.OPEN
        #: Set when there is something to save of what is sealed.
        self.changed = threading.Event()
        self._watch = watch
        self._users = users
        self._clock = clock
        self._missing = MissingKeys()
        self._lock = threading.Lock()

    def wipe(self) -> None:
        """Forget all KEKs, and what opens providers."""
        self.registry.lock()
        self.kept.wipe()
        self._missing.forget()

    def become(self, state: State) -> None:
        """From now on; LOCKED wipes."""
        with self._lock:
            self.state = state
            if state is State.LOCKED:
                self.wipe()

    def keepers(self, keys: Sequence[KeyRef]) -> list[tuple[KeyRef, Generations]]:
        """Who keeps generations beside keys; not for keys that were removed. Raises GoesOut."""
        found = []
        for key in keys:
            with suppress(KeyUnavailableError):  # no such provider here
                keeper = self.registry.get(key.provider).generations
                if keeper is not None and key not in self.removed:
                    outward.check(key.provider)
                    found.append((key, keeper))
        return found

    def provider(self, name: str) -> KeyProvider:
        """A provider that is going to be waited for. Raises KeyUnavailableError; GoesOut."""
        provider = self.registry.get(name)
        outward.check(name)
        return provider

    def _announce(self, providers: Iterable[str]) -> None:
        """All that are going to be waited for, so that none is asked twice. Raises GoesOut."""
        for name in providers:
            with suppress(KeyUnavailableError):  # whoever asks hears of it
                self.provider(name)

    def refuse_unless(self, *allowed: State) -> None:
        """Raises ProviderLocked."""
        if self.state not in allowed:
            raise ProviderLocked("keyd is locked")

    @contextmanager
    def derived(self, key: KeyRef, label: str) -> Iterator[Secret]:
        """The key for one use of a KEK, wiped at the end. Raises KeyUnavailableError."""
        with self.get(key) as kek, hkdf(kek, label) as derived:
            yield derived

    def get(self, key: KeyRef) -> Secret:
        """A copy of a KEK, for the caller to wipe."""
        self.refuse_unless(State.OPEN, State.CLOSING)
        found = self.kept.get(key)
        if found is None:
            (answer,) = self._obtain(key.provider, [key.key_id])
            if isinstance(answer, KeyUnavailableError):
                raise answer
            found, facts = answer
            self._keep(key, found, facts)
        self._users.used(key)
        return found

    def fetch(self, keys: set[KeyRef]) -> dict[KeyRef, KeyUnavailableError]:
        """Put KEKs into the cache. Returns why some cannot be had."""
        return self._ask_all([key for key in keys if key not in self.kept], self._obtain, self._keep)

    def renew(self) -> None:
        """Ask again for what is in memory and, sealed, is old; and for what came from there.

        What nobody has used since keyd started, such as the old key of a recrypt, expires.
        """
        due = {KeyRef(name, key_id) for name, ids in self.sealing.due().items() for key_id in ids}
        wanted = [key for key, facts in self.kept.all() if facts.source == "sealed" or key in due]
        self._ask_all(wanted, self._ask, self._take_note)

    def ask(self, keys: Iterable[KeyRef]) -> None:
        """Ask the providers whether they give them, for `state_of`."""
        self._ask_all(keys, self._ask, self._take_note)

    def seal_all(self, provider: str) -> None:
        """Seal to this host what is in memory of that provider, if it has its keys sealed."""
        if not self.sealing.ready(provider):
            return
        for key, facts in self.kept.all():
            kek = self.kept.get(key) if key.provider == provider else None
            if kek is not None:
                with kek:
                    self._seal(key, kek, facts)

    def forget(self, key: KeyRef) -> None:
        """Out of memory, and of what is sealed."""
        self.kept.drop(key)
        self.sealing.drop(key)

    def remove(self, key: KeyRef) -> None:
        """Forget it, and do without it from now on, durably. Raises StorageError."""
        with self._lock:
            self.removed.add(key)
            self.kept.drop(key)
        self.sealing.drop(key)

    def _ask_all(
        self,
        keys: Iterable[KeyRef],
        ask: Callable[[str, list[str]], list[_Given | KeyUnavailableError]],
        take: Callable[[KeyRef, Secret, Facts], None],
    ) -> dict[KeyRef, KeyUnavailableError]:
        """Ask each provider once. `take` gets the KEKs, wiped after it. Returns why others are missing."""
        wanted: dict[str, list[str]] = {}
        missing: dict[KeyRef, KeyUnavailableError] = {}
        for key in keys:
            wanted.setdefault(key.provider, []).append(key.key_id)
        self._announce(wanted)
        for name, ids in wanted.items():
            for key_id, answer in zip(ids, ask(name, ids), strict=True):
                key = KeyRef(name, key_id)
                if isinstance(answer, KeyUnavailableError):
                    missing[key] = answer
                    continue
                kek, facts = answer
                with kek:
                    take(key, kek, facts)
        return missing

    def _obtain(self, provider: str, ids: list[str]) -> list[_Given | KeyUnavailableError]:
        """A provider's answers, and in the place of those that did not come what is sealed to this host."""
        found: dict[str, _Given | KeyUnavailableError] = {}
        self._announce([provider])  # so that what opens sealed keys is waited for there, too
        sealed = self.sealing.ready(provider)
        if sealed and self.sealing.is_silent(provider):
            found = {key_id: given for key_id in ids if (given := self._unsealed(provider, key_id))}
        asked = [key_id for key_id in ids if key_id not in found]
        for key_id, answer in zip(asked, self._ask(provider, asked), strict=True):
            found[key_id] = answer
            if sealed and isinstance(answer, ProviderUnavailable):
                found[key_id] = self._unsealed(provider, key_id) or answer
        return [found[key_id] for key_id in ids]

    def _unsealed(self, provider: str, key_id: str) -> _Given | None:
        key = KeyRef(provider, key_id)
        return None if key in self.removed else self.sealing.get(key)

    def _ask(self, provider: str, ids: list[str]) -> list[_Given | KeyUnavailableError]:
        """A provider's answers; it is not asked for keys that were removed."""
        allowed = [key_id for key_id in ids if KeyRef(provider, key_id) not in self.removed]
        found: dict[str, Secret | KeyUnavailableError] = {}
        if allowed:
            try:
                found = dict(zip(allowed, self.provider(provider).get(allowed), strict=True))
            except KeyUnavailableError as error:
                found = dict.fromkeys(allowed, error)
            self.sealing.told(provider, found.items())
            self._watch.heard(provider, found.values())
        removed = KeyNotUsable(REMOVED)
        now = self._clock.now()
        answers: list[_Given | KeyUnavailableError] = []
        for key_id in ids:
            answer = found.get(key_id, removed)
            missing = answer if isinstance(answer, KeyUnavailableError) else None
            self._missing.note(KeyRef(provider, key_id), missing)
            answers.append(
                answer if isinstance(answer, KeyUnavailableError) else (answer, Facts("provider", now))
            )
        return answers

    def _keep(self, key: KeyRef, kek: Secret, facts: Facts) -> None:
        """Into memory, and to what is sealed."""
        with self._lock:
            if self.state is not State.LOCKED and key not in self.removed:
                self.kept.put(key, kek, facts)
        self._seal(key, kek, facts)

    def _take_note(self, key: KeyRef, kek: Secret, facts: Facts) -> None:
        """Of a key that its provider gave although nobody needs it now: what is here of it is good again."""
        if key in self.kept:
            self._keep(key, kek, facts)
        elif self.sealing.expires(key) is not None:
            self._seal(key, kek, facts)

    def _seal(self, key: KeyRef, kek: Secret, facts: Facts) -> None:
        if facts.source != "provider" or not self.sealing.ready(key.provider):
            return
        with self._lock:  # what was removed meanwhile, or locked, does not come back
            if self.state is not State.LOCKED and key not in self.removed:
                self.sealing.put(key, kek, facts.fetched)
                self.changed.set()

    def state_of(self, key: KeyRef) -> KeyState:
        """What is known of a key now."""
        facts, missing = self.kept.facts(key), self._missing.get(key)
        return KeyState(
            None if facts is None else facts.source,
            None if facts is None else facts.fetched,
            None if facts is None else facts.expires,
            self.sealing.expires(key),
            None if missing is None else missing[1],
            None if missing is None else missing[0],
        )
