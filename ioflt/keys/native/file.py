"""The native provider's file and its backup: bytes ↔ frozen objects. Layout, limits and reasons in SPEC.md.

Reasons: those of `keys.provider_file`, and "unknown slot", "no slot", "twice the same slot", "twice the same
PCR".
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from ioflt.errors import MalformedError, UnsupportedError
from ioflt.keys.provider_file import VERSION, Meta, Name, Uuid, convert, parse

KIND: Final = "native"

PROVIDER_FORMAT: Final = "ioflt native provider"
BACKUP_FORMAT: Final = "ioflt provider backup"
WrappedKey = Annotated[bytes, Meta(min_length=60, max_length=60)]  # nonce 12, key 32, tag 16


#: How to reach a TPM. The name before the colon is that of a library, so only known ones are taken.
Tcti = Annotated[str, Meta(pattern=r"^(device|swtpm|mssim|tabrmd):[!-~]{0,250}\Z")]
Pcrs = Annotated[tuple[Annotated[int, Meta(ge=0, le=23)], ...], Meta(min_length=1, max_length=24)]

#: A tang server, and the thumbprint (RFC 7638, SHA-256 or longer) of a key by which it signs.
TangUrl = Annotated[str, Meta(pattern=r"^https?://[!#-&(-~]{1,240}\Z")]
Thumbprint = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{43,86}\Z")]


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Argon2(_Struct, frozen=True, kw_only=True):
    """Argon2id's salt and costs. The limits keep a foreign file from taking the machine: 1 GiB, seconds."""

    salt: Annotated[bytes, Meta(min_length=16, max_length=64)]
    iterations: Annotated[int, Meta(ge=1, le=16)]
    lanes: Annotated[int, Meta(ge=1, le=16)]
    memory_kib: Annotated[int, Meta(ge=8192, le=1 << 20)]


class PassphraseSlot(_Struct, frozen=True, kw_only=True, tag_field="kind", tag="passphrase"):
    """Wrapped under Argon2id of a passphrase."""

    argon2: Argon2
    blob: WrappedKey


class KeyfileSlot(_Struct, frozen=True, kw_only=True, tag_field="kind", tag="keyfile"):
    """Wrapped under the 32 bytes of the file `<provider>.key` beside this one."""

    blob: WrappedKey


class CredentialSlot(_Struct, frozen=True, kw_only=True, tag_field="kind", tag="systemd-creds"):
    """Wrapped under 32 bytes that are sealed to this host as a systemd credential."""

    credential: Annotated[bytes, Meta(min_length=1, max_length=16384)]
    blob: WrappedKey


class Tpm2Slot(_Struct, frozen=True, kw_only=True, tag_field="kind", tag="tpm2"):
    """Wrapped under 32 bytes that a TPM 2.0 releases in one state of its PCRs, with `pin` for a PIN only."""

    tcti: Tcti
    pcrs: Pcrs
    pin: bool
    public: Annotated[bytes, Meta(min_length=1, max_length=1024)]
    private: Annotated[bytes, Meta(min_length=1, max_length=1024)]
    blob: WrappedKey


class TangSlot(_Struct, frozen=True, kw_only=True, tag_field="kind", tag="tang"):
    """Wrapped under 32 bytes that open with the help of a tang server only; `sealed` is clevis's JWE."""

    url: TangUrl
    sealed: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,16384}\Z")]
    blob: WrappedKey


Slot = PassphraseSlot | KeyfileSlot | CredentialSlot | Tpm2Slot | TangSlot
SLOT_KINDS = ("passphrase", "keyfile", "systemd-creds", "tpm2", "tang")

#: What `label_of` says of slots that wait for a passphrase or PIN.
SECRET_LABELS = ("passphrase", "tpm2+pin")


class ProviderFile(_Struct, frozen=True, kw_only=True):
    """One key derivation key (KDK), wrapped once for each way to open it."""

    format: Literal["ioflt native provider"] = PROVIDER_FORMAT
    version: Literal[1] = VERSION
    name: Name
    uuid: Uuid
    kdk_id: Uuid
    backed_up: bool
    slots: Annotated[tuple[Slot, ...], Meta(max_length=8)]


class BackupFile(_Struct, frozen=True, kw_only=True):
    """A KDK under a backup passphrase. `protection`: how the provider was opened ("host" or "passphrase")."""

    format: Literal["ioflt provider backup"] = BACKUP_FORMAT
    version: Literal[1] = VERSION
    name: Name
    uuid: Uuid
    kdk_id: Uuid
    protection: Literal["host", "passphrase"]
    argon2: Argon2
    blob: WrappedKey


def kind_of(slot: Slot) -> str:
    """The slot's kind, as in the file."""
    return str(slot.__struct_config__.tag)


def label_of(slot: Slot) -> str:
    """The slot's kind, and whether a PIN is needed too."""
    return "tpm2+pin" if isinstance(slot, Tpm2Slot) and slot.pin else kind_of(slot)


def parse_provider(data: bytes) -> ProviderFile:
    """A provider's file. Raises MalformedError, UnsupportedError."""
    value = parse(data, PROVIDER_FORMAT)
    slots = value.get("slots")
    for slot in slots if isinstance(slots, list) else ():
        if isinstance(slot, dict) and slot.get("kind") not in SLOT_KINDS:
            raise UnsupportedError("unknown slot", str(slot.get("kind"))[:64])
    file = convert(value, ProviderFile)
    if not file.slots:
        raise MalformedError("no slot")
    kinds = [kind_of(slot) for slot in file.slots]
    if len(set(kinds)) != len(kinds):
        raise MalformedError("twice the same slot")
    if any(isinstance(slot, Tpm2Slot) and len(set(slot.pcrs)) != len(slot.pcrs) for slot in file.slots):
        raise MalformedError("twice the same PCR")
    return file


def parse_backup(data: bytes) -> BackupFile:
    """A backup of a provider. Raises MalformedError, UnsupportedError."""
    return convert(parse(data, BACKUP_FORMAT), BackupFile)
