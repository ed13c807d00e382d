"""What keyd does, without sockets: the `KeyService` over KEKs (`keks`), events and administration.

Threads: any number of calls run side by side. `_administration` makes lock and unlock follow one another; it
is held while mounts are waited for, and these may call in meanwhile. An unlock waits for providers before: a
lock that comes then is not kept waiting, and wins.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from hmac import compare_digest
from typing import Literal

import msgspec

import ioflt
from ioflt.audit.event import Change, Thing, Value, added, deleted, modified
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
    StorageError,
    UsageError,
)
from ioflt.format.luks2 import header as luks2
from ioflt.format.luks2.profile import Digest
from ioflt.format.record import record as form
from ioflt.format.vmx import sealed
from ioflt.keyd import generations
from ioflt.keyd.attester import Attester
from ioflt.keyd.keks import REMOVED, Keks, State
from ioflt.keyd.key_holders import KeyHolders
from ioflt.keyd.lockdown import Lockdown, unlock_all
from ioflt.keyd.policies import PolicyFile
from ioflt.keyd.provider_watch import ProviderWatch
from ioflt.keyd.providers import ProviderChanges
from ioflt.keyd.recorder import Recorder, event, key_thing, provider_thing
from ioflt.keyd.server_keys import ServerKeys
from ioflt.keyd.users import Users
from ioflt.keys.native.store import NativeStore
from ioflt.keys.removed import RemovedKeys
from ioflt.keys.sealed import seal
from ioflt.keys.sealed.cache import Sealer
from ioflt.keys.sealed.clock import LatestTime
from ioflt.keys.state import KeyState
from ioflt.paths import Paths
from ioflt.policy import text as policy_text
from ioflt.policy.model import StoragePolicy
from ioflt.types import KeyRef
from ioflt.wire.keyd import values
from ioflt.wire.keyd.replies import CachedKey, Locked, Status
from ioflt.wire.keyd.values import Key, LockMode

#: Bytes of a DEK: an AES-256-XTS key pair.
DEK_SIZE = 64


class Service:
    """A `keys.service.KeyService`. Its directories are there.

    `clock` is what keys expire by, `sealer` binds sealed keys to this host.
    """

    def __init__(
        self, where: Paths, clock: LatestTime | None = None, sealer: Sealer = seal.to_this_host
    ) -> None:
        store = NativeStore(where.providers)
        #: Of this host.
        self.paths = where
        #: What happens goes there.
        self.recorder = Recorder(where)
        #: Signs statements about reports.
        self.attester = Attester(where.attest_key)
        self._watch = ProviderWatch(store, self.recorder)
        #: Who is connected; the server tells.
        self.users = Users()
        self._keks = Keks(
            store, self._watch, self.users, RemovedKeys(where.removed_keys), clock or LatestTime(), sealer
        )
        #: Set when there is something to `save`.
        self.changed = self._keks.changed
        self._policies = PolicyFile(where.policies)
        self._key_holders = KeyHolders(where.key_holders)
        self._administration = threading.Lock()
        self._locks = 0  # how often `lock` was called
        #: Changes of providers by who may not write their files.
        self.providers = ProviderChanges(store, self.recorder, self._watch, self.reload)
        #: Keys on key servers, for who operates them.
        self.server_keys = ServerKeys(store, self._keks, self.recorder)

    def default_provider(self) -> str:
        return self._keks.registry.default()

    def new_key(self, provider: str | None = None, *, within: str | None = None) -> KeyRef:
        """Folders are `guarded`'s to know: `within` is none of this room's business."""
        self._keks.refuse_unless(State.OPEN)
        name = provider if provider is not None else self.default_provider()
        key = KeyRef(name, self._keks.provider(name).create())
        self.recorder.record(event("key new", key_thing(key)))
        return key

    def use_key(self, key: KeyRef) -> None:
        self._keks.refuse_unless(State.OPEN)
        if key in self._keks.removed:
            raise KeyNotUsable(REMOVED)
        self._keks.provider(key.provider).activate(key.key_id)
        self._keks.get(key).wipe()

    def generate(self, key: KeyRef, aads: Sequence[bytes]) -> list[tuple[Secret, bytes]]:
        self._keks.refuse_unless(State.OPEN)
        with self._keks.derived(key, "dek-wrap") as wrapping:
            self._serve([key])
            deks = [Secret.random(DEK_SIZE) for _ in aads]
            return [(dek, wrap(wrapping, dek, aad)) for dek, aad in zip(deks, aads, strict=True)]

    def unwrap(self, items: Sequence[tuple[KeyRef, bytes, bytes]]) -> list[Secret | IofltError]:
        self._keks.refuse_unless(State.OPEN)
        missing = self._keks.fetch({key for key, _, _ in items})
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
        with (
            self._unwrapped(key_from, blob, aad_from) as dek,
            self._keks.derived(key_to, "dek-wrap") as wrapping,
        ):
            return wrap(wrapping, dek, aad_to)

    def mac(self, key: KeyRef, label: form.Label, data: bytes) -> bytes:
        """The 32-byte MAC of a record by that key."""
        with self._keks.derived(key, f"mac/{label}") as mac_key:
            return tag(mac_key, data)

    def check_record(
        self, payload: bytes, tags: Sequence[bytes], by: Sequence[KeyRef], shown: str = ""
    ) -> list[bool | IofltError]:
        self._keks.refuse_unless(State.OPEN, State.CLOSING)
        found = form.parse(form.seal(payload, tags))
        missing = self._keks.fetch(set(by))
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
        self._keks.refuse_unless(State.OPEN, State.CLOSING)
        self._keks.fetch(set(by))
        return [self.mac(key, form.label(record), payload) for key in by]

    def sealed(self, before: form.Record | None, record: form.Record) -> None:
        """That record takes the place of `before`, which is valid."""
        self._key_holders.follow(before, record)

    def prove(self, items: Sequence[tuple[KeyRef, bytes, bytes, Digest]]) -> list[IofltError | None]:
        self._keks.refuse_unless(State.OPEN, State.CLOSING)
        missing = self._keks.fetch({item[0] for item in items})
        return [missing.get(item[0]) or self._prove_one(*item) for item in items]

    def prove_vmx(self, text: bytes, by: Sequence[KeyRef]) -> None:
        found: list[Secret] = []
        try:
            if not by:
                with self._safe_opener(text) as (opener, wrapping):
                    found.append(sealed.config_key(text, wrapping, opener))
            for key in by:
                with self._keks.derived(key, "vmx-keysafe") as wrapping:
                    found.append(sealed.config_key(text, wrapping, key))
            if any(one != found[0] for one in found):
                raise AuthenticationError("key safe differs", "its keys give different contents")
            sealed.open_with(text, found[0])
        finally:
            for one in found:
                one.wipe()

    def seal_vmx(self, key: KeyRef, plaintext: bytes, file_id: int) -> bytes:
        with self._keks.derived(key, "vmx-keysafe") as wrapping:
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
                    to.append((key, derived.enter_context(self._keks.derived(key, "vmx-keysafe"))))
                except KeyUnavailableError:
                    if key not in sealed.peek(text).keys:
                        raise
                    to.append((key, None))
            return sealed.rewrap(text, wrapping, opener, to)

    def config_key(
        self, head: bytes, key: KeyRef | None = None, openers: Sequence[KeyRef] | None = None
    ) -> Secret:
        self._keks.refuse_unless(State.OPEN)
        if key is not None:
            with self._keks.derived(key, "vmx-keysafe") as wrapping:
                self._serve([key])
                return sealed.config_key(head, wrapping, key)
        with self._safe_opener(head, openers) as (opener, wrapping):
            self._serve([opener])
            return sealed.config_key(head, wrapping, opener)

    def key_states(self, keys: Sequence[KeyRef], *, ask: bool = True) -> list[KeyState]:
        if ask:
            self._keks.ask(set(keys))
        return [self._keks.state_of(key) for key in keys]

    def cached_keys(self, after: KeyRef | None = None) -> list[CachedKey]:
        """The first page of the keys in memory, or the next one."""
        known = self._keks.kept.all()
        names = [(key.provider, key.key_id) for key, _ in known]
        begin = 0 if after is None else bisect_right(names, (after.provider, after.key_id))
        page = []
        for key, facts in known[begin : begin + values.MAX_PAGE]:
            users = self.users.of(key)
            shown = tuple(users[: values.MAX_USERS])
            others = len(users) - len(shown)
            page.append(CachedKey(Key.of(key), facts.source, facts.fetched, facts.expires, shown, others))
        return page

    def set_key_cache(self, provider: str, days: int | None) -> None:
        self._keks.refuse_unless(State.OPEN)
        status = self._keks.sealing.status(provider)
        about = modified("cache.days", None if status is None else status.days, days)
        with self.recorder.around(event("provider cache", provider_thing(provider), changes=[about])):
            self._keks.sealing.set(provider, days)
        if days is not None:
            self._keks.seal_all(provider)
        self._keks.sealing.save()

    def policies(self) -> bytes:
        return self._policies.text()

    def add_policy(self, text: bytes) -> None:
        self._policies.add(text, lambda policy: self._telling_of("policy create", added, policy))

    def remove_policy(self, name: str) -> None:
        self._policies.remove(name, lambda policy: self._telling_of("policy remove", deleted, policy))

    def _telling_of(
        self, operation: str, change: Callable[[str, Value], Change], policy: StoragePolicy
    ) -> AbstractContextManager[None]:
        about = Thing("policy", policy.name, policy.name)
        told = change(f'policy("{policy.name}")', policy_text.to_json(policy))
        return self.recorder.around(event(operation, about, changes=[told]))

    def key_holders(self) -> list[str]:
        return self._key_holders.all()

    def mark_key_holder(self, home_id: str, *, holds: bool, shown: str = "") -> None:
        """`shown`: what to call that VM in the event."""
        told = modified("config.holdsKeys", home_id in self._key_holders.all(), holds)
        with self.recorder.around(event("vm mark", Thing("vm", home_id, shown or home_id), changes=[told])):
            self._key_holders.mark(home_id, holds=holds)

    def forget_key(self, key: KeyRef) -> None:
        self._keks.forget(key)

    def remove_key(self, key: KeyRef) -> None:
        with self.recorder.around(event("key remove", key_thing(key))):
            self._keks.remove(key)

    def add_key(self, key: KeyRef) -> None:
        with self.recorder.around(event("key add", key_thing(key))):
            self._keks.removed.discard(key)

    def erase_key(self, key: KeyRef, home_id: str) -> bool:
        """Who else has the key is `guarded`'s to know."""
        return self.server_keys.erase(key, lambda told: told)

    def note_generation(self, keys: Sequence[KeyRef], home_id: str, generation: int) -> None:
        generations.note(self._keks.keepers(keys), home_id, generation)

    def seen_generation(self, keys: Sequence[KeyRef], home_id: str) -> tuple[int, bool]:
        return generations.seen(self._keks.keepers(keys), home_id)

    def status(self) -> Status:
        state: Literal["open", "locked"] = "open" if self._keks.state is State.OPEN else "locked"
        return Status(
            os.getpid(),
            ioflt.__version__,
            state,
            self._keks.kept.kind,
            len(self._keks.kept),
            self.users.connections,
            tuple(
                msgspec.structs.replace(provider, cache=self._keks.sealing.status(provider.name))
                for provider in self._keks.registry.status()
            ),
        )

    def lock(self, mode: LockMode) -> Locked:
        before = self._keks.state.name.lower()
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
        before = self._keks.state
        changes = [] if before is State.OPEN else [modified("keyd.state", before.name.lower(), "open")]
        with self.recorder.around(event("unlock", about, changes=changes)):
            self._unlock(provider, passphrase)

    def reload(self) -> None:
        self._watch.look()
        changed = self._keks.registry.reload()
        self._keks.sealing.reload()
        self._keks.kept.drop_if(lambda key: key.provider in changed)

    def warnings(self) -> list[str]:
        return self._keks.registry.reminders() + self.common_warnings()

    def common_warnings(self) -> list[str]:
        """Those that are not for who may back up providers alone."""
        lines = self._keks.registry.warnings()
        if self._keks.kept.kind == "plain":
            lines.append("keyd may not lock memory: keys can reach the swap space")
        return lines + self._keks.sealing.warnings()

    def upkeep(self) -> None:
        """What time asks for: expired keys are wiped, sealed ones asked for again and written."""
        self._keks.kept.drop_expired()
        if self._keks.state is State.OPEN:
            self._keks.renew()
        self.save()

    def save(self) -> None:
        """Write the sealed keys that came since the last time."""
        self._keks.sealing.save()

    def close(self) -> None:
        """Write what is to be kept, and forget all keys, at the end of the process."""
        self._keks.sealing.close()
        self._keks.wipe()
        self.recorder.close()

    def _lock_all(self, mode: LockMode) -> Locked:
        with self._administration:
            self._locks += 1
            if self._keks.state is State.LOCKED:
                self._keks.registry.lock()  # an unlock may just be opening providers
                # From suspend to force, say. A refusal leaves locked what is.
                again = Lockdown(self.paths, mode, rollback=False)
                again.spread()
                return again.report()
            lockdown = Lockdown(self.paths, mode)
            lockdown.spread()
            # From here no file opens; mounts that came up during the first pass are locked by the second.
            self._keks.become(State.CLOSING)
            try:
                lockdown.spread()
            except BaseException:  # a lock that failed, however, leaves all open
                self._keks.become(State.OPEN)
                raise
            self._keks.become(State.LOCKED)
            self._keks.sealing.lock()
            return lockdown.report()

    def _unlock(self, provider: str | None, passphrase: Secret | None) -> None:
        before = self._locks
        if provider is not None:
            self._keks.registry.get(provider).unlock(passphrase)
        elif passphrase is not None:
            raise UsageError("a passphrase for which provider?")
        if self._keks.state is not State.OPEN:
            self._keks.registry.unlock()
        with self._administration:
            if self._locks != before:  # while a provider was waited for, which no lock does
                raise ProviderLocked("keyd was locked meanwhile")
            if self._keks.state is not State.OPEN:
                self._keks.sealing.unlock()
                self._keks.become(State.OPEN)
            unlock_all(self.paths)  # a keyd that died may have locked them

    def _serve(self, keys: Iterable[KeyRef]) -> None:
        """Data keys under these go to whoever asks: an event for the first time. Raises StorageError."""
        for key in keys:
            if not self.users.is_served(key):
                self.recorder.record_soon(event("key use", key_thing(key)))
                self.users.served(key)

    @contextmanager
    def _safe_opener(
        self, text: bytes, openers: Sequence[KeyRef] | None = None
    ) -> Iterator[tuple[KeyRef, Secret]]:
        """Of the keys that open a sealed VMX the first that can be had, and its wrapping key.

        Those in memory come first: another one's provider may hang.
        """
        named = sealed.peek(text).keys if openers is None else openers
        keys = sorted(named, key=lambda key: key not in self._keks.kept)
        if not keys:
            raise MalformedError("foreign key safe", "it names no key of a provider")
        missing: KeyUnavailableError | None = None
        for key in keys:
            try:
                kek = self._keks.get(key)
            except KeyUnavailableError as error:
                missing = missing or error
                continue
            with kek, hkdf(kek, "vmx-keysafe") as wrapping:
                yield key, wrapping
            return
        raise missing or MalformedError("foreign key safe")

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
        with self._keks.derived(key, "dek-wrap") as wrapping:
            dek = unwrap(wrapping, blob, aad)
        if len(dek) != DEK_SIZE:
            dek.wipe()
            raise MalformedError("wrapped key of a wrong size", f"{len(dek)} bytes")
        return dek
