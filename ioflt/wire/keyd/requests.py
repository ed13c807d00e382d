"""The requests of the keyd protocol. SPEC.md says what each asks for and which errors answer it.

One list, long as it is: a request is a few lines without logic, and whoever looks for one looks here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from ioflt.types import MAX_KEY_ID
from ioflt.wire.keyd import access, providers
from ioflt.wire.keyd.values import (
    MAX_CACHE_DAYS,
    MAX_CRITERIA,
    MAX_HOLD_S,
    MAX_HOME_KEYS,
    MAX_OPERATION,
    MAX_POLICIES,
    MAX_POLICY_NAME,
    MAX_PRINCIPAL,
    MAX_REPORT_CHANGES,
    MAX_REPORTS,
    MAX_ROUNDS,
    MAX_SAFE_KEYS,
    MAX_SALT,
    MAX_TAGS,
    Aad,
    Batch,
    Count,
    EventSink,
    ExportId,
    ExportText,
    ExportTransport,
    FileNumber,
    HomeId,
    Key,
    LockMode,
    Message,
    Meta,
    Passphrase,
    ProviderName,
    Record,
    ReportText,
    Revocation,
    Shown,
    Signing,
    Struct,
    Tag,
    Tags,
    Time,
    Vmx,
    VmxHead,
    Wrapped,
)


class Hello(Message, frozen=True, omit_defaults=True):
    """→ Welcome. The first message of a connection.

    `operation`: what it is for; empty: single requests about keys. `as_principal`: for whom, if not for the
    user who connects. A message without the two is the one of version 1.
    """

    protocol: Literal["ioflt-keyd"]
    versions: Annotated[tuple[int, ...], Meta(min_length=1, max_length=16)]
    operation: Annotated[str, Meta(max_length=MAX_OPERATION)] = ""
    as_principal: Annotated[str, Meta(min_length=1, max_length=MAX_PRINCIPAL)] | None = None


class DefaultProvider(Message, frozen=True):
    """→ Text: the name of the provider for new keys; makes `local` at first use."""


class NewKey(Message, frozen=True):
    """→ Made. A new KEK of that provider, or of the default one.

    `within`: the id of a datastore whose folder's provider, if it has one, comes first.
    """

    provider: ProviderName | None = None
    within: HomeId | None = None


class UseKey(Message, frozen=True):
    """→ Done: the KEK can be had, and new data may have it; its provider made it active if need be."""

    key: Key


class Generate(Message, frozen=True):
    """→ Generated, one new DEK for each AAD."""

    key: Key
    aads: Annotated[tuple[Aad, ...], Batch]


class Unwrap(Message, frozen=True):
    """→ Unwrapped, a DEK or a Failure for each item."""

    items: Annotated[tuple[Wrapped, ...], Batch]


class Rewrap(Message, frozen=True):
    """→ Data: the same DEK under another KEK or bound to another AAD."""

    source: Wrapped
    key: Key
    aad: Aad


class CheckRecord(Message, frozen=True):
    """→ Checked: whether each of the keys `by` has MACed that record, one of a clear home by any of its tags.

    keyd learns from a valid one whose the keys are. `shown`: what to call that home or datastore.
    """

    payload: Record
    tags: Tags
    by: Annotated[tuple[Key, ...], Meta(min_length=1, max_length=MAX_TAGS)]
    shown: Shown = ""


class SealRecord(Message, frozen=True):
    """→ Sealed: the MACs of a record by each of the keys `by`, which takes the place of `old`.

    `old`: the whole file; None for a first record.
    """

    by: Annotated[tuple[Key, ...], Meta(min_length=1, max_length=MAX_TAGS)]
    old: Record | None
    payload: Record
    shown: Shown = ""


class Proof(Struct, frozen=True):
    """A wrapped DEK, and the PBKDF2-SHA-256 digest of it that a LUKS2 header has."""

    wrapped: Wrapped
    salt: Annotated[bytes, Meta(min_length=1, max_length=MAX_SALT)]
    rounds: Annotated[int, Meta(ge=1, le=MAX_ROUNDS)]
    value: Tag


class Prove(Message, frozen=True):
    """→ Proved: whether each wrapped DEK is what its digest says. No DEK is handed out."""

    items: Annotated[tuple[Proof, ...], Batch]


class ProveVmx(Message, frozen=True):
    """→ Done: each of the keys opens the sealed VMX, and to the same content; no key: any that can be had."""

    text: Vmx
    by: Annotated[tuple[Key, ...], Meta(max_length=MAX_SAFE_KEYS)]


class SealVmx(Message, frozen=True):
    """→ Data: the sealed text of a new file, with a configuration key of its own."""

    key: Key
    plaintext: Vmx
    file_id: Count


class RewrapVmx(Message, frozen=True):
    """→ Data: the same sealed VMX with a key-safe pair for each of these keys, and no other."""

    text: Vmx
    keys: Annotated[tuple[Key, ...], Meta(min_length=1, max_length=MAX_SAFE_KEYS)]


class GetConfigKey(Message, frozen=True):
    """→ ConfigKey of a sealed VMX, by that key of its key safe, or by any that can be had."""

    head: VmxHead
    key: Key | None = None


class GetKeyStates(Message, frozen=True):
    """→ KeyStates, one for each key. `ask`: providers are asked, whatever is cached; else they are not."""

    keys: Annotated[tuple[Key, ...], Batch]
    ask: bool


class ForgetKey(Message, frozen=True):
    """→ Done: the key is out of the cache; its provider is asked for it again when it is needed."""

    key: Key


class RemoveKey(Message, frozen=True):
    """→ Done: the key is forgotten, and not asked for again on this host until `AddKey`."""

    key: Key


class AddKey(Message, frozen=True):
    """→ Done: takes back a `RemoveKey`."""

    key: Key


class Criterion(Struct, frozen=True):
    """An attribute of keys on key servers, and its value as a person writes it."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    text: Annotated[str, Meta(max_length=MAX_KEY_ID)]


class LocateKeys(Message, frozen=True):
    """→ Located: keys that the servers of a provider show us, with all of these attributes."""

    provider: providers.Name
    criteria: Annotated[tuple[Criterion, ...], Meta(max_length=MAX_CRITERIA)]


class RevokeKey(Message, frozen=True):
    """→ Done: its servers let nothing new have the key."""

    key: Key
    reason: Revocation


class DestroyKey(Message, frozen=True):
    """→ Done: its servers have the key no more."""

    key: Key


class EraseKey(Message, frozen=True):
    """→ Erased: the key of a VM that is erased, and of nothing else, is revoked, destroyed and forgotten."""

    key: Key
    home_id: HomeId


class NoteGeneration(Message, frozen=True):
    """→ Done: noted with each of the keys whose provider keeps generations and could be asked."""

    keys: Annotated[tuple[Key, ...], Meta(min_length=1, max_length=MAX_HOME_KEYS)]
    home_id: HomeId
    generation: Count


class SeenGeneration(Message, frozen=True):
    """→ Generation: the highest that was noted with one of the keys."""

    keys: Annotated[tuple[Key, ...], Meta(min_length=1, max_length=MAX_HOME_KEYS)]
    home_id: HomeId


class GetStatus(Message, frozen=True):
    """→ Status."""


class GetCachedKeys(Message, frozen=True):
    """→ CachedKeys: the first ones, or the next after that key."""

    after: Key | None = None


class SetKeyCache(Message, frozen=True):
    """→ Done: keys of that provider are sealed to this host for so many days from now on; None: no more."""

    provider: ProviderName
    days: Annotated[int, Meta(ge=1, le=MAX_CACHE_DAYS)] | None


class GetPolicies(Message, frozen=True):
    """→ Data: the text of the host's own storage policies (`policy/SPEC.md`)."""


class AddPolicy(Message, frozen=True):
    """→ Done: the one storage policy in that text is kept."""

    text: Annotated[bytes, Meta(max_length=MAX_POLICIES)]


class RemovePolicy(Message, frozen=True):
    """→ Done: the storage policy of that name is known no more."""

    name: Annotated[str, Meta(min_length=1, max_length=MAX_POLICY_NAME)]


class GetKeyHolders(Message, frozen=True):
    """→ KeyHolders: the VMs that are marked as those from which the keys come."""


class MarkKeyHolder(Message, frozen=True):
    """→ Done: that VM is marked so, or not any more."""

    home_id: HomeId
    holds: bool


class SetEventLog(Message, frozen=True):
    """→ EventLogSettings: what they are once what is not None was changed."""

    required: bool | None = None
    sink: EventSink | None = None


class ReportedThing(Struct, frozen=True):
    """What a reported event is about."""

    kind: Literal["vm", "datastore", "provider", "key"]
    id: ReportText
    shown: ReportText


class ReportedChange(Struct, frozen=True, omit_defaults=True):
    """One value: None before it was added, or after it was deleted."""

    path: ReportText
    before: ReportText | None = None
    after: ReportText | None = None


class Report(Struct, frozen=True, omit_defaults=True):
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


class NoteEvents(Message, frozen=True):
    """→ EventLogSettings: these are in the event log, and soon on disk."""

    events: Annotated[tuple[Report, ...], Meta(min_length=1, max_length=MAX_REPORTS)]


class ReadEvents(Message, frozen=True, omit_defaults=True):
    """→ EventPage: of the event log's file of that number, from 0, what there is from `offset` on.

    `wait`: where that is no whole line, and there is no later file, the answer waits for one, for a while.
    `folder`: of the log of that folder.
    """

    file: Count
    offset: Count
    wait: bool = False
    folder: access.Name | None = None


class Attest(Message, frozen=True):
    """→ Attested: a statement about the report of that SHA-256."""

    report: Tag


class SignManifest(Message, frozen=True):
    """→ ManifestSigned: a statement about the backup's manifest of that SHA-256."""

    manifest: Tag
    about: Signing


class MaySign(Message, frozen=True):
    """→ Done: `SignManifest` is permitted."""

    about: Signing


class GetManifestKey(Message, frozen=True):
    """→ Text: the public key by which statements about manifests are verified, in PEM."""


class GetAttestKey(Message, frozen=True):
    """→ Text: the public key by which attestations are verified, in PEM."""


class BeginExport(Message, frozen=True, omit_defaults=True):
    """→ ExportBegun: a disk of that VM is given out by this connection's process, until that is gone.

    `key`: one of the VM's, None for a clear one. `ticket`: by which its client is known, and `until` when.
    """

    home_id: HomeId
    datastore_id: HomeId
    shown: Shown
    disk: ExportText
    transport: ExportTransport
    key: Key | None = None
    ticket: ExportText | None = None
    until: Time | None = None


class GetExports(Message, frozen=True):
    """→ Exports: those that are open and may be seen, with ids after that one."""

    after: ExportId | None = None


class AwaitExport(Message, frozen=True):
    """→ Failure: why the export that this connection began has to end, once it has to."""


class EndExport(Message, frozen=True):
    """→ Done: an export of the process that asks is over, and why."""

    id: ExportId
    reason: ExportText


class WatchVm(Message, frozen=True):
    """→ Done: the mounts of that VM note what is written to it, until this connection ends.

    `device`, `inode`: of its directory.
    """

    home_id: HomeId
    shown: Shown
    device: FileNumber
    inode: FileNumber


class TakeVmWritten(Message, frozen=True):
    """→ VmWritten: what was noted since WatchVm, or since it was taken last."""


class HoldVm(Message, frozen=True):
    """→ Done: its writes wait until ResumeVm, until this connection ends, or for `limit` seconds."""

    limit: Annotated[int, Meta(ge=1, le=MAX_HOLD_S)]


class ResumeVm(Message, frozen=True):
    """→ Done: it went on now. BusyError: it did before, or another mount of it began."""


class GetWarnings(Message, frozen=True):
    """→ Warnings."""


class Lock(Message, frozen=True):
    """→ Locked."""

    mode: LockMode


class Unlock(Message, frozen=True):
    """→ Done. No provider: unlock what `Lock` locked. A provider: open it with the passphrase."""

    provider: ProviderName | None
    passphrase: Passphrase | None


class Reload(Message, frozen=True):
    """→ Done: provider files are read again."""


class Stop(Message, frozen=True):
    """→ Done, and keyd ends."""


class GetAccess(Message, frozen=True):
    """→ Access: what the one who asks may see of who may do what."""


class ChangeAccess(Message, frozen=True):
    """→ Done: another permission, role, folder or service."""

    change: access.Change


class ExplainAccess(Message, frozen=True):
    """→ Explained: whether `who` has the privilege on that object, and why."""

    who: access.Name
    privilege: access.Name
    on: access.Object


class GetProvider(Message, frozen=True):
    """→ Provider: what may be known of it."""

    name: providers.Name


class GetProviderDefault(Message, frozen=True):
    """→ ProviderDefault."""


class GetProviderUse(Message, frozen=True):
    """→ ProviderUse: who needs it, as far as this keyd knows."""

    name: providers.Name


class LookAtServers(Message, frozen=True):
    """→ ServersShown: the certificates that its key servers show now, unverified."""

    name: providers.Name


class TryProvider(Message, frozen=True):
    """→ Tried: each step on each of its key servers; none for a provider of another kind."""

    name: providers.Name


class BackUpProvider(Message, frozen=True):
    """→ Data: the key of a native provider under a passphrase, to be kept elsewhere."""

    asked: providers.BackUp


class ChangeProvider(Message, frozen=True):
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

#: All others but AwaitExport.
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
    | SignManifest
    | MaySign
    | GetManifestKey
    | BeginExport
    | EndExport
    | WatchVm
    | TakeVmWritten
    | HoldVm
    | ResumeVm
    | GetExports
    | GetWarnings
    | Lock
    | Unlock
    | Reload
    | Stop
    | ProviderRequest
)

RequestBody = Hello | KeyRequest | AccessRequest | AwaitExport
