"""The ways to open a native provider: each slot wraps the same KDK under another key."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ioflt.crypto.kdf import argon2id
from ioflt.crypto.rng import random_bytes
from ioflt.crypto.secret import Secret
from ioflt.crypto.wrap import unwrap, wrap
from ioflt.errors import AuthenticationError, KeyNotUsable, ProviderUnavailable
from ioflt.keys import credentials
from ioflt.keys.files import replace
from ioflt.keys.provider_file import (
    PROVIDER_FORMAT,
    VERSION,
    Argon2,
    CredentialSlot,
    KeyfileSlot,
    PassphraseSlot,
    ProviderFile,
    Slot,
    kind_of,
)

_KEY = 32

# RFC 9106 section 4, second recommendation: 64 MiB, 3 passes, 4 lanes; about 0.15 s.
_ITERATIONS, _LANES, _MEMORY_KIB, _SALT = 3, 4, 64 << 10, 16


def new_argon2() -> Argon2:
    """A fresh salt and today's costs."""
    return Argon2(salt=random_bytes(_SALT), iterations=_ITERATIONS, lanes=_LANES, memory_kib=_MEMORY_KIB)


def stretch(passphrase: Secret, argon2: Argon2) -> Secret:
    """The 32-byte key of a passphrase."""
    return argon2id(
        passphrase,
        argon2.salt,
        iterations=argon2.iterations,
        lanes=argon2.lanes,
        memory_kib=argon2.memory_kib,
        length=_KEY,
    )


def aad(uuid: str, kdk_id: str, kind: str) -> bytes:
    """What a slot's blob is bound to."""
    return "\0".join((f"{PROVIDER_FORMAT} {VERSION}", uuid, kdk_id, kind)).encode()


def keyfile_of(path: Path) -> Path:
    """The key file of the provider whose file is `path`."""
    return path.with_suffix(".key")


def seal_passphrase(uuid: str, kdk_id: str, kdk: Secret, passphrase: Secret) -> PassphraseSlot:
    """A slot that the passphrase opens."""
    argon2 = new_argon2()
    with stretch(passphrase, argon2) as key:
        return PassphraseSlot(argon2=argon2, blob=wrap(key, kdk, aad(uuid, kdk_id, "passphrase")))


def seal_host(uuid: str, kdk_id: str, kdk: Secret, path: Path) -> Slot:
    """A slot that this host opens by itself: a systemd credential where that works, else a key file."""
    if credentials.works():
        return seal_credential(uuid, kdk_id, kdk)
    return seal_keyfile(uuid, kdk_id, kdk, path)


def seal_credential(uuid: str, kdk_id: str, kdk: Secret) -> CredentialSlot:
    """A slot under a random key that systemd-creds seals to this host."""
    with Secret.random(_KEY) as key:
        blob = wrap(key, kdk, aad(uuid, kdk_id, "systemd-creds"))
        return CredentialSlot(credential=credentials.seal(_credential_name(uuid), key), blob=blob)


def seal_keyfile(uuid: str, kdk_id: str, kdk: Secret, path: Path) -> KeyfileSlot:
    """A slot under a random key in a file of mode 0600 beside the provider's."""
    with Secret.random(_KEY) as key:
        replace(keyfile_of(path), key.view())
        return KeyfileSlot(blob=wrap(key, kdk, aad(uuid, kdk_id, "keyfile")))


def open_by_host(file: ProviderFile, path: Path) -> Secret | None:
    """The KDK by the slots that need no passphrase; None when there are none.

    Raises ProviderUnavailable or KeyNotUsable when there are some and none opens.
    """
    refusal: ProviderUnavailable | KeyNotUsable | None = None
    for slot in file.slots:
        try:
            match slot:
                case KeyfileSlot():
                    key = _read_keyfile(keyfile_of(path))
                case CredentialSlot():
                    key = credentials.unseal(_credential_name(file.uuid), slot.credential)
                case PassphraseSlot():
                    continue
            with key:
                return _open(file, slot, key)
        except (ProviderUnavailable, KeyNotUsable) as error:
            refusal = error
        except AuthenticationError as error:
            refusal = KeyNotUsable(f"its key does not open here: {error.message}", file=path)
    if refusal is not None:
        raise refusal
    return None


def open_by_passphrase(file: ProviderFile, passphrase: Secret) -> Secret:
    """The KDK by the passphrase slot. Raises KeyNotUsable: there is none, or the passphrase is wrong."""
    slot = next((slot for slot in file.slots if isinstance(slot, PassphraseSlot)), None)
    if slot is None:
        raise KeyNotUsable(f"the provider {file.name} has no passphrase")
    with stretch(passphrase, slot.argon2) as key:
        try:
            return _open(file, slot, key)
        except AuthenticationError:
            raise KeyNotUsable(f"wrong passphrase for the provider {file.name}") from None


def _open(file: ProviderFile, slot: Slot, key: Secret) -> Secret:
    return unwrap(key, slot.blob, aad(file.uuid, file.kdk_id, kind_of(slot)))


def _credential_name(uuid: str) -> str:
    return f"ioflt-{uuid}"


def _read_keyfile(path: Path) -> Secret:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ProviderUnavailable(f"its key file cannot be read: {error.strerror}", file=path) from error
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_size != _KEY:
            raise KeyNotUsable("this is no key file", file=path)
        if about.st_mode & 0o077 or about.st_uid not in (0, os.geteuid()):
            raise KeyNotUsable("others may read or change its key file", file=path)
        key = Secret.allocate(_KEY)
        os.readv(descriptor, [key.buffer()])
        return key
    finally:
        os.close(descriptor)
