"""Native providers: make one, open it, back it up, restore it."""

from __future__ import annotations

import contextlib
import uuid
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
from ioflt.keys import files
from ioflt.keys.directory import ProviderDirectory
from ioflt.keys.native import backup, slots
from ioflt.keys.native.backup import Identity
from ioflt.keys.native.file import KIND, ProviderFile, Slot, parse_provider
from ioflt.keys.provider_file import kind_of, write


def reminder(name: str) -> str:
    """What the user must hear of a provider that was never backed up."""
    return f"the provider {name} was never backed up: without this host its keys are lost"


class NativeStore(ProviderDirectory):
    """The native providers in a directory, which is there and has mode 0700."""

    def load(self, name: str) -> ProviderFile:
        """A provider's file.

        Raises NotFoundError, UsageError for another kind, CorruptDataError, StorageError.
        """
        data = self.read(name)
        if kind_of(data) not in ("", KIND):
            raise UsageError(f"the provider {name} is not a native one: it has no slots, and no key to keep")
        file = parse_provider(data)
        if file.name != name:
            raise NotFoundError(f"the file is that of the provider {file.name}", file=self.path(name))
        return file

    def reminders(self) -> list[str]:
        """Of each provider that was never backed up. The directory need not be there."""
        found = []
        for name in self.names():
            with contextlib.suppress(IofltError, OSError):  # a broken one is told of where it is used
                if not self.load(name).backed_up:
                    found.append(reminder(name))
        return found

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


def refuse_empty(passphrase: Secret) -> None:
    """Raises UsageError for a passphrase without content."""
    if len(passphrase) == 0:
        raise UsageError("an empty passphrase protects nothing")
