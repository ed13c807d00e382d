"""`keys.providers.Providers` for who owns their directory: by its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ioflt.crypto.certificates import Certificate
from ioflt.crypto.secret import Secret
from ioflt.keys import provider_facts
from ioflt.keys.directory import LOCAL
from ioflt.keys.kmip.file import KmipServer
from ioflt.keys.kmip.store import KmipStore
from ioflt.keys.native import slot_admin
from ioflt.keys.native.store import NativeStore
from ioflt.keys.providers import InUse, LoginFile
from ioflt.keys.transit.file import CertificateLogin, Login, TokenLogin
from ioflt.keys.transit.store import TransitStore
from ioflt.keys.trial import Tell
from ioflt.wire.keyd.providers import About


class OwnProviders:
    """In a directory of mode 0700, which is there. A keyd that runs is to be told of changes."""

    def __init__(self, directory: Path) -> None:
        self._native = NativeStore(directory)
        self._kmip = KmipStore(directory)
        self._transit = TransitStore(directory)

    def about(self, name: str) -> About:
        return provider_facts.about(self._native, name)

    def default(self) -> str:
        return self._native.default() or LOCAL

    def chosen(self) -> str | None:
        return self._native.chosen()

    def choose(self, name: str, before: str | None) -> None:
        self._native.choose(name, before)

    def create_native(self, name: str, passphrase: Secret | None) -> About:
        self._native.create(name, passphrase)
        return self.about(name)

    def create_kmip(self, name: str, servers: Sequence[KmipServer], timeout: float, *, csr: bool) -> str:
        return self._kmip.create(name, servers, timeout, csr=csr)

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
        self._transit.create(name, server, mount, key, _login(login), anchors, timeout)
        return self.about(name)

    def look(self, name: str) -> Mapping[KmipServer, bytes]:
        from ioflt.keys.kmip.look import look

        return look(self._kmip, name)

    def trust_servers(self, about: About, found: Mapping[KmipServer, bytes]) -> None:
        self._kmip.trust_servers(about.name, found, about.seen)

    def trust_authority(self, about: About, pem: str) -> Sequence[Certificate]:
        store = self._transit if about.kind == "transit" else self._kmip
        return store.trust_authority(about.name, pem, about.seen)

    def install(self, about: About, pem: str) -> Certificate:
        return self._kmip.install(about.name, pem, about.seen)

    def renew(self, about: About, *, csr: bool) -> str:
        return self._kmip.renew(about.name, csr=csr, seen=about.seen)

    def log_in_by(self, about: About, login: LoginFile) -> None:
        self._transit.log_in_by(about.name, _login(login), seen=about.seen)

    def try_out(self, name: str, tell: Tell) -> bool:
        match self.about(name).kind:
            case "kmip":
                from ioflt.keys.kmip import trial

                return trial.try_provider(self._kmip, name, tell)
            case "pkcs11":
                from ioflt.keys.pkcs11.store import Pkcs11Store
                from ioflt.keys.pkcs11.trial import try_out

                return try_out(Pkcs11Store(self._native.directory).load(name), tell)
        return True

    def change_passphrase(self, about: About, new: Secret, own: Secret | None) -> None:
        slot_admin.change_passphrase(self._native, about.name, new, own, seen=about.seen)

    def backup(self, about: About, passphrase: Secret, own: Secret | None) -> bytes:
        return self._native.backup(about.name, passphrase, own)

    def mark_backed_up(self, name: str) -> None:
        self._native.mark_backed_up(name)

    def in_use(self, name: str) -> InUse:
        """The owner's own commands remember the datastores."""
        return InUse()

    def remove(self, about: About, *, force: bool) -> None:
        self._native.remove(about.name, about.seen)


def _login(given: LoginFile) -> Login:
    file = str(given.path.absolute())
    if given.kind == "token":
        return TokenLogin(file=file)
    return CertificateLogin(file=file, mount=given.mount, role=given.role)
