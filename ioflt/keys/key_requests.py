"""The requests to keyd about keys, and about keyd itself."""

from __future__ import annotations

from collections.abc import Sequence

from ioflt.crypto.secret import Secret
from ioflt.errors import IofltError, KeyUnavailableError, PeerError, ProviderUnavailable
from ioflt.format.luks2.profile import Digest
from ioflt.keys.asking import Asker
from ioflt.keys.state import KeyState
from ioflt.types import KeyRef
from ioflt.wire import failure
from ioflt.wire.failure import Failure
from ioflt.wire.frame import wipe
from ioflt.wire.keyd import messages
from ioflt.wire.keyd.messages import CachedKey, LockMode


class KeyRequests(Asker):
    """A `keys.service.KeyService`."""

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
