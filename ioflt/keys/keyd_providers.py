"""`keys.providers.Providers` for who may not read their files: by keyd, which asks for privileges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from ioflt.crypto import certificates
from ioflt.crypto.certificates import Certificate
from ioflt.crypto.secret import Secret
from ioflt.errors import IofltError, UsageError
from ioflt.keys.client import KeyClient
from ioflt.keys.kmip.file import KmipServer
from ioflt.keys.providers import InUse, LoginFile
from ioflt.keys.remote import credential
from ioflt.keys.trial import Step, Tell
from ioflt.wire.frame import wipe
from ioflt.wire.keyd import providers as wire
from ioflt.wire.keyd.providers import About


class KeydProviders:
    """Those of the keyd that the client asks."""

    def __init__(self, keys: KeyClient) -> None:
        self._keys = keys

    def about(self, name: str) -> About:
        return self._keys.about_provider(name)

    def default(self) -> str:
        name, _ = self._keys.provider_default()
        if isinstance(name, IofltError):
            raise name
        return name

    def chosen(self) -> str | None:
        return self._keys.provider_default()[1]

    def choose(self, name: str, before: str | None) -> None:
        self._keys.change_provider(wire.Choose(name, before))

    def create_native(self, name: str, passphrase: Secret | None) -> About:
        with _sent(passphrase) as sent:
            self._keys.change_provider(wire.CreateNative(name, sent))
        return self.about(name)

    def create_kmip(self, name: str, servers: Sequence[KmipServer], timeout: float, *, csr: bool) -> str:
        named = tuple(wire.Server(server.host, server.port) for server in servers)
        return self._keys.change_provider(wire.CreateKmip(name, named, timeout, csr))

    def create_transit(
        self,
        name: str,
        server: tuple[str, int],
        mount: str,
        key: str,
        login: LoginFile,
        anchors: str,
        timeout: float,
    ) -> About:
        with _given(name, login) as given:
            self._keys.change_provider(
                wire.CreateTransit(name, wire.Server(*server), mount, key, given, anchors, timeout)
            )
        return self.about(name)

    def look(self, name: str) -> Mapping[KmipServer, bytes]:
        shown = self._keys.look_at_servers(name)
        return {KmipServer(host=one.server.host, port=one.server.port): one.certificate for one in shown}

    def trust_servers(self, about: About, found: Mapping[KmipServer, bytes]) -> None:
        shown = tuple(
            wire.Shown(wire.Server(server.host, server.port), certificate)
            for server, certificate in found.items()
        )
        self._keys.change_provider(wire.TrustServers(about.name, about.seen, shown))

    def trust_authority(self, about: About, pem: str) -> Sequence[Certificate]:
        anchors = certificates.without_comments(pem)
        self._keys.change_provider(wire.TrustAuthority(about.name, about.seen, anchors))
        return certificates.read(anchors)

    def install(self, about: About, pem: str) -> Certificate:
        chain = certificates.without_comments(pem)
        self._keys.change_provider(wire.Install(about.name, about.seen, chain))
        return certificates.read(chain)[0]

    def renew(self, about: About, *, csr: bool) -> str:
        return self._keys.change_provider(wire.Renew(about.name, about.seen, csr))

    def log_in_by(self, about: About, login: LoginFile) -> None:
        with _given(about.name, login) as given:
            self._keys.change_provider(wire.LogIn(about.name, about.seen, given))

    def try_out(self, name: str, tell: Tell) -> bool:
        """The steps are told once all are done."""
        steps = self._keys.try_provider(name)
        for one in steps:
            tell(Step(one.server, one.step, one.result, one.error))
        return not any(one.error for one in steps)

    def change_passphrase(self, about: About, new: Secret, own: Secret | None) -> None:
        with _copy(new) as sent, _sent(own) as opens:
            self._keys.change_provider(wire.ChangePassphrase(about.name, about.seen, sent, opens))

    def backup(self, about: About, passphrase: Secret, own: Secret | None) -> bytes:
        with _copy(passphrase) as sent, _sent(own) as opens:
            return self._keys.back_up_provider(wire.BackUp(about.name, about.seen, sent, opens))

    def mark_backed_up(self, name: str) -> None:
        self._keys.change_provider(wire.MarkBackedUp(name))

    def in_use(self, name: str) -> InUse:
        return self._keys.provider_use(name)

    def remove(self, about: About, *, force: bool) -> None:
        self._keys.change_provider(wire.Remove(about.name, about.seen, force))


@contextmanager
def _given(name: str, login: LoginFile) -> Iterator[wire.Login]:
    """A login with what is in its file, wiped afterwards. Raises ProviderUnavailable, UsageError."""
    with credential(str(login.path), name) as content, _copy(content) as secret:
        if not secret:
            raise UsageError("nothing is in it to log in by", file=login.path)
        yield wire.Login(login.kind, secret, login.mount, login.role)


@contextmanager
def _copy(secret: Secret) -> Iterator[bytearray]:
    """A copy to be sent, wiped afterwards."""
    copy = bytearray(secret.view())
    try:
        yield copy
    finally:
        wipe(copy)


def _sent(secret: Secret | None) -> AbstractContextManager[bytearray | None]:
    return nullcontext() if secret is None else _copy(secret)
