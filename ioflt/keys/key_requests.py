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
from ioflt.wire.keyd import replies, requests, values
from ioflt.wire.keyd.replies import CachedKey
from ioflt.wire.keyd.values import LockMode


class KeyRequests(Asker):
    """A `keys.service.KeyService`."""

    def default_provider(self) -> str:
        return self._ask(requests.DefaultProvider(), replies.Text).value

    def new_key(self, provider: str | None = None, *, within: str | None = None) -> KeyRef:
        return self._ask(requests.NewKey(provider, within), replies.Made).key.ref

    def use_key(self, key: KeyRef) -> None:
        self._ask(requests.UseKey(values.Key.of(key)), replies.Done)

    def generate(self, key: KeyRef, aads: Sequence[bytes]) -> list[tuple[Secret, bytes]]:
        made: list[tuple[Secret, bytes]] = []
        for start in range(0, len(aads), values.MAX_BATCH):
            batch = tuple(aads[start : start + values.MAX_BATCH])
            answer = self._ask(requests.Generate(values.Key.of(key), batch), replies.Generated)
            _expect_length(answer.keys, batch)
            made += [(_take(item.key), item.blob) for item in answer.keys]
        return made

    def unwrap(self, items: Sequence[tuple[KeyRef, bytes, bytes]]) -> list[Secret | IofltError]:
        found: list[Secret | IofltError] = []
        for start in range(0, len(items), values.MAX_BATCH):
            batch = tuple(
                values.Wrapped(values.Key.of(key), blob, aad)
                for key, blob, aad in items[start : start + values.MAX_BATCH]
            )
            request = requests.Unwrap(batch)
            answer = self._ask(request, replies.Unwrapped)
            shown = self._show(answer.failures.values(), request)
            if shown.helps:
                for spare in answer.keys:
                    wipe(spare)
                answer = self._ask(request, replies.Unwrapped)
            _expect_length(answer.keys, batch)
            failures = {index: failure.rebuild(shown.reason(told)) for index, told in answer.failures.items()}
            found += [failures.get(index) or _take(key) for index, key in enumerate(answer.keys)]
        return found

    def rewrap(self, key_from: KeyRef, key_to: KeyRef, blob: bytes, aad_from: bytes, aad_to: bytes) -> bytes:
        source = values.Wrapped(values.Key.of(key_from), blob, aad_from)
        return self._ask(requests.Rewrap(source, values.Key.of(key_to), aad_to), replies.Data).value

    def check_record(
        self, payload: bytes, tags: Sequence[bytes], by: Sequence[KeyRef], shown: str = ""
    ) -> list[bool | IofltError]:
        request = requests.CheckRecord(payload, tuple(tags), _keys(by), failure.shown(shown))
        answer = self._ask(request, replies.Checked)
        _expect_length(answer.results, by)
        if True in answer.results and False not in answer.results:
            self._shown.keep(request)
        return [failure.rebuild(one) if isinstance(one, Failure) else one for one in answer.results]

    def seal_record(
        self, by: Sequence[KeyRef], old: bytes | None, payload: bytes, shown: str = ""
    ) -> list[bytes]:
        request = requests.SealRecord(_keys(by), old, payload, failure.shown(shown))
        answer = self._ask(request, replies.Sealed)
        _expect_length(answer.tags, by)
        self._shown.keep(requests.CheckRecord(payload, answer.tags, request.by, request.shown))
        return list(answer.tags)

    def prove(self, items: Sequence[tuple[KeyRef, bytes, bytes, Digest]]) -> list[IofltError | None]:
        found: list[IofltError | None] = []
        for start in range(0, len(items), values.MAX_BATCH):
            batch = tuple(
                requests.Proof(
                    values.Wrapped(values.Key.of(key), blob, aad),
                    digest.salt,
                    digest.rounds,
                    digest.value,
                )
                for key, blob, aad, digest in items[start : start + values.MAX_BATCH]
            )
            request = requests.Prove(batch)
            told = self._ask(request, replies.Proved).failures
            shown = self._show(told.values(), request)
            if shown.helps:
                told = self._ask(request, replies.Proved).failures
            found += [
                failure.rebuild(shown.reason(told[index])) if index in told else None
                for index in range(len(batch))
            ]
        return found

    def prove_vmx(self, text: bytes, by: Sequence[KeyRef]) -> None:
        self._ask(requests.ProveVmx(text, _keys(by)), replies.Done)

    def seal_vmx(self, key: KeyRef, plaintext: bytes, file_id: int) -> bytes:
        request = requests.SealVmx(values.Key.of(key), plaintext, file_id)
        return self._ask(request, replies.Data).value

    def rewrap_vmx(self, text: bytes, keys: Sequence[KeyRef]) -> bytes:
        request = requests.RewrapVmx(text, _keys(keys))
        return self._ask(request, replies.Data).value

    def config_key(self, text: bytes, key: KeyRef | None = None) -> Secret:
        head = text[: values.MAX_VMX_HEAD]
        request = requests.GetConfigKey(head, None if key is None else values.Key.of(key))
        return _take(self._ask(request, replies.ConfigKey).key)

    def key_states(self, keys: Sequence[KeyRef], *, ask: bool = True) -> list[KeyState]:
        found: list[KeyState] = []
        for start in range(0, len(keys), values.MAX_BATCH):
            batch = _keys(keys[start : start + values.MAX_BATCH])
            answer = self._ask(requests.GetKeyStates(batch, ask), replies.KeyStates)
            _expect_length(answer.states, batch)
            found += map(_state, answer.states)
        return found

    def cached_keys(self, after: KeyRef | None = None) -> Sequence[CachedKey]:
        request = requests.GetCachedKeys(None if after is None else values.Key.of(after))
        return self._ask(request, replies.CachedKeys).keys

    def set_key_cache(self, provider: str, days: int | None) -> None:
        self._ask(requests.SetKeyCache(provider, days), replies.Done)

    def forget_key(self, key: KeyRef) -> None:
        self._ask(requests.ForgetKey(values.Key.of(key)), replies.Done)

    def remove_key(self, key: KeyRef) -> None:
        self._ask(requests.RemoveKey(values.Key.of(key)), replies.Done)

    def add_key(self, key: KeyRef) -> None:
        self._ask(requests.AddKey(values.Key.of(key)), replies.Done)

    def erase_key(self, key: KeyRef, home_id: str) -> bool:
        return self._ask(requests.EraseKey(values.Key.of(key), home_id), replies.Erased).destroyed

    def note_generation(self, keys: Sequence[KeyRef], home_id: str, generation: int) -> None:
        request = requests.NoteGeneration(_keys(keys), home_id, generation)
        self._ask(request, replies.Done)

    def seen_generation(self, keys: Sequence[KeyRef], home_id: str) -> tuple[int, bool]:
        request = requests.SeenGeneration(_keys(keys), home_id)
        answer = self._ask(request, replies.Generation)
        return answer.value, answer.sure

    def policies(self) -> bytes:
        return self._ask(requests.GetPolicies(), replies.Data).value

    def add_policy(self, text: bytes) -> None:
        self._ask(requests.AddPolicy(text), replies.Done)

    def remove_policy(self, name: str) -> None:
        self._ask(requests.RemovePolicy(name), replies.Done)

    def key_holders(self) -> Sequence[str]:
        return self._ask(requests.GetKeyHolders(), replies.KeyHolders).home_ids

    def mark_key_holder(self, home_id: str, *, holds: bool) -> None:
        self._ask(requests.MarkKeyHolder(home_id, holds), replies.Done)

    def status(self) -> replies.Status:
        return self._ask(requests.GetStatus(), replies.Status)

    def lock(self, mode: LockMode) -> replies.Locked:
        return self._ask(requests.Lock(mode), replies.Locked)

    def unlock(self, provider: str | None = None, passphrase: Secret | None = None) -> None:
        sent = None if passphrase is None else bytearray(passphrase.view())
        try:
            self._ask(requests.Unlock(provider, sent), replies.Done)
        finally:
            if sent is not None:
                wipe(sent)

    def reload(self) -> None:
        self._ask(requests.Reload(), replies.Done)

    def warnings(self) -> list[str]:
        return list(self._ask(requests.GetWarnings(), replies.Warnings).lines)


def _keys(refs: Sequence[KeyRef]) -> tuple[values.Key, ...]:
    return tuple(map(values.Key.of, refs))


def _state(told: replies.KeyState) -> KeyState:
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
