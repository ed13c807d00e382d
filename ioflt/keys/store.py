"""The directory of native providers: make, list, back up, restore, remove, choose the default.

One writer at a time: who creates or changes a file holds `flock` on the directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ioflt.crypto.secret import Secret
from ioflt.errors import (
    ExistsError,
    IofltError,
    KeyUnavailableError,
    NotFoundError,
    ProviderLocked,
    UsageError,
)
from ioflt.keys import backup, files, slots
from ioflt.keys.backup import Identity
from ioflt.keys.native_file import MAX_FILE, Name, ProviderFile, Slot, parse_provider, write

#: The provider that is made at first use.
LOCAL = "local"


def reminder(name: str) -> str:
    """What the user must hear of a provider that was never backed up."""
    return f"the provider {name} was never backed up: without this host its keys are lost"


class ProviderStore:
    """Provider files in one directory of mode 0700, which is there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def names(self) -> list[str]:
        """All providers' names, sorted. Files whose names are no provider's are passed over."""
        return sorted(path.stem for path in self.directory.glob("*.json") if _is_name(path.stem))

    def path(self, name: str) -> Path:
        """Where the provider of that name is. Raises UsageError for what is no name."""
        if not _is_name(name):
            raise UsageError(f"not a provider name: {name[:80]!r}")
        return self.directory / f"{name}.json"

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

    def choose(self, name: str) -> None:
        """Make a provider the default for new keys. Raises NotFoundError."""
        with self.writing():
            if not self.path(name).exists():
                raise NotFoundError(f"no provider {name} is configured here")
            files.replace(self._default_file, f"{name}\n".encode())

    def remove(self, name: str) -> None:
        """Remove a provider and overwrite what opened it: its keys are gone but for backups.

        Raises NotFoundError, StorageError.
        """
        path = self.path(name)
        with self.writing():
            if not path.exists():
                raise NotFoundError(f"no provider {name} is configured here")
            if self.chosen() == name:
                self._default_file.unlink(missing_ok=True)
            files.destroy(slots.keyfile_of(path))
            files.destroy(path)

    @property
    def _default_file(self) -> Path:
        return self.directory / "default"

    def load(self, name: str) -> ProviderFile:
        """A provider's file. Raises NotFoundError, CorruptDataError, StorageError."""
        path = self.path(name)
        try:
            data = files.read(path, MAX_FILE)
        except NotFoundError as error:
            raise NotFoundError(f"no provider {name} is configured here") from error
        file = parse_provider(data)
        if file.name != name:
            raise NotFoundError(f"the file is that of the provider {file.name}", file=path)
        return file

    def reminders(self) -> list[str]:
        """Of each provider that was never backed up. The directory need not be there."""
        found = []
        for name in self.names():
            with contextlib.suppress(IofltError, OSError):  # a broken one is told of where it is used
                if not self.load(name).backed_up:
                    found.append(reminder(name))
        return found

    def opens_by_passphrase_only(self, name: str) -> bool:
        """Whether its KDK is had by a passphrase or PIN only."""
        return all(map(slots.waits_for_secret, self.load(name).slots))

    def create(self, name: str, passphrase: Secret | None = None) -> ProviderFile:
        """A new provider with a new KDK, opened by the passphrase, or by this host when there is none.

        Raises ExistsError, UsageError, StorageError.
        """
        path = self.path(name)
        with self.writing(), Secret.random(32) as kdk:
            if path.exists():
                raise ExistsError(f"the provider {name} exists already")
            ids = (str(uuid.uuid4()), str(uuid.uuid4()))
            slot = self._seal(path, *ids, kdk, passphrase)
            file = ProviderFile(name=name, uuid=ids[0], kdk_id=ids[1], backed_up=False, slots=(slot,))
            files.create(path, write(file))
            return file

    def save(self, file: ProviderFile) -> None:
        """Put a changed file in place of the old one; under `writing`."""
        files.replace(self.path(file.name), write(file))

    def open(self, file: ProviderFile, own: Secret | None) -> Secret:
        """The KDK, by this host, or by the provider's own passphrase or PIN. Raises KeyUnavailableError."""
        path = self.path(file.name)
        if own is not None:
            return slots.open_by_passphrase(file, own, path)
        kdk = slots.open_by_host(file, path)
        if kdk is None:
            raise ProviderLocked(f"the provider {file.name} opens by its passphrase only")
        return kdk

    def backup(self, name: str, passphrase: Secret, own: Secret | None = None) -> bytes:
        """The KDK under `passphrase`, as a file to keep elsewhere. `own` opens a provider with a passphrase.

        Raises KeyUnavailableError; UsageError when empty. Call `mark_backed_up` once the file is kept.
        """
        refuse_empty(passphrase)
        file = self.load(name)
        with self.open(file, own) as kdk:
            return backup.seal(Identity.of(file), kdk, passphrase)

    def mark_backed_up(self, name: str) -> None:
        """Remember that a backup was kept: the warning ends."""
        with self.writing():
            self.save(msgspec.structs.replace(self.load(name), backed_up=True))

    def restore(self, data: bytes, passphrase: Secret) -> ProviderFile:
        """The provider of a backup, on this host; the same one again changes nothing.

        It opens as it did: by this host, or by a passphrase, which now is the backup's.
        Raises what `install` does, KeyNotUsable for a wrong passphrase, CorruptDataError.
        """
        identity, kdk = backup.open_(data, passphrase)
        with kdk:
            return self.install(identity, kdk, passphrase)

    def install(self, identity: Identity, kdk: Secret, passphrase: Secret | None) -> ProviderFile:
        """The provider of that KDK, on this host. `passphrase` opens one that is protected by a passphrase.

        A provider that is here and does not open any more gets a slot that does. Raises ExistsError when
        another one has its name.
        """
        path = self.path(identity.name)
        with self.writing():
            old = self.load(identity.name) if path.exists() else None
            if old is not None:
                if (old.uuid, old.kdk_id) != (identity.uuid, identity.kdk_id):
                    raise ExistsError(f"another provider {identity.name} exists here")
                if self._opens(old, passphrase, kdk):
                    return old
            by_passphrase = identity.protection == "passphrase"
            ids = identity.uuid, identity.kdk_id
            slot = self._seal(path, *ids, kdk, passphrase if by_passphrase else None)
            file = ProviderFile(name=identity.name, uuid=ids[0], kdk_id=ids[1], backed_up=True, slots=(slot,))
            self.save(file)
            return file

    def _seal(self, path: Path, ident: str, kdk_id: str, kdk: Secret, passphrase: Secret | None) -> Slot:
        if passphrase is None:
            return slots.seal_host(ident, kdk_id, kdk, path)
        refuse_empty(passphrase)
        return slots.seal_passphrase(ident, kdk_id, kdk, passphrase)

    def _opens(self, file: ProviderFile, passphrase: Secret | None, kdk: Secret) -> bool:
        """Whether a file that is here still gives the KDK, by this host or by that passphrase."""
        for own in (None, passphrase):
            with contextlib.suppress(KeyUnavailableError), self.open(file, own) as found:
                if found == kdk:
                    return True
        return False

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            files.remove_left(self.directory)
            yield
        finally:
            os.close(directory)


def _is_name(text: str) -> bool:
    try:
        msgspec.convert(text, Name)
    except msgspec.ValidationError:
        return False
    return True


def refuse_empty(passphrase: Secret) -> None:
    """Raises UsageError for a passphrase without content."""
    if len(passphrase) == 0:
        raise UsageError("an empty passphrase protects nothing")
