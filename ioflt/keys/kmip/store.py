"""The files of a kmip provider: what it is, who this host is to its servers, and whom it trusts.

`<name>.json` says which servers (`kmip_file`), `<name>.pem` has the private key and the client certificate in
use, `<name>~pending.pem` a new private key whose certificate is not in use yet.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from ioflt.crypto import certificates
from ioflt.crypto.certificates import Certificate
from ioflt.crypto.secret import Secret
from ioflt.errors import ExistsError, MalformedError, NotFoundError, UsageError
from ioflt.keys import files, provider_file
from ioflt.keys.directory import ProviderDirectory
from ioflt.keys.kmip import file as kmip_file
from ioflt.keys.kmip.file import KIND, KmipFile, KmipServer
from ioflt.keys.provider_file import MAX_FILE
from ioflt.transport.tls import Trust, fingerprint

#: Days that a self-signed certificate is valid.
DAYS: Final = 730

_KEY: Final = re.compile(rb"-----BEGIN PRIVATE KEY-----.*?-----END PRIVATE KEY-----\n", re.DOTALL)


class KmipStore:
    """The kmip providers in a directory, which is there and has mode 0700."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._names = ProviderDirectory(directory)

    def load(self, name: str) -> KmipFile:
        """A provider's file. Raises NotFoundError, UsageError for another kind, CorruptDataError."""
        data = self._names.read(name)
        if provider_file.kind_of(data) != KIND:
            raise UsageError(f"the provider {name} has no key servers")
        file = kmip_file.parse(data)
        if file.name != name:
            raise NotFoundError(f"the file is that of the provider {file.name}", file=self._names.path(name))
        return file

    def trust(self, file: KmipFile) -> Trust:
        """Whom the provider believes, and who it is."""
        identity = self.identity(file.name)
        return Trust(file.anchors, identity if identity.exists() else None)

    def identity(self, name: str) -> Path:
        """Where the private key and the certificate in use are."""
        return self._directory / f"{name}.pem"

    def certificate(self, name: str) -> Certificate | None:
        """The client certificate in use, None when there is none yet."""
        try:
            pem = files.read(self.identity(name), MAX_FILE).decode(errors="replace")
        except NotFoundError:
            return None
        return certificates.read(pem)[0]

    def create(self, name: str, servers: Sequence[KmipServer], timeout: float, *, csr: bool) -> str:
        """A new provider with a private key. Returns its certificate, or with `csr` a request for one.

        Raises ExistsError, UsageError, StorageError.
        """
        path = self._names.path(name)
        file = KmipFile(name=name, uuid=str(uuid.uuid4()), servers=tuple(servers), timeout=timeout)
        data = provider_file.write(file)
        try:
            kmip_file.parse(data)
        except MalformedError as error:
            raise UsageError(error.detail or error.reason) from error
        with self._names.writing():
            if path.exists():
                raise ExistsError(f"the provider {name} exists already")
            text = self._new_identity(self._pending(name) if csr else self.identity(name), name, csr=csr)
            files.create(path, data)
            return text

    def renew(self, name: str, *, csr: bool, seen: bytes | None = None) -> str:
        """A new private key, which waits for `install`. Returns its certificate or a request for one.

        `seen` here and below as in `ProviderDirectory.writing`.
        """
        self.load(name)
        with self._names.writing(name, seen):
            return self._new_identity(self._pending(name), name, csr=csr)

    def install(self, name: str, pem: str, seen: bytes | None = None) -> Certificate:
        """Use this client certificate from now on; its private key is the pending one or the one in use.

        Raises UsageError when it belongs to neither, MalformedError.
        """
        self.load(name)
        chain = certificates.without_comments(pem)
        with self._names.writing(name, seen):
            for path in (self._pending(name), self.identity(name)):
                if not path.exists():
                    continue
                with _private_key(path) as key:
                    if not certificates.belongs(key, chain):
                        continue
                    with Secret(bytes(key.view()) + chain.encode()) as whole:
                        files.replace(self.identity(name), whole.view())
                if path != self.identity(name):
                    path.unlink()
                return certificates.read(chain)[0]
        raise UsageError(f"the certificate belongs to no private key of the provider {name}")

    def trust_authority(self, name: str, pem: str, seen: bytes | None = None) -> list[Certificate]:
        """Believe servers whose certificates these issued, and no other. Pins are dropped."""
        anchors = certificates.without_comments(pem)
        self._change(name, anchors, {}, seen)
        return certificates.read(anchors)

    def trust_servers(self, name: str, found: Mapping[KmipServer, bytes], seen: bytes | None = None) -> None:
        """Believe exactly these certificates (DER), each of its server."""
        anchors = "".join(certificates.to_pem(der) for der in dict.fromkeys(found.values()))
        pins = {(server.host, server.port): fingerprint(der) for server, der in found.items()}
        self._change(name, anchors, pins, seen)

    def _change(self, name: str, anchors: str, pins: dict[tuple[str, int], str], seen: bytes | None) -> None:
        with self._names.writing(name, seen):
            file = self.load(name)
            servers = tuple(
                KmipServer(
                    host=server.host, port=server.port, fingerprint=pins.get((server.host, server.port))
                )
                for server in file.servers
            )
            changed = msgspec.structs.replace(file, servers=servers, anchors=anchors)
            data = provider_file.write(changed)
            kmip_file.parse(data)  # a file that is too large is not written
            files.replace(self._names.path(name), data)

    def _pending(self, name: str) -> Path:
        return self._directory / f"{name}~pending.pem"  # no provider's name has a tilde

    def _new_identity(self, path: Path, name: str, *, csr: bool) -> str:
        with certificates.new_key() as key:
            text = certificates.request(key, name) if csr else certificates.self_signed(key, name, DAYS)
            with Secret(bytes(key.view()) + (b"" if csr else text.encode())) as whole:
                files.replace(path, whole.view())
        return text


def _private_key(path: Path) -> Secret:
    found = _KEY.search(files.read(path, MAX_FILE))
    if found is None:
        raise UsageError("no private key in it", file=path)
    return Secret(found[0])
