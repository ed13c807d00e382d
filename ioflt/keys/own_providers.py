"""`keys.providers.Providers` for who owns their directory: by its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ioflt.crypto.secret import Secret
from ioflt.keys import provider_facts
from ioflt.keys.directory import LOCAL
from ioflt.keys.kmip.file import KmipServer
from ioflt.keys.kmip.store import KmipStore
from ioflt.keys.native.store import NativeStore
from ioflt.keys.providers import InUse, LoginFile
from ioflt.keys.transit.file import CertificateLogin, Login, TokenLogin
from ioflt.keys.transit.store import TransitStore
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
