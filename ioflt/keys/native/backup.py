"""A native provider's KDK in a file to keep elsewhere: PKCS#12, and the JSON of ioflt's first version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from ioflt.crypto.secret import Secret
from ioflt.crypto.wrap import unwrap
from ioflt.errors import AuthenticationError, KeyNotUsable, MalformedError
from ioflt.format.pkcs12 import keystore
from ioflt.format.pkcs12.keystore import Entry
from ioflt.keys.native import slots
from ioflt.keys.native.file import BACKUP_FORMAT, BackupFile, ProviderFile, parse_backup
from ioflt.keys.provider_file import Name, Uuid

#: Longest backup, in bytes.
MAX_SIZE = keystore.MAX_SIZE

#: How a provider is opened: by the host, or by a person.
Protection = Literal["host", "passphrase"]

_NOTE = "ioflt-provider/1"
_WRONG = "wrong passphrase, or the backup was changed"


class _Checked(msgspec.Struct, frozen=True):
    name: Name
    uuid: Uuid
    kdk_id: Uuid
    protection: Protection


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose KDK it is, and how the provider was opened."""

    name: str
    uuid: str
    kdk_id: str
    protection: Protection

    @classmethod
    def of(cls, file: ProviderFile) -> Identity:
        by_person = all(map(slots.waits_for_secret, file.slots))
        return cls(file.name, file.uuid, file.kdk_id, "passphrase" if by_person else "host")

    @classmethod
    def checked(cls, name: str, uuid: str, kdk_id: str, protection: str) -> Identity:
        """The same from a file. Raises MalformedError "bad field"."""
        fields = {"name": name, "uuid": uuid, "kdk_id": kdk_id, "protection": protection}
        try:
            made = msgspec.convert(fields, _Checked)
        except msgspec.ValidationError as error:
            raise MalformedError("bad field", str(error)) from None
        return cls(made.name, made.uuid, made.kdk_id, made.protection)


def seal(identity: Identity, kdk: Secret, passphrase: Secret) -> bytes:
    """The backup. Raises UsageError for a passphrase that is not UTF-8."""
    note = " ".join((_NOTE, identity.uuid, identity.kdk_id, identity.protection, identity.name))
    return keystore.seal(Entry(identity.name, note, kdk), passphrase)


def open_(data: bytes, passphrase: Secret) -> tuple[Identity, Secret]:
    """What is in a backup of any version.

    Raises KeyNotUsable for a wrong passphrase; MalformedError, UnsupportedError.
    """
    if not data.startswith(b"\x30"):  # a DER sequence
        return _open_json(parse_backup(data), passphrase)
    try:
        entry = keystore.open_(data, passphrase)
    except AuthenticationError:
        raise KeyNotUsable(_WRONG) from None
    words = (entry.note or "").split(" ")
    if len(words) != 5 or words[0] != _NOTE:
        raise MalformedError("wrong format", "its key is not that of a provider")
    return Identity.checked(words[4], *words[1:4]), entry.key


def _open_json(backup: BackupFile, passphrase: Secret) -> tuple[Identity, Secret]:
    bound = "\0".join((f"{BACKUP_FORMAT} 1", backup.name, backup.uuid, backup.kdk_id)).encode()
    with slots.stretch(passphrase, backup.argon2) as key:
        try:
            kdk = unwrap(key, backup.blob, bound)
        except AuthenticationError:
            raise KeyNotUsable(_WRONG) from None
    if len(kdk) != keystore.KEY_SIZE:
        raise MalformedError("bad field", "a key of a wrong size")
    return Identity(backup.name, backup.uuid, backup.kdk_id, backup.protection), kdk
