"""The directory of all providers, whatever their kind: `<name>.json` is one, `default` names one.

One writer at a time: who creates or changes a file holds `flock` on the directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from ioflt.errors import BusyError, NotFoundError, UsageError
from ioflt.keys import files, provider_file

#: The provider that is made at first use.
LOCAL = "local"


class ProviderDirectory:
    """Provider files in one directory of mode 0700, which is there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def names(self) -> list[str]:
        """All providers' names, sorted. Files whose names are no provider's are passed over."""
        return sorted(path.stem for path in self.directory.glob("*.json") if provider_file.is_name(path.stem))

    def path(self, name: str) -> Path:
        """Where the provider of that name is. Raises UsageError for what is no name."""
        if not provider_file.is_name(name):
            raise UsageError(f"not a provider name: {name[:80]!r}")
        return self.directory / f"{name}.json"

    def read(self, name: str) -> bytes:
        """A provider's file. Raises NotFoundError, UsageError, StorageError."""
        try:
            return files.read(self.path(name), provider_file.MAX_FILE)
        except NotFoundError as error:
            raise NotFoundError(f"no provider {name} is configured here") from error

    def kind(self, name: str) -> str:
        """Of which kind a provider says that it is, "" for one that is broken or not there."""
        try:
            return provider_file.kind_of(self.read(name))
        except NotFoundError:
            return ""

    def default(self) -> str | None:
        """The provider of new keys: the one that was chosen, else the only one, else `local`.

        None: there is no provider yet. Raises UsageError when it is not clear, StorageError.
        """
        names, chosen = self.names(), self.chosen()
        if chosen is not None:
            if chosen not in names:
                raise UsageError(f"the provider {chosen}, the default for new keys, is not here")
            return chosen
        if len(names) > 1 and LOCAL not in names:
            raise UsageError(f"several providers and none is {LOCAL}: name one of {', '.join(names)}")
        return names[0] if len(names) == 1 else LOCAL if names else None

    def chosen(self) -> str | None:
        """The default that `choose` set."""
        try:
            return files.read(self._default_file, 256).decode(errors="replace").strip()
        except NotFoundError:
            return None

    def choose(self, name: str, before: str | None) -> None:
        """Make a provider the default for new keys, in the place of the one that was chosen `before`.

        Raises NotFoundError, BusyError: somebody else chose one meanwhile.
        """
        with self.writing():
            if not self.path(name).exists():
                raise NotFoundError(f"no provider {name} is configured here")
            if self.chosen() != before:
                raise BusyError("somebody else chose a default provider meanwhile")
            files.replace(self._default_file, f"{name}\n".encode())

    def remove(self, name: str, seen: bytes | None = None) -> None:
        """Remove a provider and overwrite what opened it: its keys are gone but for backups.

        Raises NotFoundError, StorageError; BusyError as `writing`.
        """
        path = self.path(name)
        with self.writing(name, seen):
            if not path.exists():
                raise NotFoundError(f"no provider {name} is configured here")
            if self.chosen() == name:
                self._default_file.unlink(missing_ok=True)
            for beside in self._secrets(name):
                files.destroy(beside)
            files.destroy(path)

    def stamp(self, name: str) -> bytes:
        """32 bytes, others whenever a provider's file is another, or one beside it that opens it."""
        found = hashlib.sha256(self.read(name))
        for path in self._openers(name):
            with contextlib.suppress(FileNotFoundError):
                about = path.stat()
                found.update(f"{path.name} {about.st_ino} {about.st_mtime_ns}\0".encode())
        return found.digest()

    @contextlib.contextmanager
    def writing(self, name: str = "", seen: bytes | None = None) -> Iterator[None]:
        """Nobody else changes a provider meanwhile; what a killed writer left is removed.

        `seen`: the stamp of the provider `name` that the caller has seen. Raises BusyError for another one.
        """
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            files.remove_left(self.directory)
            if seen is not None and seen != self.stamp(name):
                raise BusyError(f"somebody else changed the provider {name} meanwhile")
            yield
        finally:
            os.close(directory)

    def sealed_keys(self, name: str) -> Path:
        """Where keys of the provider are that are sealed to this host."""
        return self.directory / f"{name}~keys"  # no provider's name has a tilde

    def kept_login(self, name: str) -> Path:
        """Where the login of a provider is that was given to keyd, and is no file of the administrator's."""
        return self.directory / f"{name}~login"

    def _secrets(self, name: str) -> list[Path]:
        """What opens a provider or its keys."""
        return [*self._openers(name), self.sealed_keys(name)]

    def _openers(self, name: str) -> list[Path]:
        """The files beside a provider's that open it: native's key file, kmip's identities, a kept login."""
        beside = [self.directory / f"{name}{end}" for end in (".key", ".pem", "~pending.pem")]
        return [*beside, self.kept_login(name)]

    @property
    def _default_file(self) -> Path:
        return self.directory / "default"
