"""The files of pkcs11 providers: `<name>.json` says which module, token and key.

The PIN is not copied here: it stays in a file of its own, or with a person.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from pathlib import Path

from ioflt.errors import CorruptDataError, ExistsError, NotFoundError, UsageError
from ioflt.keys import files, provider_file
from ioflt.keys.directory import ProviderDirectory
from ioflt.keys.pkcs11 import file as pkcs11_file
from ioflt.keys.pkcs11.file import Pkcs11File


class Pkcs11Store:
    """The pkcs11 providers in a directory, which is there and has mode 0700."""

    def __init__(self, directory: Path) -> None:
        self._names = ProviderDirectory(directory)

    def load(self, name: str) -> Pkcs11File:
        """A provider's file. Raises NotFoundError, CorruptDataError."""
        file = pkcs11_file.parse(self._names.read(name))
        if file.name != name:
            raise NotFoundError(f"the file is that of the provider {file.name}", file=self._names.path(name))
        return file

    def prepare(
        self,
        name: str,
        module: str,
        token: str,
        key: str,
        pin_file: str | None,
        environment: Mapping[str, str],
        timeout: float,
    ) -> Pkcs11File:
        """A new provider, which nobody knows before `add`. Raises ExistsError, UsageError."""
        if self._names.path(name).exists():
            raise ExistsError(f"the provider {name} exists already")
        file = Pkcs11File(
            name=name,
            uuid=str(uuid.uuid4()),
            module=module,
            token=token,
            key=key,
            pin_file=pin_file,
            environment=dict(environment),
            timeout=timeout,
        )
        _checked(file)
        return file

    def add(self, file: Pkcs11File) -> None:
        """Keep a new provider. Raises ExistsError, StorageError."""
        path = self._names.path(file.name)
        with self._names.writing():
            if path.exists():
                raise ExistsError(f"the provider {file.name} exists already")
            files.create(path, _checked(file))


def _checked(file: Pkcs11File) -> bytes:
    """What is written can be read: the fields come from a user."""
    try:
        data = provider_file.write(file)
        pkcs11_file.parse(data)
    except CorruptDataError as error:
        field = re.search(r"\$\.([a-z_]+)", error.detail)
        raise UsageError(f"no usable {field[1]}" if field else str(error)) from error
    except UnicodeEncodeError:
        raise UsageError("a name that is not UTF-8") from None
    return data
