"""The ways to open a native provider: each slot wraps the same KDK under another key."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import assert_never

from ioflt.crypto.kdf import argon2id
from ioflt.crypto.rng import random_bytes
from ioflt.crypto.secret import Secret
from ioflt.crypto.wrap import unwrap, wrap
from ioflt.errors import AuthenticationError, BugError, KeyNotUsable, ProviderLocked, ProviderUnavailable
from ioflt.keys.files import replace
from ioflt.keys.native import credentials, tang, tpm
from ioflt.keys.native.file import (
    PROVIDER_FORMAT,
    SECRET_LABELS,
    Argon2,
    CredentialSlot,
    KeyfileSlot,
    PassphraseSlot,
    ProviderFile,
    Slot,
    TangSlot,
    Tpm2Slot,
    kind_of,
    label_of,
)
from ioflt.keys.provider_file import VERSION

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


def seal_tpm2(
    uuid: str, kdk_id: str, kdk: Secret, *, tcti: str, pcrs: Sequence[int], pin: Secret | None
) -> Tpm2Slot:
    """A slot under a random key that this machine's TPM releases in the state that its PCRs have now."""
    with Secret.random(_KEY) as key:
        public, private = tpm.seal(tcti, pcrs, pin, key)
        return Tpm2Slot(
            tcti=tcti,
            pcrs=tuple(pcrs),
            pin=pin is not None,
            public=public,
            private=private,
            blob=wrap(key, kdk, aad(uuid, kdk_id, "tpm2")),
        )


def seal_tang(uuid: str, kdk_id: str, kdk: Secret, *, url: str, thumbprint: str) -> TangSlot:
    """A slot under a random key that opens where the tang server is reached."""
    with Secret.random(_KEY) as key:
        sealed = tang.seal(url, thumbprint, key)
        return TangSlot(url=url, sealed=sealed, blob=wrap(key, kdk, aad(uuid, kdk_id, "tang")))


def waits_for_secret(slot: Slot) -> bool:
    """Whether a person must open the slot, by a passphrase or PIN."""
    return label_of(slot) in SECRET_LABELS


def open_slot(file: ProviderFile, slot: Slot, path: Path, secret: Secret | None = None) -> Secret:
    """The KDK by one slot, with its passphrase or PIN if it waits for one.

    Raises ProviderUnavailable, KeyNotUsable; ProviderLocked when the secret is missing.
    """
    if secret is None and waits_for_secret(slot):
        raise ProviderLocked(f"the provider {file.name} waits for its passphrase")
    try:
        with _slot_key(file, slot, path, secret) as key:
            if len(key) != _KEY:
                raise AuthenticationError("not a slot key", f"{len(key)} bytes")
            return unwrap(key, slot.blob, aad(file.uuid, file.kdk_id, kind_of(slot)))
    except AuthenticationError as error:
        if isinstance(slot, PassphraseSlot):
            raise KeyNotUsable(f"wrong passphrase for the provider {file.name}") from None
        if error.reason == tpm.WRONG_PIN:
            raise KeyNotUsable(f"wrong PIN for the provider {file.name}") from None
        raise KeyNotUsable(f"its key does not open here: {error.message}", file=path) from error


def open_by_host(file: ProviderFile, path: Path) -> Secret | None:
    """The KDK by the slots that need no passphrase; None when there are none.

    Raises ProviderUnavailable or KeyNotUsable when there are some and none opens.
    """
    own = [slot for slot in file.slots if not waits_for_secret(slot)]
    return _open_first(file, sorted(own, key=lambda slot: isinstance(slot, TangSlot)), path, None)


def open_by_passphrase(file: ProviderFile, passphrase: Secret, path: Path) -> Secret:
    """The KDK by the passphrase slot, or the TPM's when that is its PIN.

    Raises ProviderUnavailable, KeyNotUsable: there is no such slot, or the passphrase is wrong.
    """
    # A PIN last: a TPM counts wrong ones.
    waiting = sorted(filter(waits_for_secret, file.slots), key=lambda slot: isinstance(slot, Tpm2Slot))
    kdk = _open_first(file, waiting, path, passphrase)
    if kdk is None:
        raise KeyNotUsable(f"the provider {file.name} has no passphrase")
    return kdk


def _open_first(
    file: ProviderFile, candidates: Sequence[Slot], path: Path, secret: Secret | None
) -> Secret | None:
    """The KDK by the first slot that opens. When none does, what the first one says counts."""
    refusal: ProviderUnavailable | KeyNotUsable | None = None
    for slot in candidates:
        try:
            return open_slot(file, slot, path, secret)
        except (ProviderUnavailable, KeyNotUsable) as error:
            refusal = refusal or error
    if refusal is not None:
        raise refusal
    return None


def _slot_key(file: ProviderFile, slot: Slot, path: Path, secret: Secret | None) -> Secret:
    match slot:
        case PassphraseSlot():
            if secret is None:
                raise BugError("a passphrase slot without a passphrase")
            return stretch(secret, slot.argon2)
        case KeyfileSlot():
            return _read_keyfile(keyfile_of(path))
        case CredentialSlot():
            return credentials.unseal(_credential_name(file.uuid), slot.credential)
        case Tpm2Slot():
            pin = secret if slot.pin else None
            return tpm.unseal(slot.tcti, slot.pcrs, pin, slot.public, slot.private)
        case TangSlot():
            return tang.unseal(slot.url, slot.sealed)
    assert_never(slot)


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
