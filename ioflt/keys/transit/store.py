"""The files of transit providers: `<name>.json` says which server, key and login (`transit_file`).

The token or client certificate is not copied here: it stays the file of whoever renews it.
"""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import msgspec

from ioflt.crypto import certificates
from ioflt.crypto.certificates import Certificate
from ioflt.crypto.secret import Secret
from ioflt.errors import CorruptDataError, ExistsError, NotFoundError, UsageError
from ioflt.keys import files, provider_file
from ioflt.keys.directory import ProviderDirectory
from ioflt.keys.transit import file as transit_file
from ioflt.keys.transit.file import Login, TransitFile


class TransitStore:
    """The transit providers in a directory, which is there and has mode 0700."""

    def __init__(self, directory: Path) -> None:
        self._names = ProviderDirectory(directory)

    def load(self, name: str) -> TransitFile:
        """A provider's file. Raises NotFoundError, CorruptDataError."""
        file = transit_file.parse(self._names.read(name))
        if file.name != name:
            raise NotFoundError(f"the file is that of the provider {file.name}", file=self._names.path(name))
        return file

    def create(
        self,
        name: str,
        server: tuple[str, int],
        mount: str,
        key: str,
        login: Login,
        anchors: str,
        timeout: float,
        *,
        secret: Secret | None = None,
    ) -> TransitFile:
        """A new provider. `secret`: what is kept in the file of the login, which is `kept_login`.

        Raises ExistsError, UsageError, MalformedError for bad anchors, StorageError.
        """
        path = self._names.path(name)
        file = TransitFile(
            name=name,
            uuid=str(uuid.uuid4()),
            host=server[0],
            port=server[1],
            mount=mount,
            key=key,
            login=login,
            anchors=certificates.without_comments(anchors),
            timeout=timeout,
        )
        data = _checked(file)
        with self._names.writing():
            if path.exists():
                raise ExistsError(f"the provider {name} exists already")
            if secret is not None:
                files.replace(self._names.kept_login(name), secret.view())
            files.create(path, data)
        return file

    def log_in_by(
        self, name: str, login: Login, *, secret: Secret | None = None, seen: bytes | None = None
    ) -> None:
        """Log in so from now on; `secret` as in `create`, without it none is kept any more.

        `seen` as in `ProviderDirectory.writing`.
        """
        with self._names.writing(name, seen):
            old = self.load(name)
            data = _checked(msgspec.structs.replace(old, login=login))
            if secret is not None:
                files.replace(self._names.kept_login(name), secret.view())
            files.replace(self._names.path(name), data)
            if secret is None:
                files.destroy(self._names.kept_login(name))

    def trust_authority(self, name: str, pem: str, seen: bytes | None = None) -> list[Certificate]:
        """Believe a server whose certificate these issued, and no other."""
        anchors = certificates.without_comments(pem)
        with self._names.writing(name, seen):
            changed = msgspec.structs.replace(self.load(name), anchors=anchors)
            files.replace(self._names.path(name), _checked(changed))
        return certificates.read(anchors)


def _checked(file: TransitFile) -> bytes:
    """What is written can be read: the fields come from a user."""
    data = provider_file.write(file)
    try:
        transit_file.parse(data)
    except CorruptDataError as error:
        field = re.search(r"\$\.([a-z.]+)", error.detail)
        raise UsageError(f"no usable {field[1]}" if field else str(error)) from error
    return data
