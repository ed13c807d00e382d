"""Slots of a native provider: add one, remove one, change the passphrase, tell about them.

A slot is opened before it is trusted: a new one before it is written, those that stay before one is removed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from ioflt.crypto.secret import Secret
from ioflt.errors import BugError, ExistsError, KeyUnavailableError, NotFoundError, UsageError
from ioflt.keys import files
from ioflt.keys.native import slots, tpm
from ioflt.keys.native.file import (
    PassphraseSlot,
    Pcrs,
    ProviderFile,
    Slot,
    TangSlot,
    TangUrl,
    Tcti,
    Thumbprint,
    Tpm2Slot,
    kind_of,
    label_of,
)
from ioflt.keys.native.store import NativeStore, refuse_empty

Value = TypeVar("Value", str, tuple[int, ...])


@dataclass(frozen=True, slots=True)
class NewSlot:
    """What is wanted: the kind, its passphrase or PIN if it has one; where a TPM or tang server is."""

    kind: str
    secret: Secret | None = field(default=None, repr=False)
    tcti: str = tpm.DEVICE
    pcrs: tuple[int, ...] = tpm.PCRS
    url: str = ""
    thumbprint: str = ""


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """One slot. `state` is "opens", "waits" (for its passphrase or PIN) or "fails", then with the reason."""

    kind: str
    state: str
    detail: str
    reason: str


def listing(store: NativeStore, name: str) -> list[SlotStatus]:
    """All slots of a provider, those that need nobody tried now."""
    file = store.load(name)
    return [_status(file, slot, store.path(name)) for slot in file.slots]


def add(store: NativeStore, name: str, wanted: NewSlot, own: Secret | None = None) -> ProviderFile:
    """Add a slot to a provider that its host, or its own passphrase, opens. Returns what it is now.

    Raises ExistsError when it has one of that kind, KeyUnavailableError, UsageError, NotFoundError.
    """
    with store.writing():
        file = store.load(name)
        if any(kind_of(slot) == wanted.kind for slot in file.slots):
            raise ExistsError(f"the provider {name} has a slot of the kind {wanted.kind}")
        with store.open(file, own) as kdk:
            slot = _made(file, kdk, wanted, store.path(name))
            return _save(store, file, (*file.slots, slot))


def remove(store: NativeStore, name: str, kind: str, own: Secret | None = None) -> ProviderFile:
    """Remove the slot of that kind, once another one was opened: by the host, or by `own`. As `add`.

    Raises NotFoundError, KeyUnavailableError; UsageError for the last slot.
    """
    with store.writing():
        file = store.load(name)
        left = tuple(slot for slot in file.slots if kind_of(slot) != kind)
        if len(left) == len(file.slots):
            raise NotFoundError(f"the provider {name} has no slot of the kind {kind}")
        if not left:
            raise UsageError(f"this is the last slot of the provider {name}: without it nothing opens it")
        store.open(msgspec.structs.replace(file, slots=left), own).wipe()
        changed = _save(store, file, left)
        if kind == "keyfile":
            files.destroy(slots.keyfile_of(store.path(name)))
        return changed


def change_passphrase(
    store: NativeStore, name: str, new: Secret, own: Secret | None = None, *, seen: bytes | None = None
) -> ProviderFile:
    """Put another passphrase in place of the one that a provider has. The old one opens it no more. As `add`.

    Raises KeyUnavailableError; NotFoundError when it has none, UsageError for an empty one. `seen` as in
    `ProviderDirectory.writing`.
    """
    with store.writing(name, seen):
        file = store.load(name)
        if not any(isinstance(slot, PassphraseSlot) for slot in file.slots):
            raise NotFoundError(f"the provider {name} has no passphrase")
        with store.open(file, own) as kdk:
            changed = _made(file, kdk, NewSlot("passphrase", new), store.path(name))
        return _save(
            store,
            file,
            tuple(changed if isinstance(slot, PassphraseSlot) else slot for slot in file.slots),
        )


def _save(store: NativeStore, file: ProviderFile, changed: tuple[Slot, ...]) -> ProviderFile:
    file = msgspec.structs.replace(file, slots=changed)
    store.save(file)
    return file


def _made(file: ProviderFile, kdk: Secret, wanted: NewSlot, path: Path) -> Slot:
    """A new slot, which was opened once."""
    slot = _seal(file, kdk, wanted, path)
    with slots.open_slot(file, slot, path, wanted.secret) as again:
        if again != kdk:
            raise BugError(f"a slot of the kind {wanted.kind} that opens to another key")
    return slot


def _seal(file: ProviderFile, kdk: Secret, wanted: NewSlot, path: Path) -> Slot:
    whose = file.uuid, file.kdk_id, kdk
    if wanted.secret is not None:
        refuse_empty(wanted.secret)
    match wanted.kind:
        case "passphrase":
            if wanted.secret is None:
                raise UsageError("a passphrase slot without a passphrase")
            return slots.seal_passphrase(*whose, wanted.secret)
        case "keyfile":
            return slots.seal_keyfile(*whose, path)
        case "systemd-creds":
            return slots.seal_credential(*whose)
        case "tpm2":
            tcti = _checked(wanted.tcti, Tcti, "TCTI")
            pcrs = _checked(tuple(sorted(set(wanted.pcrs))), Pcrs, "PCRs")
            return slots.seal_tpm2(*whose, tcti=tcti, pcrs=pcrs, pin=wanted.secret)
        case "tang":
            url = _checked(wanted.url, TangUrl, "URL")
            thumbprint = _checked(wanted.thumbprint, Thumbprint, "thumbprint")
            return slots.seal_tang(*whose, url=url, thumbprint=thumbprint)
    raise UsageError(f"no kind of slot: {wanted.kind[:40]!r}")


def _checked(value: Value, kind: object, what: str) -> Value:
    """What a user named, if the provider's file could hold it."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise UsageError(f"not a {what} for a slot: {str(value)[:300]!r}") from None
    return value


def _status(file: ProviderFile, slot: Slot, path: Path) -> SlotStatus:
    state, reason = "opens", ""
    if slots.waits_for_secret(slot):
        state = "waits"
    else:
        try:
            slots.open_slot(file, slot, path).wipe()
        except KeyUnavailableError as error:
            state, reason = "fails", error.message
    return SlotStatus(label_of(slot), state, _detail(slot), reason)


def _detail(slot: Slot) -> str:
    match slot:
        case Tpm2Slot():
            return f"PCR {', '.join(map(str, slot.pcrs))} at {slot.tcti}"
        case TangSlot():
            return slot.url
    return ""
