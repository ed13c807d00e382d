"""Request → reply: the messages of `wire.keyd` over what a connection may have of the `Service`."""

from __future__ import annotations

import logging
from typing import assert_never

from ioflt.crypto.secret import Secret
from ioflt.errors import DeniedError, IofltError, PeerError
from ioflt.format.luks2.profile import Digest
from ioflt.keyd.guarded import Guarded
from ioflt.keyd.outward import GoesOut
from ioflt.keys.state import KeyState
from ioflt.keys.trial import Step
from ioflt.types import KeyRef
from ioflt.wire import failure
from ioflt.wire.frame import wipe
from ioflt.wire.keyd import messages, providers

_log = logging.getLogger(__name__)


def answer(service: Guarded, request: messages.KeyRequest) -> messages.ReplyBody:
    """The reply to a request; a Failure for every error. The caller wipes the reply once it is sent.

    Raises GoesOut, and is then to be called again where that provider may be waited for.
    """
    try:
        return _answer(service, request)
    except GoesOut:
        raise
    except IofltError as error:
        if isinstance(error, DeniedError):
            service.tell_denial(error)
        return failure.of(error)
    except Exception as error:  # one bad request never ends the daemon
        _log.exception("a bug, met by a %s", type(request).__name__)
        return failure.of(PeerError(f"keyd failed: {type(error).__name__}; its log says more"))


def wipe_keys(reply: messages.ReplyBody) -> None:
    """Zero the keys in a reply."""
    match reply:
        case messages.Generated(keys):
            for item in keys:
                wipe(item.key)
        case messages.Unwrapped(keys):
            for key in keys:
                wipe(key)
        case messages.ConfigKey(key):
            wipe(key)


def _answer(service: Guarded, request: messages.KeyRequest) -> messages.ReplyBody:
    match request:
        case messages.DefaultProvider():
            return messages.Text(service.default_provider())
        case messages.NewKey(provider, within):
            return messages.Made(messages.Key.of(service.new_key(provider, within=within)))
        case messages.UseKey(key):
            service.use_key(key.ref)
            return messages.Done()
        case messages.Generate(key, aads):
            made = service.generate(key.ref, aads)
            return messages.Generated(tuple(messages.GeneratedKey(_give(dek), blob) for dek, blob in made))
        case messages.Unwrap(items):
            return _unwrapped(service.unwrap([(item.key.ref, item.blob, item.aad) for item in items]))
        case messages.Rewrap(source, key, aad):
            return messages.Data(service.rewrap(source.key.ref, key.ref, source.blob, source.aad, aad))
        case messages.CheckRecord(payload, tags, by, shown):
            results = service.check_record(payload, tags, [key.ref for key in by], shown)
            return messages.Checked(tuple(map(_result, results)))
        case messages.SealRecord(by, old, payload, shown):
            sealed = service.seal_record([key.ref for key in by], old, payload, shown)
            return messages.Sealed(tuple(sealed))
        case messages.Prove(items):
            return _proved(service.prove([_proof(item) for item in items]))
        case messages.ProveVmx(text, by):
            service.prove_vmx(text, [key.ref for key in by])
            return messages.Done()
        case messages.SealVmx(key, plaintext, file_id):
            return messages.Data(service.seal_vmx(key.ref, plaintext, file_id))
        case messages.RewrapVmx(text, keys):
            return messages.Data(service.rewrap_vmx(text, [key.ref for key in keys]))
        case messages.GetConfigKey(head, by_key):
            return messages.ConfigKey(_give(service.config_key(head, None if by_key is None else by_key.ref)))
        case messages.GetKeyStates(keys, ask):
            states = service.key_states([key.ref for key in keys], ask=ask)
            return messages.KeyStates(tuple(map(_told, states)))
        case messages.ForgetKey(key):
            service.forget_key(key.ref)
            return messages.Done()
        case messages.RemoveKey(key):
            service.remove_key(key.ref)
            return messages.Done()
        case messages.AddKey(key):
            service.add_key(key.ref)
            return messages.Done()
        case messages.LocateKeys(provider, criteria):
            return messages.Located(tuple(service.locate_keys(provider, criteria)))
        case messages.RevokeKey(key, reason):
            service.revoke_key(key.ref, reason)
            return messages.Done()
        case messages.DestroyKey(key):
            service.destroy_key(key.ref)
            return messages.Done()
        case messages.EraseKey(key, home_id):
            return messages.Erased(service.erase_key(key.ref, home_id))
        case messages.NoteGeneration(keys, home_id, generation):
            service.note_generation([key.ref for key in keys], home_id, generation)
            return messages.Done()
        case messages.SeenGeneration(keys, home_id):
            return messages.Generation(*service.seen_generation([key.ref for key in keys], home_id))
        case messages.GetStatus():
            return service.status()
        case messages.GetCachedKeys(after):
            return messages.CachedKeys(tuple(service.cached_keys(None if after is None else after.ref)))
        case messages.SetKeyCache(provider, days):
            service.set_key_cache(provider, days)
            return messages.Done()
        case messages.GetPolicies():
            return messages.Data(service.policies())
        case messages.AddPolicy(text):
            service.add_policy(text)
            return messages.Done()
        case messages.RemovePolicy(name):
            service.remove_policy(name)
            return messages.Done()
        case messages.GetKeyHolders():
            return messages.KeyHolders(tuple(service.key_holders()))
        case messages.MarkKeyHolder(home_id, holds):
            service.mark_key_holder(home_id, holds=holds)
            return messages.Done()
        case messages.SetEventLog(required, sink):
            return service.set_event_log(required, sink)
        case messages.NoteEvents(reports):
            return service.note_events(reports)
        case messages.ReadEvents(file, offset, wait, folder):
            page = service.event_page(file, offset, wait=wait, folder=folder)
            return messages.EventPage(page.name, page.data, page.files)
        case messages.Attest(report):
            return messages.Attested(*service.attest(report))
        case messages.GetAttestKey():
            return messages.Text(service.attest_key())
        case messages.GetWarnings():
            return messages.Warnings(tuple(service.warnings()))
        case messages.Lock(mode):
            return service.lock(mode)
        case messages.Unlock(provider, passphrase):
            _unlock(service, provider, passphrase)
            return messages.Done()
        case messages.Reload():
            service.reload()
            return messages.Done()
        case messages.GetProvider(name):
            return messages.Provider(service.about_provider(name))
        case messages.GetProviderDefault():
            default, chosen = service.provider_default()
            told = failure.of(default) if isinstance(default, IofltError) else default
            return messages.ProviderDefault(told, chosen)
        case messages.GetProviderUse(name):
            named, datastores = (tuple(map(failure.shown, each)) for each in service.provider_use(name))
            return messages.ProviderUse(named[: messages.MAX_BATCH], datastores[: messages.MAX_BATCH])
        case messages.LookAtServers(name):
            certificates = service.look_at_servers(name).items()
            return messages.ServersShown(
                tuple(providers.Shown(providers.Server(at.host, at.port), der) for at, der in certificates)
            )
        case messages.TryProvider(name):
            return messages.Tried(tuple(map(_step, service.try_provider(name))))
        case messages.BackUpProvider(asked):
            return messages.Data(service.back_up_provider(asked))
        case messages.ChangeProvider(change):
            return messages.ProviderChanged(service.change_provider(change))
        case messages.Stop():
            service.stop()
            return messages.Done()
    assert_never(request)


def _proof(item: messages.Proof) -> tuple[KeyRef, bytes, bytes, Digest]:
    wrapped = item.wrapped
    return wrapped.key.ref, wrapped.blob, wrapped.aad, Digest(item.salt, item.rounds, item.value)


def _proved(results: list[IofltError | None]) -> messages.Proved:
    return messages.Proved({index: failure.of(one) for index, one in enumerate(results) if one is not None})


def _result(result: bool | IofltError) -> bool | failure.Failure:
    return failure.of(result) if isinstance(result, IofltError) else result


def _step(step: Step) -> providers.Step:
    return providers.Step(*map(failure.shown, (step.server, step.step, step.result, step.error)))


def _told(state: KeyState) -> messages.KeyState:
    return messages.KeyState(
        state.source,
        state.fetched,
        state.expires,
        state.sealed,
        None if state.missing is None else failure.of(state.missing),
        state.since,
    )


def _unwrapped(found: list[Secret | IofltError]) -> messages.Unwrapped:
    keys = tuple(_give(item) if isinstance(item, Secret) else bytearray() for item in found)
    failures = {index: failure.of(item) for index, item in enumerate(found) if not isinstance(item, Secret)}
    return messages.Unwrapped(keys, failures)


def _unlock(service: Guarded, provider: str | None, passphrase: bytearray | None) -> None:
    if passphrase is None:
        service.unlock(provider)
        return
    with Secret(passphrase) as secret:
        wipe(passphrase)
        service.unlock(provider, secret)


def _give(secret: Secret) -> bytearray:
    with secret:
        return bytearray(secret.view())
