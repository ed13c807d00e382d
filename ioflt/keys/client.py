"""What keyd does for the rest of ioflt, and the client that asks it.

Locks: the pool of idle connections has one. A call has a connection for itself, so calls from several threads
run side by side; nobody holds the lock while waiting for keyd. Make the client after the last fork.
"""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Final, Protocol, TypeVar

from ioflt import paths
from ioflt.access import text
from ioflt.access.state import AccessState
from ioflt.audit.reader import LogFile, Page
from ioflt.crypto.secret import Secret
from ioflt.errors import (
    BugError,
    IofltError,
    KeyUnavailableError,
    PeerError,
    ProviderUnavailable,
    UnshownError,
)
from ioflt.format.luks2.profile import Digest
from ioflt.keys import starter
from ioflt.keys.channel import ConnectionLost
from ioflt.keys.link import Link
from ioflt.keys.providers import InUse
from ioflt.keys.shown import ShownRecords
from ioflt.keys.state import KeyState
from ioflt.transport import unix
from ioflt.transport.unix import NotListening
from ioflt.types import KeyRef
from ioflt.wire import failure
from ioflt.wire.failure import Failure
from ioflt.wire.frame import wipe
from ioflt.wire.keyd import messages, providers
from ioflt.wire.keyd.access import Change, Object
from ioflt.wire.keyd.messages import CachedKey, LockMode

#: Connections kept for the next call.
MAX_IDLE = 8

#: How often a call is made, or a keyd started, when one keyd after the other is killed meanwhile.
TRIES = 4

#: Seconds that a keyd may need to end once it no longer listens.
END_TIMEOUT_S = 10.0

Answer = TypeVar("Answer", bound=messages.ReplyBody)

#: A greeted connection to keyd; true: which is started when it is not running.
Reach = Callable[[bool], Link]


class KeyService(Protocol):
    """All that can be asked of keyd. Blocking, safe for calls from several threads.

    Every call may raise KeyUnavailableError (ProviderLocked while keyd is locked), PeerError, DeniedError.
    """

    def default_provider(self) -> str:
        """The provider of new keys: the only one there is, else `local`, which is made at first use."""
        ...

    def new_key(self, provider: str | None = None, *, within: str | None = None) -> KeyRef:
        """A new KEK, of that provider, else of the default one; first of that of the folder which lists the
        datastore of the id `within`, if it has one.
        """
        ...

    def use_key(self, key: KeyRef) -> None:
        """Have a KEK that is there ready for new data. Raises KeyNotUsable when its provider forbids that."""
        ...

    def generate(self, key: KeyRef, aads: Sequence[bytes]) -> list[tuple[Secret, bytes]]:
        """For each AAD a new 64-byte DEK and its blob under that KEK."""
        ...

    def unwrap(self, items: Sequence[tuple[KeyRef, bytes, bytes]]) -> list[Secret | IofltError]:
        """For each (key, blob, AAD) its DEK, or why there is none.

        AuthenticationError: the three do not belong together.
        """
        ...

    def rewrap(self, key_from: KeyRef, key_to: KeyRef, blob: bytes, aad_from: bytes, aad_to: bytes) -> bytes:
        """The same DEK under another KEK or AAD."""
        ...

    def check_record(
        self, payload: bytes, tags: Sequence[bytes], by: Sequence[KeyRef], shown: str = ""
    ) -> list[bool | IofltError]:
        """For each of the keys whether it MACed that record, or why that is not known.

        Each has its own tag, except of a clear home, where any will do. A record that holds tells keyd whose
        the keys are, and what to call it. Raises CorruptDataError for what is no record.
        """
        ...

    def seal_record(
        self, by: Sequence[KeyRef], old: bytes | None, payload: bytes, shown: str = ""
    ) -> list[bytes]:
        """The MACs of a record by each of the keys, which are those that it says, or its datastore's.

        `old`: the record file that it replaces. Raises CorruptDataError for what is no record.
        """
        ...

    def prove(self, items: Sequence[tuple[KeyRef, bytes, bytes, Digest]]) -> list[IofltError | None]:
        """For each (key, blob, AAD, digest) why the three do not give a DEK of that digest, None: they do.

        The DEK stays with keyd.
        """
        ...

    def prove_vmx(self, text: bytes, by: Sequence[KeyRef]) -> None:
        """Each of the keys opens the sealed VMX, and to the same content; none: any key that can be had.

        Raises CorruptDataError.
        """
        ...

    def seal_vmx(self, key: KeyRef, plaintext: bytes, file_id: int) -> bytes:
        """A new sealed VMX, with a configuration key of its own."""
        ...

    def rewrap_vmx(self, text: bytes, keys: Sequence[KeyRef]) -> bytes:
        """The same sealed VMX with a key-safe pair for each of these keys. Raises CorruptDataError too."""
        ...

    def config_key(self, text: bytes, key: KeyRef | None = None) -> Secret:
        """What the content of a sealed VMX is under (32 bytes), by that key or any that can be had.

        It stays as long as the file does. Raises CorruptDataError too.
        """
        ...

    def key_states(self, keys: Sequence[KeyRef], *, ask: bool = True) -> list[KeyState]:
        """What keyd knows of each key, once its provider was asked for it.

        `ask=False` asks no provider: what it said last counts.
        """
        ...

    def cached_keys(self, after: KeyRef | None = None) -> Sequence[CachedKey]:
        """Keys in memory, in order: the first page, or the next after that key. The last page is empty."""
        ...

    def set_key_cache(self, provider: str, days: int | None) -> None:
        """Seal the keys of a provider to this host, for so many days after it gave them; None: no more.

        UsageError: it has no servers. NotFoundError. PeerError: nothing here seals keys to this host.
        """
        ...

    def forget_key(self, key: KeyRef) -> None:
        """Forget a KEK, sealed or not; its provider is asked for it again when it is needed."""
        ...

    def remove_key(self, key: KeyRef) -> None:
        """Forget a KEK and do without it on this host, until `add_key`."""
        ...

    def add_key(self, key: KeyRef) -> None:
        """Take back `remove_key`."""
        ...

    def erase_key(self, key: KeyRef, home_id: str) -> bool:
        """Revoke and destroy the key of that VM on its servers, and forget it; also one that is gone already.

        False for a key that is derived from its provider's one key: it is removed from this host. Raises
        BusyError when keyd knows of others that have it.
        """
        ...

    def note_generation(self, keys: Sequence[KeyRef], home_id: str, generation: int) -> None:
        """Note with the home's keys how far it came, where their providers can and answer."""
        ...

    def seen_generation(self, keys: Sequence[KeyRef], home_id: str) -> tuple[int, bool]:
        """The highest generation noted with one of the keys, 0 if none was; whether that is all there is.

        Not while a provider does not answer that may have noted one.
        """
        ...

    def policies(self) -> bytes:
        """The text of the host's own storage policies. Raises CorruptDataError, StorageError."""
        ...

    def add_policy(self, text: bytes) -> None:
        """Keep the one policy in that text. Raises ExistsError, UsageError, and as `policies`."""
        ...

    def remove_policy(self, name: str) -> None:
        """Forget that policy. Raises NotFoundError; UsageError for a bundled one; and as `policies`."""
        ...

    def key_holders(self) -> Sequence[str]:
        """Ids of the homes that are marked as VMs from which the keys come."""
        ...

    def mark_key_holder(self, home_id: str, *, holds: bool) -> None:
        """Mark a home so, or take the mark away. Raises UsageError when too many are, StorageError."""
        ...

    def status(self) -> messages.Status:
        """What keyd is, and its providers."""
        ...

    def lock(self, mode: LockMode) -> messages.Locked:
        """Lock all mounts and forget all KEKs.

        With open files: "refuse" raises BusyError and changes nothing, "suspend" makes their I/O wait,
        "force" makes it fail.
        """
        ...

    def unlock(self, provider: str | None = None, passphrase: Secret | None = None) -> None:
        """End `lock`; and make that provider ready, with its passphrase when it needs one."""
        ...

    def reload(self) -> None:
        """Read the provider files again."""
        ...

    def warnings(self) -> list[str]:
        """What the user must hear with every command, such as a provider that was never backed up."""
        ...


class KeyClient:
    """keyd, asked over its socket. Starts it when it is not running, and again when it died in a call."""

    def __init__(
        self,
        *,
        start: bool = True,
        reach: Reach | None = None,
        operation: str = "",
    ) -> None:
        """Connects at the first call. `start=False`: a call raises NotListening when no keyd is running.

        `operation`: what the client is for, by which keyd decides what it may. `reach` is for who may not
        connect by himself, and has that said in his place.
        """
        self._paths: Final = paths.find()
        self._start = start
        self._reach: Reach = reach or (
            lambda start: starter.greet(self._paths, start=start, operation=operation)
        )
        self._lock = threading.Lock()
        self._idle: list[Link] = []
        self._shown = ShownRecords()

    @classmethod
    def connect(cls, reach: Reach | None = None, *, operation: str = "") -> KeyClient:
        """A client that has reached keyd, started if need be. Raises PeerError, DeniedError."""
        client = cls(reach=reach, operation=operation)
        client._give_back(client._connect(start=True))
        return client

    # KeyService

    def default_provider(self) -> str:
        return self._ask(messages.DefaultProvider(), messages.Text).value

    def new_key(self, provider: str | None = None, *, within: str | None = None) -> KeyRef:
        return self._ask(messages.NewKey(provider, within), messages.Made).key.ref

    def use_key(self, key: KeyRef) -> None:
        self._ask(messages.UseKey(messages.Key.of(key)), messages.Done)

    def generate(self, key: KeyRef, aads: Sequence[bytes]) -> list[tuple[Secret, bytes]]:
        made: list[tuple[Secret, bytes]] = []
        for start in range(0, len(aads), messages.MAX_BATCH):
            batch = tuple(aads[start : start + messages.MAX_BATCH])
            answer = self._ask(messages.Generate(messages.Key.of(key), batch), messages.Generated)
            _expect_length(answer.keys, batch)
            made += [(_take(item.key), item.blob) for item in answer.keys]
        return made

    def unwrap(self, items: Sequence[tuple[KeyRef, bytes, bytes]]) -> list[Secret | IofltError]:
        found: list[Secret | IofltError] = []
        for start in range(0, len(items), messages.MAX_BATCH):
            batch = tuple(
                messages.Wrapped(messages.Key.of(key), blob, aad)
                for key, blob, aad in items[start : start + messages.MAX_BATCH]
            )
            request = messages.Unwrap(batch)
            answer = self._ask(request, messages.Unwrapped)
            if self._show(answer.failures.values(), request):
                for spare in answer.keys:
                    wipe(spare)
                answer = self._ask(request, messages.Unwrapped)
            _expect_length(answer.keys, batch)
            failures = {index: failure.rebuild(told) for index, told in answer.failures.items()}
            found += [failures.get(index) or _take(key) for index, key in enumerate(answer.keys)]
        return found

    def rewrap(self, key_from: KeyRef, key_to: KeyRef, blob: bytes, aad_from: bytes, aad_to: bytes) -> bytes:
        source = messages.Wrapped(messages.Key.of(key_from), blob, aad_from)
        return self._ask(messages.Rewrap(source, messages.Key.of(key_to), aad_to), messages.Data).value

    def check_record(
        self, payload: bytes, tags: Sequence[bytes], by: Sequence[KeyRef], shown: str = ""
    ) -> list[bool | IofltError]:
        request = messages.CheckRecord(payload, tuple(tags), _keys(by), failure.shown(shown))
        answer = self._ask(request, messages.Checked)
        _expect_length(answer.results, by)
        if True in answer.results and False not in answer.results:
            self._shown.keep(request)
        return [failure.rebuild(one) if isinstance(one, Failure) else one for one in answer.results]

    def seal_record(
        self, by: Sequence[KeyRef], old: bytes | None, payload: bytes, shown: str = ""
    ) -> list[bytes]:
        request = messages.SealRecord(_keys(by), old, payload, failure.shown(shown))
        answer = self._ask(request, messages.Sealed)
        _expect_length(answer.tags, by)
        self._shown.keep(messages.CheckRecord(payload, answer.tags, request.by, request.shown))
        return list(answer.tags)

    def prove(self, items: Sequence[tuple[KeyRef, bytes, bytes, Digest]]) -> list[IofltError | None]:
        found: list[IofltError | None] = []
        for start in range(0, len(items), messages.MAX_BATCH):
            batch = tuple(
                messages.Proof(
                    messages.Wrapped(messages.Key.of(key), blob, aad),
                    digest.salt,
                    digest.rounds,
                    digest.value,
                )
                for key, blob, aad, digest in items[start : start + messages.MAX_BATCH]
            )
            request = messages.Prove(batch)
            told = self._ask(request, messages.Proved).failures
            if self._show(told.values(), request):
                told = self._ask(request, messages.Proved).failures
            found += [failure.rebuild(told[index]) if index in told else None for index in range(len(batch))]
        return found

    def prove_vmx(self, text: bytes, by: Sequence[KeyRef]) -> None:
        self._ask(messages.ProveVmx(text, _keys(by)), messages.Done)

    def seal_vmx(self, key: KeyRef, plaintext: bytes, file_id: int) -> bytes:
        request = messages.SealVmx(messages.Key.of(key), plaintext, file_id)
        return self._ask(request, messages.Data).value

    def rewrap_vmx(self, text: bytes, keys: Sequence[KeyRef]) -> bytes:
        request = messages.RewrapVmx(text, _keys(keys))
        return self._ask(request, messages.Data).value

    def config_key(self, text: bytes, key: KeyRef | None = None) -> Secret:
        head = text[: messages.MAX_VMX_HEAD]
        request = messages.GetConfigKey(head, None if key is None else messages.Key.of(key))
        return _take(self._ask(request, messages.ConfigKey).key)

    def key_states(self, keys: Sequence[KeyRef], *, ask: bool = True) -> list[KeyState]:
        found: list[KeyState] = []
        for start in range(0, len(keys), messages.MAX_BATCH):
            batch = _keys(keys[start : start + messages.MAX_BATCH])
            answer = self._ask(messages.GetKeyStates(batch, ask), messages.KeyStates)
            _expect_length(answer.states, batch)
            found += map(_state, answer.states)
        return found

    def cached_keys(self, after: KeyRef | None = None) -> Sequence[CachedKey]:
        request = messages.GetCachedKeys(None if after is None else messages.Key.of(after))
        return self._ask(request, messages.CachedKeys).keys

    def set_key_cache(self, provider: str, days: int | None) -> None:
        self._ask(messages.SetKeyCache(provider, days), messages.Done)

    def forget_key(self, key: KeyRef) -> None:
        self._ask(messages.ForgetKey(messages.Key.of(key)), messages.Done)

    def remove_key(self, key: KeyRef) -> None:
        self._ask(messages.RemoveKey(messages.Key.of(key)), messages.Done)

    def add_key(self, key: KeyRef) -> None:
        self._ask(messages.AddKey(messages.Key.of(key)), messages.Done)

    def erase_key(self, key: KeyRef, home_id: str) -> bool:
        return self._ask(messages.EraseKey(messages.Key.of(key), home_id), messages.Erased).destroyed

    def note_generation(self, keys: Sequence[KeyRef], home_id: str, generation: int) -> None:
        request = messages.NoteGeneration(_keys(keys), home_id, generation)
        self._ask(request, messages.Done)

    def seen_generation(self, keys: Sequence[KeyRef], home_id: str) -> tuple[int, bool]:
        request = messages.SeenGeneration(_keys(keys), home_id)
        answer = self._ask(request, messages.Generation)
        return answer.value, answer.sure

    def policies(self) -> bytes:
        return self._ask(messages.GetPolicies(), messages.Data).value

    def add_policy(self, text: bytes) -> None:
        self._ask(messages.AddPolicy(text), messages.Done)

    def remove_policy(self, name: str) -> None:
        self._ask(messages.RemovePolicy(name), messages.Done)

    def key_holders(self) -> Sequence[str]:
        return self._ask(messages.GetKeyHolders(), messages.KeyHolders).home_ids

    def mark_key_holder(self, home_id: str, *, holds: bool) -> None:
        self._ask(messages.MarkKeyHolder(home_id, holds), messages.Done)

    def status(self) -> messages.Status:
        return self._ask(messages.GetStatus(), messages.Status)

    def lock(self, mode: LockMode) -> messages.Locked:
        return self._ask(messages.Lock(mode), messages.Locked)

    def unlock(self, provider: str | None = None, passphrase: Secret | None = None) -> None:
        sent = None if passphrase is None else bytearray(passphrase.view())
        try:
            self._ask(messages.Unlock(provider, sent), messages.Done)
        finally:
            if sent is not None:
                wipe(sent)

    def reload(self) -> None:
        self._ask(messages.Reload(), messages.Done)

    def warnings(self) -> list[str]:
        return list(self._ask(messages.GetWarnings(), messages.Warnings).lines)

    # Its own

    def access(self) -> AccessState:
        """What the user may see of who may do what. Raises DeniedError, CorruptDataError."""
        return text.parse(self._ask(messages.GetAccess(), messages.Access).text)

    def change_access(self, change: Change) -> None:
        """Another permission, role, folder or service. Raises DeniedError, and why it makes no sense."""
        self._ask(messages.ChangeAccess(change), messages.Done)

    def explain_access(self, who: str, privilege: str, on: Object) -> messages.Explained:
        """Whether someone has a privilege on an object, and why. Raises DeniedError, UsageError."""
        return self._ask(messages.ExplainAccess(who, privilege, on), messages.Explained)

    def locate_keys(self, provider: str, criteria: Sequence[messages.Criterion]) -> Sequence[str]:
        """Ids of keys on the servers of a provider. Raises UsageError for no value of an attribute."""
        return self._ask(messages.LocateKeys(provider, tuple(criteria)), messages.Located).ids

    def revoke_key(self, key: KeyRef, reason: messages.Revocation) -> None:
        """End the key's use for new data, on its servers."""
        self._ask(messages.RevokeKey(messages.Key.of(key), reason), messages.Done)

    def destroy_key(self, key: KeyRef) -> None:
        """Destroy the key on its servers. Raises KeyNotUsable when they refuse, as they do an active one."""
        self._ask(messages.DestroyKey(messages.Key.of(key)), messages.Done)

    def about_provider(self, name: str) -> providers.About:
        """What may be known of a provider. Raises NotFoundError, DeniedError."""
        return self._ask(messages.GetProvider(name), messages.Provider).about

    def provider_default(self) -> tuple[str | IofltError, str | None]:
        """The provider of new keys, or why that is not clear, and the one that was chosen."""
        answer = self._ask(messages.GetProviderDefault(), messages.ProviderDefault)
        name = failure.rebuild(answer.name) if isinstance(answer.name, Failure) else answer.name
        return name, answer.chosen

    def provider_use(self, name: str) -> InUse:
        """Who needs a provider, as far as keyd knows. Raises DeniedError."""
        answer = self._ask(messages.GetProviderUse(name), messages.ProviderUse)
        return InUse(answer.named, answer.datastores)

    def look_at_servers(self, name: str) -> Sequence[providers.Shown]:
        """What the key servers of a provider show now. Raises DeniedError, ProviderUnavailable."""
        return self._ask(messages.LookAtServers(name), messages.ServersShown).shown

    def try_provider(self, name: str) -> Sequence[providers.Step]:
        """Each step of a provider's trial on its servers. Raises DeniedError, ProviderUnavailable."""
        return self._ask(messages.TryProvider(name), messages.Tried).steps

    def back_up_provider(self, asked: providers.BackUp) -> bytes:
        """The key of a native provider under a passphrase. Raises DeniedError, KeyUnavailableError."""
        return self._ask(messages.BackUpProvider(asked), messages.Data).value

    def change_provider(self, change: providers.Change) -> str:
        """The text that comes of it, empty where none does. Raises DeniedError, BusyError, and why not."""
        return self._ask(messages.ChangeProvider(change), messages.ProviderChanged).text

    def stop(self) -> None:
        """End keyd, and return when its process is gone. Raises NotListening when it is not running,
        DeniedError.
        """
        with self._connect(start=False) as link, link.process() as process:
            answer = link.call(messages.Stop())
            if isinstance(answer, Failure):
                raise failure.rebuild(answer)
            unix.wait_free(self._paths.keyd_socket)
            if not select.select([process], [], [], END_TIMEOUT_S)[0]:
                raise PeerError("keyd no longer listens, but its process does not end")

    def set_event_log(
        self, required: bool | None = None, sink: messages.EventSink | None = None
    ) -> messages.EventLogSettings:
        """Change what is not None; what the settings of the event log are then."""
        return self._ask(messages.SetEventLog(required, sink), messages.EventLogSettings)

    def note_events(self, events: Sequence[messages.Report]) -> messages.EventLogSettings:
        """Have events logged that keyd cannot see, at most `MAX_REPORTS`. Returns whether they have to be.

        When it fails, some may be there all the same. Raises BusyError when there were too many of late,
        StorageError when they have to be logged and cannot.
        """
        return self._ask(messages.NoteEvents(tuple(events)), messages.EventLogSettings)

    def event_files(self) -> Iterator[LogFile]:
        """The event log, file by file, as it is when the first one is asked for. Raises DeniedError."""
        number, files = 0, 1
        while number < files:
            data = bytearray()
            while (page := self._ask(messages.ReadEvents(number, len(data)), messages.EventPage)).data:
                data += page.data
            if number == 0:
                files = page.files
            if page.name:
                yield LogFile(page.name, bytes(data))
            number += 1

    def next_events(self, file: int, offset: int) -> Page:
        """For `audit.reader.follow`: waits a while for a line where there is none yet. Raises DeniedError."""
        page = self._ask(messages.ReadEvents(file, offset, wait=True), messages.EventPage)
        return Page(page.name, page.data, page.files)

    def attest(self, report: bytes) -> tuple[bytes, bytes]:
        """keyd's statement about the report of that SHA-256, and its signature. Raises DeniedError."""
        answer = self._ask(messages.Attest(report), messages.Attested)
        return answer.statement, answer.signature

    def attest_key(self) -> str:
        """The public key that verifies these signatures, in PEM. Raises DeniedError."""
        return self._ask(messages.GetAttestKey(), messages.Text).value

    def close(self) -> None:
        """Close idle connections. The client stays usable."""
        with self._lock:
            idle, self._idle = self._idle, []
        for link in idle:
            link.close()

    def __enter__(self) -> KeyClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: messages.RequestBody, kind: type[Answer]) -> Answer:
        answer = self._call(request)
        if isinstance(answer, Failure) and self._show([answer], request):
            answer = self._call(request)
        if isinstance(answer, Failure):
            raise failure.rebuild(answer)
        if not isinstance(answer, kind):
            raise PeerError(f"keyd answered a {type(request).__name__} with a {type(answer).__name__}")
        return answer

    def _show(self, failures: Iterable[Failure], request: messages.RequestBody) -> bool:
        """Show a keyd that started since what it has not seen; whether that may change its answer."""
        if not any(failure.error == UnshownError.__name__ for failure in failures):
            return False
        answers = [self._call(record) for record in self._shown.about(request)]
        return any(isinstance(answer, messages.Checked) for answer in answers)

    def _call(self, request: messages.RequestBody) -> messages.ReplyBody:
        for tries_left in reversed(range(TRIES)):
            link = self._take_link()
            try:
                answer = link.call(request)
            except ConnectionLost:
                # keyd died, now or since the last call: nothing is lost by asking a new one.
                link.close()
                self.close()
                if not tries_left:
                    raise
            except BaseException:  # half an answer may be left on it
                link.close()
                raise
            else:
                self._give_back(link)
                return answer
        raise BugError("no try was left, and none was made")

    def _take_link(self) -> Link:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self._connect(start=self._start)

    def _give_back(self, link: Link) -> None:
        with self._lock:
            if len(self._idle) < MAX_IDLE:
                self._idle.append(link)
                return
        link.close()

    def _connect(self, *, start: bool) -> Link:
        try:
            return self._reach(False)
        except (NotListening, ConnectionLost):  # it is not there, or is just going
            if not start:
                raise
        for tries_left in reversed(range(TRIES)):
            try:
                return self._reach(True)
            except (NotListening, ConnectionLost):  # it was killed while it started
                if not tries_left:
                    raise
        raise BugError("no try was left, and none was made")


def _keys(refs: Sequence[KeyRef]) -> tuple[messages.Key, ...]:
    return tuple(map(messages.Key.of, refs))


def _state(told: messages.KeyState) -> KeyState:
    return KeyState(told.source, told.fetched, told.expires, told.sealed, _missing(told.missing), told.since)


def _missing(told: Failure | None) -> KeyUnavailableError | None:
    error = None if told is None else failure.rebuild(told)
    return (
        error if error is None or isinstance(error, KeyUnavailableError) else ProviderUnavailable(str(error))
    )


def _take(key: bytearray) -> Secret:
    secret = Secret(key)
    wipe(key)
    return secret


def _expect_length(answer: Sequence[object], request: Sequence[object]) -> None:
    if len(answer) != len(request):
        raise PeerError(f"keyd answered {len(answer)} keys to {len(request)}")
