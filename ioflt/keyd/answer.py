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
from ioflt.wire.keyd import providers, replies, requests, values

_log = logging.getLogger(__name__)


def answer(service: Guarded, request: requests.KeyRequest) -> replies.ReplyBody:
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


def wipe_keys(reply: replies.ReplyBody) -> None:
    """Zero the keys in a reply."""
    match reply:
        case replies.Generated(keys):
            for item in keys:
                wipe(item.key)
        case replies.Unwrapped(keys):
            for key in keys:
                wipe(key)
        case replies.ConfigKey(key):
            wipe(key)


def _answer(service: Guarded, request: requests.KeyRequest) -> replies.ReplyBody:
    match request:
        case requests.DefaultProvider():
            return replies.Text(service.default_provider())
        case requests.NewKey(provider, within):
            return replies.Made(values.Key.of(service.new_key(provider, within=within)))
        case requests.UseKey(key):
            service.use_key(key.ref)
            return replies.Done()
        case requests.Generate(key, aads):
            made = service.generate(key.ref, aads)
            return replies.Generated(tuple(replies.GeneratedKey(_give(dek), blob) for dek, blob in made))
        case requests.Unwrap(items):
            return _unwrapped(service.unwrap([(item.key.ref, item.blob, item.aad) for item in items]))
        case requests.Rewrap(source, key, aad):
            return replies.Data(service.rewrap(source.key.ref, key.ref, source.blob, source.aad, aad))
        case requests.CheckRecord(payload, tags, by, shown):
            results = service.check_record(payload, tags, [key.ref for key in by], shown)
            return replies.Checked(tuple(map(_result, results)))
        case requests.SealRecord(by, old, payload, shown):
            sealed = service.seal_record([key.ref for key in by], old, payload, shown)
            return replies.Sealed(tuple(sealed))
        case requests.Prove(items):
            return _proved(service.prove([_proof(item) for item in items]))
        case requests.ProveVmx(text, by):
            service.prove_vmx(text, [key.ref for key in by])
            return replies.Done()
        case requests.SealVmx(key, plaintext, file_id):
            return replies.Data(service.seal_vmx(key.ref, plaintext, file_id))
        case requests.RewrapVmx(text, keys):
            return replies.Data(service.rewrap_vmx(text, [key.ref for key in keys]))
        case requests.GetConfigKey(head, by_key):
            return replies.ConfigKey(_give(service.config_key(head, None if by_key is None else by_key.ref)))
        case requests.GetKeyStates(keys, ask):
            states = service.key_states([key.ref for key in keys], ask=ask)
            return replies.KeyStates(tuple(map(_told, states)))
        case requests.ForgetKey(key):
            service.forget_key(key.ref)
            return replies.Done()
        case requests.RemoveKey(key):
            service.remove_key(key.ref)
            return replies.Done()
        case requests.AddKey(key):
            service.add_key(key.ref)
            return replies.Done()
        case requests.LocateKeys(provider, criteria):
            return replies.Located(tuple(service.locate_keys(provider, criteria)))
        case requests.RevokeKey(key, reason):
            service.revoke_key(key.ref, reason)
            return replies.Done()
        case requests.DestroyKey(key):
            service.destroy_key(key.ref)
            return replies.Done()
        case requests.EraseKey(key, home_id):
            return replies.Erased(service.erase_key(key.ref, home_id))
        case requests.NoteGeneration(keys, home_id, generation):
            service.note_generation([key.ref for key in keys], home_id, generation)
            return replies.Done()
        case requests.SeenGeneration(keys, home_id):
            return replies.Generation(*service.seen_generation([key.ref for key in keys], home_id))
        case requests.GetStatus():
            return service.status()
        case requests.GetCachedKeys(after):
            return replies.CachedKeys(tuple(service.cached_keys(None if after is None else after.ref)))
        case requests.SetKeyCache(provider, days):
            service.set_key_cache(provider, days)
            return replies.Done()
        case requests.GetPolicies():
            return replies.Data(service.policies())
        case requests.AddPolicy(text):
            service.add_policy(text)
            return replies.Done()
        case requests.RemovePolicy(name):
            service.remove_policy(name)
            return replies.Done()
        case requests.GetKeyHolders():
            return replies.KeyHolders(tuple(service.key_holders()))
        case requests.MarkKeyHolder(home_id, holds):
            service.mark_key_holder(home_id, holds=holds)
            return replies.Done()
        case requests.SetEventLog(required, sink):
            return service.set_event_log(required, sink)
        case requests.NoteEvents(reports):
            return service.note_events(reports)
        case requests.ReadEvents(file, offset, wait, folder):
            page = service.event_page(file, offset, wait=wait, folder=folder)
            return replies.EventPage(page.name, page.data, page.files)
        case requests.Attest(report):
            return replies.Attested(*service.attest(report))
        case requests.SignManifest(manifest, about):
            return replies.ManifestSigned(*service.vouching.sign(manifest, about))
        case requests.MaySign(about):
            service.vouching.check(about)
            return replies.Done()
        case requests.GetManifestKey():
            return replies.Text(service.manifest_key())
        case requests.GetAttestKey():
            return replies.Text(service.attest_key())
        case requests.BeginExport():
            return replies.ExportBegun(service.exporting.begin(request))
        case requests.EndExport():
            service.exporting.end(request)
            return replies.Done()
        case requests.GetExports(after):
            return replies.Exports(tuple(service.exporting.seen(after)))
        case requests.WatchVm():
            service.watching.begin(request)
            return replies.Done()
        case requests.TakeVmWritten():
            written = service.watching.take()
            return replies.VmWritten(written.areas, written.more)
        case requests.HoldVm(limit):
            service.watching.hold(limit)
            return replies.Done()
        case requests.ResumeVm():
            service.watching.resume()
            return replies.Done()
        case requests.GetWarnings():
            return replies.Warnings(tuple(service.warnings()))
        case requests.Lock(mode):
            return service.lock(mode)
        case requests.Unlock(provider, passphrase):
            _unlock(service, provider, passphrase)
            return replies.Done()
        case requests.Reload():
            service.reload()
            return replies.Done()
        case requests.GetProvider(name):
            return replies.Provider(service.about_provider(name))
        case requests.GetProviderDefault():
            default, chosen = service.provider_default()
            told = failure.of(default) if isinstance(default, IofltError) else default
            return replies.ProviderDefault(told, chosen)
        case requests.GetProviderUse(name):
            named, datastores = (tuple(map(failure.shown, each)) for each in service.provider_use(name))
            return replies.ProviderUse(named[: values.MAX_BATCH], datastores[: values.MAX_BATCH])
        case requests.LookAtServers(name):
            certificates = service.look_at_servers(name).items()
            return replies.ServersShown(
                tuple(providers.Shown(providers.Server(at.host, at.port), der) for at, der in certificates)
            )
        case requests.TryProvider(name):
            return replies.Tried(tuple(map(_step, service.try_provider(name))))
        case requests.BackUpProvider(asked):
            return replies.Data(service.back_up_provider(asked))
        case requests.ChangeProvider(change):
            return replies.ProviderChanged(service.change_provider(change))
        case requests.Stop():
            service.stop()
            return replies.Done()
    assert_never(request)


def _proof(item: requests.Proof) -> tuple[KeyRef, bytes, bytes, Digest]:
    wrapped = item.wrapped
    return wrapped.key.ref, wrapped.blob, wrapped.aad, Digest(item.salt, item.rounds, item.value)


def _proved(results: list[IofltError | None]) -> replies.Proved:
    return replies.Proved({index: failure.of(one) for index, one in enumerate(results) if one is not None})


def _result(result: bool | IofltError) -> bool | failure.Failure:
    return failure.of(result) if isinstance(result, IofltError) else result


def _step(step: Step) -> providers.Step:
    return providers.Step(*map(failure.shown, (step.server, step.step, step.result, step.error)))


def _told(state: KeyState) -> replies.KeyState:
    return replies.KeyState(
        state.source,
        state.fetched,
        state.expires,
        state.sealed,
        None if state.missing is None else failure.of(state.missing),
        state.since,
    )


def _unwrapped(found: list[Secret | IofltError]) -> replies.Unwrapped:
    keys = tuple(_give(item) if isinstance(item, Secret) else bytearray() for item in found)
    failures = {index: failure.of(item) for index, item in enumerate(found) if not isinstance(item, Secret)}
    return replies.Unwrapped(keys, failures)


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
