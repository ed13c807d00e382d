"""The messages of the keyd protocol. SPEC.md says what each asks for and which errors answer it.

Fields that hold a key or a passphrase are bytearrays: who takes one out wipes it. No message shows its fields
in its repr.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from ioflt.types import MAX_KEY_ID, MAX_PROVIDER_NAME, KeyRef
from ioflt.wire.failure import Failure
from ioflt.wire.keyd import access, providers

#: The versions of the protocol that this side speaks.
VERSIONS = (2,)

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
HomeId = Annotated[str, Meta(pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
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


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Strict, and silent about its content."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class _Message(_Struct, frozen=True, tag_field="type", tag=str.lower):
    """A request or a reply, told apart by its `type`."""


class Key(_Struct, frozen=True):
    """A KeyRef on the wire."""

    provider: ProviderName
    key_id: Annotated[str, Meta(min_length=1, max_length=MAX_KEY_ID)]

    @classmethod
    def of(cls, ref: KeyRef) -> Key:
        return cls(ref.provider, ref.key_id)

    @property
    def ref(self) -> KeyRef:
        return KeyRef(self.provider, self.key_id)


class Wrapped(_Struct, frozen=True):
    """A wrapped DEK: the KEK it is under, the blob, the AAD it is bound to."""

    key: Key
    blob: Blob
    aad: Aad


# Requests


class Hello(_Message, frozen=True, omit_defaults=True):
    """→ Welcome. The first message of a connection.

    `operation`: what it is for; empty: single requests about keys. `as_principal`: for whom, if not for the
    user who connects. A message without the two is the one of version 1.
    """

    protocol: Literal["ioflt-keyd"]
    versions: Annotated[tuple[int, ...], Meta(min_length=1, max_length=16)]
    operation: Annotated[str, Meta(max_length=MAX_OPERATION)] = ""
    as_principal: Annotated[str, Meta(min_length=1, max_length=MAX_PRINCIPAL)] | None = None


class DefaultProvider(_Message, frozen=True):
    """→ Text: the name of the provider for new keys; makes `local` at first use."""


class NewKey(_Message, frozen=True):
    """→ Made. A new KEK of that provider, or of the default one.

    `within`: the id of a datastore whose folder's provider, if it has one, comes first.
    """

    provider: ProviderName | None = None
    within: HomeId | None = None


class UseKey(_Message, frozen=True):
    """→ Done: the KEK can be had, and new data may have it; its provider made it active if need be."""

    key: Key


class Generate(_Message, frozen=True):
    """→ Generated, one new DEK for each AAD."""

    key: Key
    aads: Annotated[tuple[Aad, ...], Batch]


class Unwrap(_Message, frozen=True):
    """→ Unwrapped, a DEK or a Failure for each item."""

    items: Annotated[tuple[Wrapped, ...], Batch]


class Rewrap(_Message, frozen=True):
    """→ Data: the same DEK under another KEK or bound to another AAD."""

    source: Wrapped
    key: Key
    aad: Aad


class CheckRecord(_Message, frozen=True):
    """→ Checked: whether each of the keys `by` has MACed that record, one of a clear home by any of its tags.

    keyd learns from a valid one whose the keys are. `shown`: what to call that home or datastore.
    """

    payload: Record
    tags: Tags
    by: Annotated[tuple[Key, ...], Meta(min_length=1, max_length=MAX_TAGS)]
    shown: Shown = ""


class SealRecord(_Message, frozen=True):
    """→ Sealed: the MACs of a record by each of the keys `by`, which takes the place of `old`.

    `old`: the whole file; None for a first record.
    """

    by: Annotated[tuple[Key, ...], Meta(min_length=1, max_length=MAX_TAGS)]
    old: Record | None
    payload: Record
    shown: Shown = ""


class Proof(_Struct, frozen=True):
    """A wrapped DEK, and the PBKDF2-SHA-256 digest of it that a LUKS2 header has."""

    wrapped: Wrapped
    salt: Annotated[bytes, Meta(min_length=1, max_length=MAX_SALT)]
    rounds: Annotated[int, Meta(ge=1, le=MAX_ROUNDS)]
    value: Tag


class Prove(_Message, frozen=True):
    """→ Proved: whether each wrapped DEK is what its digest says. No DEK is handed out."""

    items: Annotated[tuple[Proof, ...], Batch]


class ProveVmx(_Message, frozen=True):
    """→ Done: each of the keys opens the sealed VMX, and to the same content; no key: any that can be had."""

    text: Vmx
    by: Annotated[tuple[Key, ...], Meta(max_length=MAX_SAFE_KEYS)]


class SealVmx(_Message, frozen=True):
    """→ Data: the sealed text of a new file, with a configuration key of its own."""

    key: Key
    plaintext: Vmx
    file_id: Count


class RewrapVmx(_Message, frozen=True):
    """→ Data: the same sealed VMX with a key-safe pair for each of these keys, and no other."""

    text: Vmx
    keys: Annotated[tuple[Key, ...], Meta(min_length=1, max_length=MAX_SAFE_KEYS)]


class GetConfigKey(_Message, frozen=True):
    """→ ConfigKey of a sealed VMX, by that key of its key safe, or by any that can be had."""

    head: VmxHead
    key: Key | None = None


class GetKeyStates(_Message, frozen=True):
    """→ KeyStates, one for each key. `ask`: providers are asked, whatever is cached; else they are not."""

    keys: Annotated[tuple[Key, ...], Batch]
    ask: bool


class ForgetKey(_Message, frozen=True):
    """→ Done: the key is out of the cache; its provider is asked for it again when it is needed."""

    key: Key


class RemoveKey(_Message, frozen=True):
    """→ Done: the key is forgotten, and not asked for again on this host until `AddKey`."""

    key: Key


class AddKey(_Message, frozen=True):
    """→ Done: takes back a `RemoveKey`."""

    key: Key


class Criterion(_Struct, frozen=True):
    """An attribute of keys on key servers, and its value as a person writes it."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    text: Annotated[str, Meta(max_length=MAX_KEY_ID)]


class LocateKeys(_Message, frozen=True):
    """→ Located: keys that the servers of a provider show us, with all of these attributes."""

    provider: providers.Name
    criteria: Annotated[tuple[Criterion, ...], Meta(max_length=MAX_CRITERIA)]


class RevokeKey(_Message, frozen=True):
    """→ Done: its servers let nothing new have the key."""

    key: Key
    reason: Revocation


class DestroyKey(_Message, frozen=True):
    """→ Done: its servers have the key no more."""

    key: Key


class EraseKey(_Message, frozen=True):
    """→ Erased: the key of a VM that is erased, and of nothing else, is revoked, destroyed and forgotten."""

    key: Key
    home_id: HomeId


class NoteGeneration(_Message, frozen=True):
    """→ Done: noted with each of the keys whose provider keeps generations and could be asked."""

    keys: Annotated[tuple[Key, ...], Meta(min_length=1, max_length=MAX_HOME_KEYS)]
    home_id: HomeId
    generation: Count


class SeenGeneration(_Message, frozen=True):
    """→ Generation: the highest that was noted with one of the keys."""

    keys: Annotated[tuple[Key, ...], Meta(min_length=1, max_length=MAX_HOME_KEYS)]
    home_id: HomeId


class GetStatus(_Message, frozen=True):
    """→ Status."""


class GetCachedKeys(_Message, frozen=True):
    """→ CachedKeys: the first ones, or the next after that key."""

    after: Key | None = None


class SetKeyCache(_Message, frozen=True):
    """→ Done: keys of that provider are sealed to this host for so many days from now on; None: no more."""

    provider: ProviderName
    days: Annotated[int, Meta(ge=1, le=MAX_CACHE_DAYS)] | None


class GetPolicies(_Message, frozen=True):
    """→ Data: the text of the host's own storage policies (`policy/SPEC.md`)."""


class AddPolicy(_Message, frozen=True):
    """→ Done: the one storage policy in that text is kept."""

    text: Annotated[bytes, Meta(max_length=MAX_POLICIES)]


class RemovePolicy(_Message, frozen=True):
    """→ Done: the storage policy of that name is known no more."""

    name: Annotated[str, Meta(min_length=1, max_length=MAX_POLICY_NAME)]


class GetKeyHolders(_Message, frozen=True):
    """→ KeyHolders: the VMs that are marked as those from which the keys come."""


class MarkKeyHolder(_Message, frozen=True):
    """→ Done: that VM is marked so, or not any more."""

    home_id: HomeId
    holds: bool


class SetEventLog(_Message, frozen=True):
    """→ EventLogSettings: what they are once what is not None was changed."""

    required: bool | None = None
    sink: EventSink | None = None


class ReportedThing(_Struct, frozen=True):
    """What a reported event is about."""

    kind: Literal["vm", "datastore", "provider", "key"]
    id: ReportText
    shown: ReportText


class ReportedChange(_Struct, frozen=True, omit_defaults=True):
    """One value: None before it was added, or after it was deleted."""

    path: ReportText
    before: ReportText | None = None
    after: ReportText | None = None


class Report(_Struct, frozen=True, omit_defaults=True):
    """Of an event what keyd cannot see: it knows itself who reports, and when.

    `served_uid`: the user that a mount did it for.
    """

    operation: Annotated[str, Meta(min_length=1, max_length=MAX_OPERATION)]
    object: ReportedThing | None = None
    datastore: ReportedThing | None = None
    changes: Annotated[tuple[ReportedChange, ...], Meta(max_length=MAX_REPORT_CHANGES)] = ()
    outcome: Literal["done", "failed", "refused"] = "done"
    reason: ReportText | None = None
    served_uid: Annotated[int, Meta(ge=0, lt=2**32)] | None = None


class NoteEvents(_Message, frozen=True):
    """→ EventLogSettings: these are in the event log, and soon on disk."""

    events: Annotated[tuple[Report, ...], Meta(min_length=1, max_length=MAX_REPORTS)]


class ReadEvents(_Message, frozen=True, omit_defaults=True):
    """→ EventPage: of the event log's file of that number, from 0, what there is from `offset` on.

    `wait`: where that is no whole line, and there is no later file, the answer waits for one, for a while.
    `folder`: of the log of that folder.
    """

    file: Count
    offset: Count
    wait: bool = False
    folder: access.Name | None = None


class Attest(_Message, frozen=True):
    """→ Attested: a statement about the report of that SHA-256."""

    report: Tag


class GetAttestKey(_Message, frozen=True):
    """→ Text: the public key by which attestations are verified, in PEM."""


class GetWarnings(_Message, frozen=True):
    """→ Warnings."""


class Lock(_Message, frozen=True):
    """→ Locked."""

    mode: LockMode


class Unlock(_Message, frozen=True):
    """→ Done. No provider: unlock what `Lock` locked. A provider: open it with the passphrase."""

    provider: ProviderName | None
    passphrase: Passphrase | None


class Reload(_Message, frozen=True):
    """→ Done: provider files are read again."""


class Stop(_Message, frozen=True):
    """→ Done, and keyd ends."""


class GetAccess(_Message, frozen=True):
    """→ Access: what the one who asks may see of who may do what."""


class ChangeAccess(_Message, frozen=True):
    """→ Done: another permission, role, folder or service."""

    change: access.Change


class ExplainAccess(_Message, frozen=True):
    """→ Explained: whether `who` has the privilege on that object, and why."""

    who: access.Name
    privilege: access.Name
    on: access.Object


class GetProvider(_Message, frozen=True):
    """→ Provider: what may be known of it."""

    name: providers.Name


class GetProviderDefault(_Message, frozen=True):
    """→ ProviderDefault."""


class GetProviderUse(_Message, frozen=True):
    """→ ProviderUse: who needs it, as far as this keyd knows."""

    name: providers.Name


class LookAtServers(_Message, frozen=True):
    """→ ServersShown: the certificates that its key servers show now, unverified."""

    name: providers.Name


class TryProvider(_Message, frozen=True):
    """→ Tried: each step on each of its key servers; none for a provider of another kind."""

    name: providers.Name


class BackUpProvider(_Message, frozen=True):
    """→ Data: the key of a native provider under a passphrase, to be kept elsewhere."""

    asked: providers.BackUp


class ChangeProvider(_Message, frozen=True):
    """→ ProviderChanged: the provider's files are changed, and read again."""

    change: providers.Change


#: About key providers, for who administers them by keyd.
ProviderRequest = (
    GetProvider
    | GetProviderDefault
    | GetProviderUse
    | LookAtServers
    | TryProvider
    | BackUpProvider
    | ChangeProvider
)

#: About who may do what; no key is in them.
AccessRequest = GetAccess | ChangeAccess | ExplainAccess

#: All others.
KeyRequest = (
    DefaultProvider
    | NewKey
    | UseKey
    | Generate
    | Unwrap
    | Rewrap
    | CheckRecord
    | SealRecord
    | Prove
    | ProveVmx
    | SealVmx
    | RewrapVmx
    | GetConfigKey
    | GetKeyStates
    | ForgetKey
    | RemoveKey
    | AddKey
    | LocateKeys
    | RevokeKey
    | DestroyKey
    | EraseKey
    | NoteGeneration
    | SeenGeneration
    | GetStatus
    | GetCachedKeys
    | SetKeyCache
    | GetPolicies
    | AddPolicy
    | RemovePolicy
    | GetKeyHolders
    | MarkKeyHolder
    | SetEventLog
    | NoteEvents
    | ReadEvents
    | Attest
    | GetAttestKey
    | GetWarnings
    | Lock
    | Unlock
    | Reload
    | Stop
    | ProviderRequest
)

RequestBody = Hello | KeyRequest | AccessRequest


# Replies


class Welcome(_Message, frozen=True):
    """The version that both sides speak from now on."""

    version: int


class Text(_Message, frozen=True):
    value: Annotated[str, Meta(max_length=4096)]


class Made(_Message, frozen=True):
    key: Key


class GeneratedKey(_Struct, frozen=True):
    key: DataKey
    blob: Blob


class Generated(_Message, frozen=True):
    keys: Annotated[tuple[GeneratedKey, ...], Batch]


class Unwrapped(_Message, frozen=True):
    """`keys` has the length of the batch; `keys[i]` is empty where `failures` has i."""

    keys: Annotated[tuple[DataKey, ...], Batch]
    failures: Annotated[dict[int, Failure], Batch]


class ConfigKey(_Message, frozen=True):
    """Of a sealed VMX."""

    key: DataKey


class Proved(_Message, frozen=True):
    """Why, of those items that are not proved."""

    failures: Annotated[dict[int, Failure], Batch]


class Checked(_Message, frozen=True):
    """For each of the keys whether its MAC holds, or why that is not known."""

    results: Annotated[tuple[bool | Failure, ...], Meta(max_length=MAX_TAGS)]


class Sealed(_Message, frozen=True):
    """The MACs, in the order of the keys."""

    tags: Tags


class Data(_Message, frozen=True):
    value: Annotated[bytes, Meta(max_length=max(MAX_VMX, MAX_RECORD))]


class Located(_Message, frozen=True):
    ids: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=MAX_KEY_ID)], ...], Meta(max_length=MAX_LOCATED)
    ]


class Erased(_Message, frozen=True):
    """`destroyed`: on its servers; else its provider derives the key, and this host does without it."""

    destroyed: bool


class Generation(_Message, frozen=True):
    """`value` is 0 when none was noted. `sure`: all were asked that may have noted one."""

    value: Count
    sure: bool


class KeyState(_Struct, frozen=True):
    """`source`: keyd has it from there (None: it has not), until `expires` (None: its end, or a lock).

    `missing`: why its provider did not give it when it was last asked, and `since` when.
    `sealed`: until when a copy is good that is sealed to this host.
    """

    source: Source | None
    fetched: Time | None
    expires: Time | None
    sealed: Time | None
    missing: Failure | None
    since: Time | None


class KeyStates(_Message, frozen=True):
    states: Annotated[tuple[KeyState, ...], Batch]


class CacheStatus(_Struct, frozen=True):
    """The keys of a provider that are sealed to this host: good for `days`, `keys` of them now.

    `by`: what seals them. `reason`: why the cache is of no use here; it is left as it is.
    """

    days: Count
    by: str
    keys: Count
    reason: str = ""


class ProviderStatus(_Struct, frozen=True):
    """`state` is "ready", "locked" or "unavailable"; `reason` says why it is not ready.

    `cache` is None while no keys are sealed to this host.
    """

    name: ProviderName
    kind: str
    state: Literal["ready", "locked", "unavailable"]
    slots: tuple[str, ...]
    backed_up: bool
    reason: str = ""
    cache: CacheStatus | None = None


class Status(_Message, frozen=True):
    """`state` is "open" or "locked"; `memory` names what holds the KEKs.

    How many keys and connections there are, and what providers have to say, is not everybody's to see.
    """

    pid: int
    version: str
    state: Literal["open", "locked"]
    memory: str
    cached_keys: int | None
    connections: int | None
    providers: tuple[ProviderStatus, ...]


class User(_Struct, frozen=True):
    """A process that is connected now, as the kernel saw it when it connected."""

    pid: Count
    uid: Count


class CachedKey(_Struct, frozen=True):
    """A key in memory: where it is from, when its provider gave it, until when it is good, who used it.

    `users` are those who are connected now, `others` the number of those beside them.
    """

    key: Key
    source: Source
    fetched: Time
    expires: Time | None
    users: Annotated[tuple[User, ...], Meta(max_length=MAX_USERS)]
    others: Count


class CachedKeys(_Message, frozen=True):
    """A page of them, in the order of their names; the last page is empty."""

    keys: Annotated[tuple[CachedKey, ...], Meta(max_length=MAX_PAGE)]


class KeyHolders(_Message, frozen=True):
    home_ids: Annotated[tuple[HomeId, ...], Meta(max_length=MAX_KEY_HOLDERS)]


class EventLogSettings(_Message, frozen=True):
    """`required`: what cannot be logged does not happen."""

    required: bool
    sink: EventSink


class EventPage(_Message, frozen=True):
    """`data` is empty at the end of the file, `name` where there is no such file. `files`: how many are."""

    name: Annotated[str, Meta(max_length=32)]
    data: Annotated[bytes, Meta(max_length=MAX_EVENT_PAGE)]
    files: Count


class Attested(_Message, frozen=True):
    """The statement and its signature (`audit/SPEC.md`)."""

    statement: Annotated[bytes, Meta(max_length=MAX_STATEMENT)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


class Warnings(_Message, frozen=True):
    lines: tuple[str, ...]


class Locked(_Message, frozen=True):
    """What was open in locked mounts, and what of it could not be flushed."""

    open: tuple[str, ...]
    unflushed: tuple[str, ...]


class Access(_Message, frozen=True):
    """Roles, permissions, folders and services in the form of `ioflt/access/SPEC.md`."""

    text: Annotated[bytes, Meta(max_length=MAX_ACCESS)]


class Explained(_Message, frozen=True):
    allowed: bool
    why: Annotated[str, Meta(max_length=1 << 20)]


class Provider(_Message, frozen=True):
    about: providers.About


class ProviderDefault(_Message, frozen=True):
    """The provider of new keys, or why that is not clear, and the one that was chosen."""

    name: ProviderName | Failure
    chosen: ProviderName | None


class ProviderUse(_Message, frozen=True):
    """VMs and datastores that have keys of a provider; and where other datastores of this host were last."""

    named: Annotated[tuple[Shown, ...], Meta(max_length=MAX_BATCH)]
    datastores: Annotated[tuple[Shown, ...], Meta(max_length=MAX_BATCH)]


class ServersShown(_Message, frozen=True):
    shown: Annotated[tuple[providers.Shown, ...], Meta(max_length=providers.MAX_SERVERS)]


class Tried(_Message, frozen=True):
    steps: Annotated[tuple[providers.Step, ...], Meta(max_length=providers.MAX_STEPS)]


class ProviderChanged(_Message, frozen=True):
    """`text`: the certificate of a new private key, or a request for one; empty where there is none."""

    text: providers.Pem = ""


class Done(_Message, frozen=True):
    """It was done, and there is nothing to say about it."""


ReplyBody = (
    Welcome
    | Text
    | Made
    | Generated
    | Unwrapped
    | ConfigKey
    | Proved
    | Checked
    | Sealed
    | Data
    | KeyStates
    | Located
    | Erased
    | Generation
    | Status
    | CachedKeys
    | KeyHolders
    | EventLogSettings
    | EventPage
    | Attested
    | Warnings
    | Locked
    | Access
    | Explained
    | Provider
    | ProviderDefault
    | ProviderUse
    | ServersShown
    | Tried
    | ProviderChanged
    | Done
    | Failure
)


# What lies in a frame


class Request(_Struct, frozen=True):
    id: Annotated[int, Meta(ge=0, lt=2**32)]
    body: RequestBody


class Reply(_Struct, frozen=True):
    id: Annotated[int, Meta(ge=0, lt=2**32)]
    body: ReplyBody
