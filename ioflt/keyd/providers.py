"""Key providers as keyd changes them, for who has the privileges and may not write their files.

Nobody gets back what opens a provider. What a provider has keyd load, run or read on this host only its files
say, which are root's: no request can name a program, a library or a file.

Threads: changes follow one another, so that each is told in the event log as what it was a change of.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context
from typing import Final, assert_never

from ioflt.access.privileges import Privilege
from ioflt.audit.event import Change, Event, Value, added, deleted, modified
from ioflt.crypto import certificates
from ioflt.crypto.secret import Secret
from ioflt.errors import BusyError, DeniedError, ExistsError, IofltError, UsageError
from ioflt.keyd.provider_watch import ProviderWatch
from ioflt.keyd.recorder import Recorder, event, provider_thing
from ioflt.keys import provider_facts
from ioflt.keys.directory import LOCAL
from ioflt.keys.kmip import trial
from ioflt.keys.kmip.file import KmipServer
from ioflt.keys.kmip.look import look
from ioflt.keys.kmip.store import KmipStore
from ioflt.keys.native import slot_admin
from ioflt.keys.native.store import NativeStore
from ioflt.keys.transit.file import CertificateLogin, Login, TokenLogin
from ioflt.keys.transit.store import TransitStore
from ioflt.keys.trial import Step
from ioflt.transport.tls import fingerprint
from ioflt.wire.frame import wipe
from ioflt.wire.keyd import providers as wire

#: Most providers, and so most of the disk that who may make them takes.
MAX_PROVIDERS: Final = 128

_P = Privilege


def privilege(change: wire.Change) -> Privilege:
    """What a change asks for, on everything."""
    return _P.MANAGE_KEYS if isinstance(change, wire.MarkBackedUp) else _P.MANAGE_KEY_SERVERS


class ProviderChanges:
    """Over the directory of a keyd. `read_again`: what keyd does once files are others."""

    def __init__(
        self, store: NativeStore, recorder: Recorder, watch: ProviderWatch, read_again: Callable[[], None]
    ) -> None:
        self._native = store
        self._kmip = KmipStore(store.directory)
        self._transit = TransitStore(store.directory)
        self._recorder = recorder
        self._watch = watch
        self._read_again = read_again
        self._lock = threading.Lock()

    def about(self, name: str) -> wire.About:
        """What may be known of a provider. Raises NotFoundError, UsageError, StorageError."""
        return provider_facts.about(self._native, name)

    def default(self) -> tuple[str | IofltError, str | None]:
        """The provider of new keys, or why that is not clear, and the one that was chosen."""
        try:
            return self._native.default() or LOCAL, self._native.chosen()
        except UsageError as error:
            return error, self._native.chosen()

    def look(self, name: str) -> Mapping[KmipServer, bytes]:
        """The certificates that its key servers show now. Raises ProviderUnavailable."""
        return look(self._kmip, name)

    def try_out(self, name: str, whose: Callable[[Event], Event]) -> list[Step]:
        """Each step on each of its key servers, with a key that is destroyed again; other kinds have none."""
        steps: list[Step] = []
        if self.about(name).kind == "kmip":
            tried = event("provider test", provider_thing(name), privilege=_P.MANAGE_KEY_SERVERS)
            self._recorder.record(whose(tried))
            trial.try_provider(self._kmip, name, steps.append)
        return steps

    def backup(self, asked: wire.BackUp, whose: Callable[[Event], Event]) -> bytes:
        """The key of a native provider under a passphrase: who has both has every key of the provider."""
        with self._lock, _secret(asked.passphrase) as passphrase, _taken(asked.own) as own:
            if self._native.stamp(asked.name) != asked.seen:
                raise BusyError(f"somebody else changed the provider {asked.name} meanwhile")
            made = event("provider backup", provider_thing(asked.name), privilege=_P.MANAGE_KEYS)
            with self._recorder.around(whose(made)):
                return self._native.backup(asked.name, passphrase, own)

    def change(self, change: wire.Change, users: Sequence[str], whose: Callable[[Event], Event]) -> str:
        """What is answered to who asks for a change: a certificate, a request for one, or nothing.

        `users`: who is known to have keys of the provider. `whose`: says in the event for whom it is.
        Raises what `keys.providers.Providers` does.
        """
        with self._lock:
            Context().run(self._watch.look)  # what was changed otherwise is told first, and not as his doing
            self._check(change, users)
            operation, changes = self._told(change)
            about = provider_thing(change.name)
            made = event(operation, about, changes=changes, privilege=privilege(change))
            try:
                with self._recorder.around(whose(made)):
                    return self._changed(change)
            finally:
                self._watch.know(change.name)
                Context().run(self._read_again)

    def _check(self, change: wire.Change, users: Sequence[str]) -> None:
        """Before anything is told of it or done, whatever the stores refuse then."""
        there = self._native.path(change.name).exists()
        match change:
            case wire.CreateNative() | wire.CreateKmip() | wire.CreateTransit():
                if there:
                    raise ExistsError(f"the provider {change.name} exists already")
                if len(self._native.names()) >= MAX_PROVIDERS:
                    raise UsageError(f"{MAX_PROVIDERS} providers are made already")
            case wire.Remove(name, _, force):
                if users and not force:
                    many = f" and {len(users) - 1} more" if len(users) > 1 else ""
                    raise BusyError(f"keys of the provider {name} are in use: {users[0]}{many}")
            case wire.TrustServers(name, _, shown):
                unknown = {_server(one.server) for one in shown} - self._servers_of(name)
                if unknown:
                    raise UsageError(f"the provider {name} has no server {unknown.pop()}")
            case wire.TrustAuthority(name):
                self._refuse_foreign_login(name)

    def _servers_of(self, name: str) -> set[KmipServer]:
        return {KmipServer(host=one.host, port=one.port) for one in self._kmip.load(name).servers}

    def _refuse_foreign_login(self, name: str) -> None:
        """What root keeps in a file of his own is shown to no server but those that root trusts."""
        about = self.about(name)
        if about.kind == "transit" and about.facts["login_file"] != str(self._native.kept_login(name)):
            raise DeniedError(
                f"the provider {name} logs in by a file of root's: only root says to which server"
            )

    def _changed(self, change: wire.Change) -> str:
        name = change.name
        match change:
            case wire.CreateNative(_, passphrase):
                with _taken(passphrase) as secret:
                    self._native.create(name, secret)
            case wire.CreateKmip(_, servers, timeout, csr):
                return self._kmip.create(name, list(map(_server, servers)), timeout, csr=csr)
            case wire.CreateTransit(_, server, mount, key, given, anchors, timeout):
                login, at = self._login(name, given), (server.host, server.port)
                with _taken(given.secret) as secret:
                    self._transit.create(name, at, mount, key, login, anchors, timeout, secret=secret)
            case wire.Choose(_, before):
                self._native.choose(name, before)
            case wire.Remove(_, seen, _):
                self._native.remove(name, seen)
            case wire.TrustServers(_, seen, shown):
                found = {_server(one.server): one.certificate for one in shown}
                self._kmip.trust_servers(name, found, seen)
            case wire.TrustAuthority(_, seen, anchors):
                if self.about(name).kind == "transit":
                    self._transit.trust_authority(name, anchors, seen)
                else:
                    self._kmip.trust_authority(name, anchors, seen)
            case wire.Install(_, seen, certificate):
                self._kmip.install(name, certificate, seen)
            case wire.Renew(_, seen, csr):
                return self._kmip.renew(name, csr=csr, seen=seen)
            case wire.LogIn(_, seen, given):
                login = self._login(name, given)
                with _taken(given.secret) as secret:
                    self._transit.log_in_by(name, login, secret=secret, seen=seen)
            case wire.ChangePassphrase(_, seen, sent, opens):
                with _secret(sent) as new, _taken(opens) as own:
                    slot_admin.change_passphrase(self._native, name, new, own, seen=seen)
            case wire.MarkBackedUp():
                self._native.mark_backed_up(name)
            case _:
                assert_never(change)
        return ""

    def _login(self, name: str, given: wire.Login) -> Login:
        """By a file that keyd keeps. Raises UsageError for a private key that only a person could open."""
        file = str(self._native.kept_login(name))
        if given.kind == "token":
            return TokenLogin(file=file)
        if b"ENCRYPTED" in given.secret:
            raise UsageError("a private key under a passphrase, which nobody is there to give")
        return CertificateLogin(file=file, mount=given.mount, role=given.role)

    def _told(self, change: wire.Change) -> tuple[str, Sequence[Change]]:
        """Of what operation it is a part, and what it changes of what may be known."""
        match change:
            case wire.CreateNative(_, passphrase):
                slots = [] if passphrase is None else ["passphrase"]
                return "provider create native", [added("provider.slots", slots)]
            case wire.CreateKmip(_, servers):
                shown = [str(_server(one)) for one in servers]
                return "provider create kmip", [added("provider.servers", shown)]
            case wire.CreateTransit(_, server, mount, key, login):
                about = {"server": f"{server.host}:{server.port}", "mount": mount, "key": key}
                return "provider create transit", [
                    added("provider.server", {**about, "login": login.kind}),
                ]
            case wire.Choose(name, before):
                return "provider default", [modified("provider.default", before, name)]
            case wire.Remove(name):
                return "provider remove", [deleted("provider", dict(self.about(name).facts))]
            case wire.TrustServers(name, _, shown):
                trusted = [fingerprint(one.certificate) for one in shown]
                return "provider trust", [self._told_fact(name, "trusts", trusted)]
            case wire.TrustAuthority(name, _, anchors):
                trusted = [fingerprint(one.der) for one in certificates.read(anchors)]
                return "provider trust", [self._told_fact(name, "trusts", trusted)]
            case wire.Install(name, _, certificate):
                ours = fingerprint(certificates.read(certificate)[0].der)
                return "provider trust", [self._told_fact(name, "certificate", ours)]
            case wire.Renew(_, _, csr):
                return "provider renew", [added("provider.privateKey", "requested" if csr else "self-signed")]
            case wire.LogIn(name, _, given):
                return "provider trust", [self._told_fact(name, "login", given.kind)]
            case wire.ChangePassphrase():
                return "provider passwd", []
            case wire.MarkBackedUp(name):
                return "provider backup", [self._told_fact(name, "backed_up", True)]
        assert_never(change)

    def _told_fact(self, name: str, fact: str, after: Value) -> Change:
        return modified(f"provider.{fact}", self.about(name).facts.get(fact) or None, after)


def _taken(sent: bytearray | None) -> AbstractContextManager[Secret | None]:
    """What was sent as a secret, wiped in the message at once and then itself."""
    return nullcontext() if sent is None else _secret(sent)


def _secret(sent: bytearray) -> Secret:
    secret = Secret(sent)
    wipe(sent)
    return secret


def _server(server: wire.Server) -> KmipServer:
    return KmipServer(host=server.host, port=server.port)
