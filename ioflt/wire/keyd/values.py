"""Of the keyd protocol: limits, and what requests and replies are made of.

Fields that hold a key or a passphrase are bytearrays: who takes one out wipes it. No message shows its fields
in its repr.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from ioflt.types import MAX_KEY_ID, MAX_PROVIDER_NAME, KeyRef

#: Most items of one batch.
MAX_BATCH = 1024

#: Longest wrapped key (a DEK of 64 bytes needs 92) and longest AAD, in bytes.
MAX_BLOB = 1024
MAX_AAD = 1024

#: Longest text of a VMX, clear or sealed, and longest record with its MACs, in bytes.
MAX_VMX = 2 << 20
MAX_RECORD = 2 << 20

#: Most MACs of a record.
MAX_TAGS = 8

#: Longest name of an operation, of a principal, and of what a record is about, in characters.
MAX_OPERATION = 64
MAX_PRINCIPAL = 256
MAX_SHOWN = 4096

#: What is needed of a sealed VMX to open its key safe, in bytes from its start.
MAX_VMX_HEAD = 32 << 10

#: Most pairs of a VMX's key safe.
MAX_SAFE_KEYS = 16

#: Longest salt of a LUKS2 digest, and most rounds of its PBKDF2: as headers may have.
MAX_SALT = 64
MAX_ROUNDS = 1 << 20

#: Most keys of a home, in the middle of a recrypt.
MAX_HOME_KEYS = 8
#: Longest that a sealed key may be good, in days.
MAX_CACHE_DAYS = 365

#: Longest text of all roles and permissions, in bytes.
MAX_ACCESS = 4_000_000

#: Most keys of one page of `CachedKeys`, and most users that it names of one: a page has at most 3.4 MB.
MAX_PAGE = 256
MAX_USERS = 8

#: Longest text of storage policies, and longest name of one.
MAX_POLICIES = 1 << 20
MAX_POLICY_NAME = 128

#: Most bytes of the event log in one page.
MAX_EVENT_PAGE = 1 << 20

#: Longest statement about a report, in bytes.
MAX_STATEMENT = 32 << 10

#: Most attributes by which keys are looked for, and most keys that are found.
MAX_CRITERIA = 64
MAX_LOCATED = 1000

#: Most VMs that are marked as those from which the keys come.
MAX_KEY_HOLDERS = 256

#: Most events that are reported at once, longest text of one, and most values that it changed: a batch of the
#: longest fits a frame.
MAX_REPORTS = 100
MAX_REPORT_TEXT = 1024
MAX_REPORT_CHANGES = 2

#: Most exports in one page.
MAX_EXPORT_PAGE = 64

#: Seconds for which writes of a VM wait at the most, and most places that were written, in one reply.
MAX_HOLD_S = 30
MAX_WRITTEN = 1 << 16

#: Longest export or ticket of a virtual disk, and longest reason for its end, in characters.
MAX_EXPORT_TEXT = 1024

Meta = msgspec.Meta

Batch = Meta(max_length=MAX_BATCH)
Blob = Annotated[bytes, Meta(max_length=MAX_BLOB)]
Aad = Annotated[bytes, Meta(max_length=MAX_AAD)]
Vmx = Annotated[bytes, Meta(max_length=MAX_VMX)]
VmxHead = Annotated[bytes, Meta(max_length=MAX_VMX_HEAD)]
ProviderName = Annotated[str, Meta(min_length=1, max_length=MAX_PROVIDER_NAME)]
DataKey = Annotated[bytearray, Meta(max_length=64)]
Passphrase = Annotated[bytearray, Meta(max_length=4096)]
Record = Annotated[bytes, Meta(max_length=MAX_RECORD)]
Tag = Annotated[bytes, Meta(min_length=32, max_length=32)]
Tags = Annotated[tuple[Tag, ...], Meta(min_length=1, max_length=MAX_TAGS)]
Shown = Annotated[str, Meta(max_length=MAX_SHOWN)]
LockMode = Literal["refuse", "suspend", "force"]
#: Who is told of events besides the event log.
EventSink = Literal["none", "journal", "syslog"]
ReportText = Annotated[str, Meta(max_length=MAX_REPORT_TEXT)]
ExportText = Annotated[str, Meta(max_length=MAX_EXPORT_TEXT)]
#: How the clients of an export come to it.
ExportTransport = Literal["nbd", "nbdssl"]
ExportId = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
HomeId = Annotated[str, Meta(pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
#: Of a device or a file, as the host numbers it.
FileNumber = Annotated[int, Meta(ge=0)]
#: Why a key is revoked, as KMIP has it.
Revocation = Literal[
    "unspecified",
    "key-compromise",
    "affiliation-changed",
    "superseded",
    "cessation-of-operation",
    "privilege-withdrawn",
]
#: Seconds since 1970.
Time = Annotated[int, Meta(ge=0, lt=2**53)]
#: Where a cached key is from: its provider gave it to this keyd, or it was sealed to this host before.
Source = Literal["provider", "sealed"]


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Strict, and silent about its content."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class Message(Struct, frozen=True, tag_field="type", tag=str.lower):
    """A request or a reply, told apart by its `type`."""


class Key(Struct, frozen=True):
    """A KeyRef on the wire."""

    provider: ProviderName
    key_id: Annotated[str, Meta(min_length=1, max_length=MAX_KEY_ID)]

    @classmethod
    def of(cls, ref: KeyRef) -> Key:
        return cls(ref.provider, ref.key_id)

    @property
    def ref(self) -> KeyRef:
        return KeyRef(self.provider, self.key_id)


class Wrapped(Struct, frozen=True):
    """A wrapped DEK: the KEK it is under, the blob, the AAD it is bound to."""

    key: Key
    blob: Blob
    aad: Aad


class Signing(Struct, frozen=True, omit_defaults=True):
    """What a manifest that is to be signed is about: which VM, and where the backup is.

    `statement`, `signature`: of the manifest in whose place it comes.
    """

    home_id: HomeId
    shown: Shown
    place: Shown
    statement: Annotated[bytes, Meta(max_length=MAX_STATEMENT)] = b""
    signature: Annotated[bytes, Meta(max_length=64)] = b""


class OpenExport(Struct, frozen=True, omit_defaults=True):
    """A disk that is given out. `vm`: as it is shown; `principal`: whom it is for; `pid`: of its process.

    `since`: when it began; `ticket`, `until`: of its ticket, where it has one.
    """

    id: ExportId
    vm: Shown
    disk: ExportText
    principal: Shown
    pid: Count
    transport: ExportTransport
    since: Time
    ticket: ExportText | None = None
    until: Time | None = None
