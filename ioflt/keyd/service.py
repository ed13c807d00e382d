"""What keyd does, without sockets: the `KeyService` over providers and the cache of KEKs.

State      who sets it        what it refuses
OPEN       start, unlock      nothing
CLOSING    lock, second pass  what opens files (new keys, DEKs, VMX): mounts still end what they began
LOCKED     lock               all that needs a key

Threads: any number of calls run side by side. `_state` changes and KEKs enter the cache under `_lock`, so
that none enters after a lock wiped it; nobody waits for a provider while holding it. Whoever is going to wait
for one says so to `outward` first, before anything was changed. `_administration` makes lock and unlock
follow one another; it is held while mounts are waited for, and these may call in meanwhile. An unlock waits
for providers before: a lock that comes then is not kept waiting, and wins.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum, auto
from hmac import compare_digest
from typing import Literal, TypeAlias

import msgspec

import ioflt
from ioflt.audit.event import Thing, added, deleted, modified
from ioflt.crypto.kdf import hkdf
from ioflt.crypto.mac import tag
from ioflt.crypto.secret import Secret
from ioflt.crypto.wrap import unwrap, wrap
from ioflt.errors import (
    AuthenticationError,
    CorruptDataError,
    IofltError,
    KeyNotUsable,
    KeyUnavailableError,
    MalformedError,
    ProviderLocked,
    ProviderUnavailable,
    StorageError,
    UsageError,
)
from ioflt.format.luks2 import header as luks2
from ioflt.format.luks2.profile import Digest
from ioflt.format.record import record as form
from ioflt.format.vmx import sealed
from ioflt.keyd import generations, outward
from ioflt.keyd.attester import Attester
from ioflt.keyd.kept import Facts, KeptKeys
from ioflt.keyd.key_holders import KeyHolders
from ioflt.keyd.lockdown import Lockdown, unlock_all
from ioflt.keyd.missing import MissingKeys
from ioflt.keyd.policies import PolicyFile
from ioflt.keyd.provider_watch import ProviderWatch
from ioflt.keyd.providers import ProviderChanges
from ioflt.keyd.recorder import Recorder, event, key_thing, provider_thing
from ioflt.keyd.registry import Registry
from ioflt.keyd.sealing import Sealing
from ioflt.keyd.users import Users
from ioflt.keys.native.store import NativeStore
from ioflt.keys.provider import Generations, KeyProvider
from ioflt.keys.removed import RemovedKeys
from ioflt.keys.sealed import seal
from ioflt.keys.sealed.cache import Sealer
from ioflt.keys.sealed.clock import LatestTime
from ioflt.keys.state import KeyState
from ioflt.paths import Paths
from ioflt.policy import text as policy_text
from ioflt.types import KeyRef
from ioflt.wire.keyd import messages
from ioflt.wire.keyd.messages import CachedKey, Key, Locked, LockMode, Status

#: Bytes of a DEK: an AES-256-XTS key pair.
DEK_SIZE = 64

_REMOVED = "the key was removed from this host"

#: A KEK, and where it is from.
_Given: TypeAlias = tuple[Secret, Facts]


class State(Enum):
    OPEN = auto()
    CLOSING = auto()
    LOCKED = auto()


class Service:
    """A `keys.client.KeyService`. Its directories are there.

    `clock` is what keys expire by, `sealer` binds sealed keys to this host.
    """

    def __init__(
        self, where: Paths, clock: LatestTime | None = None, sealer: Sealer = seal.to_this_host
    ) -> None:
        store = NativeStore(where.providers)
        self._paths = where
        #: What happens goes there.
        self.recorder = Recorder(where)
        #: Signs statements about reports.
        self.attester = Attester(where.attest_key)
        self._watch = ProviderWatch(store, self.recorder)
        self._clock = clock or LatestTime()
        self._registry = Registry(store)
        self._keks = KeptKeys(self._clock)
        self._sealing = Sealing(store, self._clock, sealer)
        self._missing = MissingKeys()
        self._removed = RemovedKeys(where.removed_keys)
        self._policies = PolicyFile(where.policies)
        self._key_holders = KeyHolders(where.key_holders)
        self._state = State.OPEN
        self._lock = threading.Lock()
        self._administration = threading.Lock()
        self._locks = 0  # how often `lock` was called
        #: Who is connected; the server tells.
        self.users = Users()
        #: Changes of providers by who may not write their files.
        self.providers = ProviderChanges(store, self.recorder, self._watch, self.reload)
        #: Set when there is something to `save`.
        self.changed = threading.Event()

    def default_provider(self) -> str:
        return self._registry.default()

    def new_key(self, provider: str | None = None, *, within: str | None = None) -> KeyRef:
        """Folders are `guarded`'s to know: `within` is none of this room's business."""
        self._refuse_unless(State.OPEN)
        name = provider if provider is not None else self.default_provider()
        key = KeyRef(name, self._provider(name).create())
        self.recorder.record(event("key new", key_thing(key)))
        return key

    def use_key(self, key: KeyRef) -> None:
        self._refuse_unless(State.OPEN)
        if key in self._removed:
            raise KeyNotUsable(_REMOVED)
        self._provider(key.provider).activate(key.key_id)
        self._kek(key).wipe()

    def generate(self, key: KeyRef, aads: Sequence[bytes]) -> list[tuple[Secret, bytes]]:
        self._refuse_unless(State.OPEN)
        with self._derived(key, "dek-wrap") as wrapping:
            self._serve([key])
            deks = [Secret.random(DEK_SIZE) for _ in aads]
            return [(dek, wrap(wrapping, dek, aad)) for dek, aad in zip(deks, aads, strict=True)]

    def unwrap(self, items: Sequence[tuple[KeyRef, bytes, bytes]]) -> list[Secret | IofltError]:
        self._refuse_unless(State.OPEN)
        missing = self._fetch({key for key, _, _ in items})
        found = [missing.get(item[0]) or self._unwrap_one(*item) for item in items]
        deks = {item[0]: dek for item, dek in zip(items, found, strict=True) if isinstance(dek, Secret)}
        try:
            self._serve(deks)
        except StorageError:
            for dek in found:
                if isinstance(dek, Secret):
                    dek.wipe()
            raise
        return found

    def rewrap(self, key_from: KeyRef, key_to: KeyRef, blob: bytes, aad_from: bytes, aad_to: bytes) -> bytes:
        with self._unwrapped(key_from, blob, aad_from) as dek, self._derived(key_to, "dek-wrap") as wrapping:
            return wrap(wrapping, dek, aad_to)

    def mac(self, key: KeyRef, label: form.Label, data: bytes) -> bytes:
        """The 32-byte MAC of a record by that key."""
        with self._derived(key, f"mac/{label}") as mac_key:
            return tag(mac_key, data)

    def check_record(
        self, payload: bytes, tags: Sequence[bytes], by: Sequence[KeyRef], shown: str = ""
    ) -> list[bool | IofltError]:
        self._refuse_unless(State.OPEN, State.CLOSING)
        found = form.parse(form.seal(payload, tags))
        missing = self._fetch(set(by))
        return [missing.get(key) or self._is_by(found, key) for key in by]

    def seal_record(
        self, by: Sequence[KeyRef], old: bytes | None, payload: bytes, shown: str = ""
    ) -> list[bytes]:
        record = form.parse_payload(payload)
        tags = self.macs(by, record, payload)
        with suppress(CorruptDataError):  # it takes the place of something that is no record
            self.sealed(None if old is None else form.parse(old).record, record)
        return tags

    def macs(self, by: Sequence[KeyRef], record: form.Record, payload: bytes) -> list[bytes]:
        """Those of that record, whose payload is given."""
        if record.keys and tuple(by) != record.keys:
            raise UsageError("a record is under the keys that it names")
        self._refuse_unless(State.OPEN, State.CLOSING)
        self._fetch(set(by))
        return [self.mac(key, form.label(record), payload) for key in by]

    def sealed(self, before: form.Record | None, record: form.Record) -> None:
        """That record takes the place of `before`, which is valid."""
        self._key_holders.follow(before, record)

    def prove(self, items: Sequence[tuple[KeyRef, bytes, bytes, Digest]]) -> list[IofltError | None]:
        self._refuse_unless(State.OPEN, State.CLOSING)
        missing = self._fetch({item[0] for item in items})
        return [missing.get(item[0]) or self._prove_one(*item) for item in items]

    def prove_vmx(self, text: bytes, by: Sequence[KeyRef]) -> None:
        found: list[Secret] = []
        try:
            if not by:
                with self._safe_opener(text) as (opener, wrapping):
                    found.append(sealed.config_key(text, wrapping, opener))
            for key in by:
                with self._derived(key, "vmx-keysafe") as wrapping:
                    found.append(sealed.config_key(text, wrapping, key))
            if any(one != found[0] for one in found):
                raise AuthenticationError("key safe differs", "its keys give different contents")
            sealed.open_with(text, found[0])
        finally:
            for one in found:
                one.wipe()

    def seal_vmx(self, key: KeyRef, plaintext: bytes, file_id: int) -> bytes:
        with self._derived(key, "vmx-keysafe") as wrapping:
            return sealed.seal(plaintext, wrapping, key, file_id)

    def rewrap_vmx(
        self, text: bytes, keys: Sequence[KeyRef], openers: Sequence[KeyRef] | None = None
    ) -> bytes:
        """`openers`: the keys that may open it, of those that it names; None: all."""
        with ExitStack() as derived:
            opener, wrapping = derived.enter_context(self._safe_opener(text, openers))
            to: list[tuple[KeyRef, Secret | None]] = []
            for key in keys:
                try:
                    to.append((key, derived.enter_context(self._derived(key, "vmx-keysafe"))))
                except KeyUnavailableError:
                    if key not in sealed.peek(text).keys:
                        raise
                    to.append((key, None))
            return sealed.rewrap(text, wrapping, opener, to)

    def config_key(
        self, head: bytes, key: KeyRef | None = None, openers: Sequence[KeyRef] | None = None
    ) -> Secret:
        self._refuse_unless(State.OPEN)
        if key is not None:
            with self._derived(key, "vmx-keysafe") as wrapping:
                self._serve([key])
                return sealed.config_key(head, wrapping, key)
        with self._safe_opener(head, openers) as (opener, wrapping):
            self._serve([opener])
            return sealed.config_key(head, wrapping, opener)

    def key_states(self, keys: Sequence[KeyRef], *, ask: bool = True) -> list[KeyState]:
        if ask:
            self._ask_all(set(keys), self._ask, self._take_note)
        return [self._key_state(key) for key in keys]

    def cached_keys(self, after: KeyRef | None = None) -> list[CachedKey]:
        """The first page of the keys in memory, or the next one."""
        known = self._keks.all()
        names = [(key.provider, key.key_id) for key, _ in known]
        begin = 0 if after is None else bisect_right(names, (after.provider, after.key_id))
        page = []
        for key, facts in known[begin : begin + messages.MAX_PAGE]:
            users = self.users.of(key)
            shown = tuple(users[: messages.MAX_USERS])
            others = len(users) - len(shown)
            page.append(CachedKey(Key.of(key), facts.source, facts.fetched, facts.expires, shown, others))
        return page

    def set_key_cache(self, provider: str, days: int | None) -> None:
        self._refuse_unless(State.OPEN)
        status = self._sealing.status(provider)
        about = modified("cache.days", None if status is None else status.days, days)
        with self.recorder.around(event("provider cache", provider_thing(provider), changes=[about])):
            self._sealing.set(provider, days)
        if days is not None and self._sealing.ready(provider):
            for key, facts in self._keks.all():
                kek = self._keks.get(key) if key.provider == provider else None
                if kek is not None:
                    with kek:
                        self._seal(key, kek, facts)
        self._sealing.save()

    def policies(self) -> bytes:
        return self._policies.text()

    def add_policy(self, text: bytes) -> None:
        told = added("policy", text.decode(errors="replace"))
        named = ", ".join(policy.name for policy in policy_text.parse(text))
        with self.recorder.around(event("policy create", Thing("policy", named, named), changes=[told])):
            self._policies.add(text)

    def remove_policy(self, name: str) -> None:
        told = deleted("policy", name)
        with self.recorder.around(event("policy remove", Thing("policy", name, name), changes=[told])):
            self._policies.remove(name)

    def key_holders(self) -> list[str]:
        return self._key_holders.all()

    def mark_key_holder(self, home_id: str, *, holds: bool, shown: str = "") -> None:
        """`shown`: what to call that VM in the event."""
        told = modified("config.holdsKeys", home_id in self._key_holders.all(), holds)
        with self.recorder.around(event("vm mark", Thing("vm", home_id, shown or home_id), changes=[told])):
            self._key_holders.mark(home_id, holds=holds)

    def forget_key(self, key: KeyRef) -> None:
        self._keks.drop(key)
        self._sealing.drop(key)

    def remove_key(self, key: KeyRef) -> None:
        with self.recorder.around(event("key remove", key_thing(key))):
            with self._lock:
                self._removed.add(key)
                self._keks.drop(key)
            self._sealing.drop(key)

    def add_key(self, key: KeyRef) -> None:
        with self.recorder.around(event("key add", key_thing(key))):
            self._removed.discard(key)

    def note_generation(self, keys: Sequence[KeyRef], home_id: str, generation: int) -> None:
        generations.note(self._keepers(keys), home_id, generation)

    def seen_generation(self, keys: Sequence[KeyRef], home_id: str) -> tuple[int, bool]:
        return generations.seen(self._keepers(keys), home_id)

    def status(self) -> Status:
        state: Literal["open", "locked"] = "open" if self._state is State.OPEN else "locked"
        return Status(
            os.getpid(),
            ioflt.__version__,
            state,
            self._keks.kind,
            len(self._keks),
            self.users.connections,
            tuple(
                msgspec.structs.replace(provider, cache=self._sealing.status(provider.name))
                for provider in self._registry.status()
            ),
        )

    def lock(self, mode: LockMode) -> Locked:
        before = self._state.name.lower()
        try:
            locked = self._lock_all(mode)
        except IofltError as error:
            self.recorder.record_if_possible(event("lock", outcome="failed", reason=str(error)))
            raise
        change = modified("keyd.state", before, "locked")
        self.recorder.record_if_possible(event("lock", changes=[change], reason=f"mode {mode}"))
        return locked

    def unlock(self, provider: str | None = None, passphrase: Secret | None = None) -> None:
        about = None if provider is None else provider_thing(provider)
        before = self._state
        changes = [] if before is State.OPEN else [modified("keyd.state", before.name.lower(), "open")]
        with self.recorder.around(event("unlock", about, changes=changes)):
            self._unlock(provider, passphrase)

    def reload(self) -> None:
        self._watch.look()
        changed = self._registry.reload()
        self._sealing.reload()
        self._keks.drop_if(lambda key: key.provider in changed)

    def warnings(self) -> list[str]:
        lines = self._registry.warnings()
        if self._keks.kind == "plain":
            lines.append("keyd may not lock memory: keys can reach the swap space")
        return lines + self._sealing.warnings()

    def upkeep(self) -> None:
        """What time asks for: expired keys are wiped, sealed ones asked for again and written."""
        self._keks.drop_expired()
        if self._state is State.OPEN:
            self._renew()
        self.save()

    def save(self) -> None:
        """Write the sealed keys that came since the last time."""
        self._sealing.save()

    def close(self) -> None:
        """Write what is to be kept, and forget all keys, at the end of the process."""
        self._sealing.close()
        self._wipe()
        self.recorder.close()

    def _lock_all(self, mode: LockMode) -> Locked:
        with self._administration:
            self._locks += 1
            if self._state is State.LOCKED:
                self._registry.lock()  # an unlock may just be opening providers
                # From suspend to force, say. A refusal leaves locked what is.
                again = Lockdown(self._paths, mode, rollback=False)
                again.spread()
                return again.report()
            lockdown = Lockdown(self._paths, mode)
            lockdown.spread()
            # From here no file opens; mounts that came up during the first pass are locked by the second.
            self._set(State.CLOSING)
            try:
                lockdown.spread()
            except BaseException:  # a lock that failed, however, leaves all open
                self._set(State.OPEN)
                raise
            self._set(State.LOCKED)
            self._sealing.lock()
            return lockdown.report()

    def _unlock(self, provider: str | None, passphrase: Secret | None) -> None:
        before = self._locks
        if provider is not None:
            self._registry.get(provider).unlock(passphrase)
        elif passphrase is not None:
            raise UsageError("a passphrase for which provider?")
        if self._state is not State.OPEN:
            self._registry.unlock()
        with self._administration:
            if self._locks != before:  # while a provider was waited for, which no lock does
                raise ProviderLocked("keyd was locked meanwhile")
            if self._state is not State.OPEN:
                self._sealing.unlock()
                self._set(State.OPEN)
            unlock_all(self._paths)  # a keyd that died may have locked them

    def _wipe(self) -> None:
        self._registry.lock()
        self._keks.wipe()
        self._missing.forget()

    def _set(self, state: State) -> None:
        with self._lock:
            self._state = state
            if state is State.LOCKED:
                self._wipe()

    def _serve(self, keys: Iterable[KeyRef]) -> None:
        """Data keys under these go to whoever asks: an event for the first time. Raises StorageError."""
        for key in keys:
            if not self.users.is_served(key):
                self.recorder.record_soon(event("key use", key_thing(key)))
                self.users.served(key)

    def _keepers(self, keys: Sequence[KeyRef]) -> list[tuple[KeyRef, Generations]]:
        """Who keeps generations beside keys; not for keys that were removed. Raises GoesOut."""
        found = []
        for key in keys:
            with suppress(KeyUnavailableError):  # no such provider here
                keeper = self._registry.get(key.provider).generations
                if keeper is not None and key not in self._removed:
                    outward.check(key.provider)
                    found.append((key, keeper))
        return found

    def _provider(self, name: str) -> KeyProvider:
        """A provider that is going to be waited for. Raises KeyUnavailableError; GoesOut."""
        provider = self._registry.get(name)
        outward.check(name)
        return provider

    def _announce(self, providers: Iterable[str]) -> None:
        """All that are going to be waited for, so that none is asked twice. Raises GoesOut."""
        for name in providers:
            with suppress(KeyUnavailableError):  # whoever asks hears of it
                self._provider(name)

    def _refuse_unless(self, *allowed: State) -> None:
        if self._state not in allowed:
            raise ProviderLocked("keyd is locked")

    @contextmanager
    def _derived(self, key: KeyRef, label: str) -> Iterator[Secret]:
        """The key for one use of a KEK, wiped at the end. Raises KeyUnavailableError."""
        with self._kek(key) as kek, hkdf(kek, label) as derived:
            yield derived

    @contextmanager
    def _safe_opener(
        self, text: bytes, openers: Sequence[KeyRef] | None = None
    ) -> Iterator[tuple[KeyRef, Secret]]:
        """Of the keys that open a sealed VMX the first that can be had, and its wrapping key.

        Those in memory come first: another one's provider may hang.
        """
        named = sealed.peek(text).keys if openers is None else openers
        keys = sorted(named, key=lambda key: key not in self._keks)
        if not keys:
            raise MalformedError("foreign key safe", "it names no key of a provider")
        missing: KeyUnavailableError | None = None
        for key in keys:
            try:
                kek = self._kek(key)
            except KeyUnavailableError as error:
                missing = missing or error
                continue
            with kek, hkdf(kek, "vmx-keysafe") as wrapping:
                yield key, wrapping
            return
        raise missing or MalformedError("foreign key safe")

    def _kek(self, key: KeyRef) -> Secret:
        """A copy of a KEK, for the caller to wipe."""
        self._refuse_unless(State.OPEN, State.CLOSING)
        found = self._keks.get(key)
        if found is None:
            (answer,) = self._obtain(key.provider, [key.key_id])
            if isinstance(answer, KeyUnavailableError):
                raise answer
            found, facts = answer
            self._keep(key, found, facts)
        self.users.used(key)
        return found

    def _fetch(self, keys: set[KeyRef]) -> dict[KeyRef, KeyUnavailableError]:
        """Put KEKs into the cache. Returns why some cannot be had."""
        return self._ask_all([key for key in keys if key not in self._keks], self._obtain, self._keep)

    def _renew(self) -> None:
        """Ask again for what is in memory and, sealed, is old; and for what came from there.

        What nobody has used since keyd started, such as the old key of a recrypt, expires.
        """
        due = {KeyRef(name, key_id) for name, ids in self._sealing.due().items() for key_id in ids}
        wanted = [key for key, facts in self._keks.all() if facts.source == "sealed" or key in due]
        self._ask_all(wanted, self._ask, self._take_note)

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
        sealed = self._sealing.ready(provider)
        if sealed and self._sealing.is_silent(provider):
            found = {key_id: given for key_id in ids if (given := self._unsealed(provider, key_id))}
        asked = [key_id for key_id in ids if key_id not in found]
        for key_id, answer in zip(asked, self._ask(provider, asked), strict=True):
            found[key_id] = answer
            if sealed and isinstance(answer, ProviderUnavailable):
                found[key_id] = self._unsealed(provider, key_id) or answer
        return [found[key_id] for key_id in ids]

    def _unsealed(self, provider: str, key_id: str) -> _Given | None:
        key = KeyRef(provider, key_id)
        return None if key in self._removed else self._sealing.get(key)

    def _ask(self, provider: str, ids: list[str]) -> list[_Given | KeyUnavailableError]:
        """A provider's answers; it is not asked for keys that were removed."""
        allowed = [key_id for key_id in ids if KeyRef(provider, key_id) not in self._removed]
        found: dict[str, Secret | KeyUnavailableError] = {}
        if allowed:
            try:
                found = dict(zip(allowed, self._provider(provider).get(allowed), strict=True))
            except KeyUnavailableError as error:
                found = dict.fromkeys(allowed, error)
            self._sealing.told(provider, found.items())
            self._watch.heard(provider, found.values())
        removed = KeyNotUsable(_REMOVED)
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
            if self._state is not State.LOCKED and key not in self._removed:
                self._keks.put(key, kek, facts)
        self._seal(key, kek, facts)

    def _take_note(self, key: KeyRef, kek: Secret, facts: Facts) -> None:
        """Of a key that its provider gave although nobody needs it now: what is here of it is good again."""
        if key in self._keks:
            self._keep(key, kek, facts)
        elif self._sealing.expires(key) is not None:
            self._seal(key, kek, facts)

    def _seal(self, key: KeyRef, kek: Secret, facts: Facts) -> None:
        if facts.source != "provider" or not self._sealing.ready(key.provider):
            return
        with self._lock:  # what was removed meanwhile, or locked, does not come back
            if self._state is not State.LOCKED and key not in self._removed:
                self._sealing.put(key, kek, facts.fetched)
                self.changed.set()

    def _key_state(self, key: KeyRef) -> KeyState:
        facts, missing = self._keks.facts(key), self._missing.get(key)
        return KeyState(
            None if facts is None else facts.source,
            None if facts is None else facts.fetched,
            None if facts is None else facts.expires,
            self._sealing.expires(key),
            None if missing is None else missing[1],
            None if missing is None else missing[0],
        )

    def _is_by(self, found: form.Unverified[form.Record], key: KeyRef) -> bool | IofltError:
        """Whether the key MACed the record: by its own tag, or by any of a clear home's."""
        own = found.record.keys
        if own and key not in own:
            return False
        tags = (found.tags[own.index(key)],) if own else found.tags
        try:
            expected = self.mac(key, found.label, found.payload)
        except KeyUnavailableError as error:
            return error
        return any(compare_digest(expected, one) for one in tags)

    def _unwrap_one(self, key: KeyRef, blob: bytes, aad: bytes) -> Secret | IofltError:
        try:
            return self._unwrapped(key, blob, aad)
        except IofltError as error:
            return error

    def _prove_one(self, key: KeyRef, blob: bytes, aad: bytes, digest: Digest) -> IofltError | None:
        try:
            with self._unwrapped(key, blob, aad) as dek:
                luks2.check_digest(digest, dek)
        except IofltError as error:
            return error
        return None

    def _unwrapped(self, key: KeyRef, blob: bytes, aad: bytes) -> Secret:
        with self._derived(key, "dek-wrap") as wrapping:
            dek = unwrap(wrapping, blob, aad)
        if len(dek) != DEK_SIZE:
            dek.wipe()
            raise MalformedError("wrapped key of a wrong size", f"{len(dek)} bytes")
        return dek
