"""Key providers as commands change them: by their files, or by keyd for who may not read those.

A change names what its caller saw, `About.seen`, and is refused with BusyError when that is not so any more:
of two who change a provider at once, neither loses what he did without hearing of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from ioflt.crypto.certificates import Certificate
from ioflt.crypto.secret import Secret
from ioflt.keys.kmip.file import KmipServer
from ioflt.keys.trial import Tell
from ioflt.wire.keyd.providers import About


@dataclass(frozen=True, slots=True)
class LoginFile:
    """By what a transit provider logs in: a file of the caller's with a token, or a key and certificate.

    The owner's stays where it is; what somebody else gives keyd keeps. `mount` and `role`: of a certificate.
    """

    kind: Literal["token", "certificate"]
    path: Path
    mount: str = "cert"
    role: str = ""


@dataclass(frozen=True, slots=True)
class InUse:
    """What is known of who needs a provider. `named`: VMs and datastores; `datastores`: more to look into."""

    named: Sequence[str] = ()
    datastores: Sequence[str] = ()


class Providers(Protocol):
    """Every call may raise NotFoundError, UsageError, StorageError; DeniedError where keyd decides."""

    def about(self, name: str) -> About:
        """What is known of a provider, nothing that opens it."""
        ...

    def default(self) -> str:
        """The provider of new keys. Raises UsageError when it is not clear."""
        ...

    def chosen(self) -> str | None:
        """The one that `choose` made so."""
        ...

    def choose(self, name: str, before: str | None) -> None:
        """Make one the provider of new keys, in the place of the one that was chosen `before`."""
        ...

    def create_native(self, name: str, passphrase: Secret | None) -> About:
        """A new one, opened by the passphrase or by the host. Raises ExistsError."""
        ...

    def create_kmip(self, name: str, servers: Sequence[KmipServer], timeout: float, *, csr: bool) -> str:
        """A new one. Returns its certificate, or with `csr` a request for one. Raises ExistsError."""
        ...

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
        """A new one. Raises ExistsError, CorruptDataError for bad anchors."""
        ...

    def look(self, name: str) -> Mapping[KmipServer, bytes]:
        """The certificates (DER) that its key servers show now, unverified. Raises ProviderUnavailable."""
        ...

    def trust_servers(self, about: About, found: Mapping[KmipServer, bytes]) -> None:
        """Believe exactly these certificates, each of its server."""
        ...

    def trust_authority(self, about: About, pem: str) -> Sequence[Certificate]:
        """Believe servers whose certificates these issued, and no other. Raises CorruptDataError."""
        ...

    def install(self, about: About, pem: str) -> Certificate:
        """Show the servers this client certificate from now on, whose private key is there."""
        ...

    def renew(self, about: About, *, csr: bool) -> str:
        """A new private key, which waits for `install`. Returns its certificate or a request for one."""
        ...

    def log_in_by(self, about: About, login: LoginFile) -> None:
        """Log in to a transit engine's server so from now on."""
        ...

    def try_out(self, name: str, tell: Tell) -> bool:
        """Each step that can be tried without asking keyd for a key: whether all went well."""
        ...

    def change_passphrase(self, about: About, new: Secret, own: Secret | None) -> None:
        """Of a native one, which the host or its `own` passphrase opens. Raises KeyUnavailableError."""
        ...

    def backup(self, about: About, passphrase: Secret, own: Secret | None) -> bytes:
        """The key of a native one under a passphrase; `own` as above. Raises KeyUnavailableError."""
        ...

    def mark_backed_up(self, name: str) -> None:
        """A backup was kept."""
        ...

    def in_use(self, name: str) -> InUse:
        """Who needs it, as far as that is not known to the caller himself."""
        ...

    def remove(self, about: About, *, force: bool) -> None:
        """Remove it for good. Raises BusyError while keyd knows of who needs it, but for `force`."""
        ...
