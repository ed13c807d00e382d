"""The replies of the keyd protocol."""

from __future__ import annotations

from typing import Annotated, Literal

from ioflt.types import MAX_KEY_ID
from ioflt.wire.failure import Failure
from ioflt.wire.keyd import providers
from ioflt.wire.keyd.values import (
    MAX_ACCESS,
    MAX_BATCH,
    MAX_EVENT_PAGE,
    MAX_EXPORT_PAGE,
    MAX_KEY_HOLDERS,
    MAX_LOCATED,
    MAX_PAGE,
    MAX_RECORD,
    MAX_STATEMENT,
    MAX_TAGS,
    MAX_USERS,
    MAX_VMX,
    MAX_WRITTEN,
    Batch,
    Blob,
    Count,
    DataKey,
    EventSink,
    ExportId,
    FileNumber,
    HomeId,
    Key,
    Message,
    Meta,
    OpenExport,
    ProviderName,
    Shown,
    Source,
    Struct,
    Tags,
    Time,
)


class Welcome(Message, frozen=True):
    """The version that both sides speak from now on."""

    version: int


class Text(Message, frozen=True):
    value: Annotated[str, Meta(max_length=4096)]


class Made(Message, frozen=True):
    key: Key


class GeneratedKey(Struct, frozen=True):
    key: DataKey
    blob: Blob


class Generated(Message, frozen=True):
    keys: Annotated[tuple[GeneratedKey, ...], Batch]


class Unwrapped(Message, frozen=True):
    """`keys` has the length of the batch; `keys[i]` is empty where `failures` has i."""

    keys: Annotated[tuple[DataKey, ...], Batch]
    failures: Annotated[dict[int, Failure], Batch]


class ConfigKey(Message, frozen=True):
    """Of a sealed VMX."""

    key: DataKey


class Proved(Message, frozen=True):
    """Why, of those items that are not proved."""

    failures: Annotated[dict[int, Failure], Batch]


class Checked(Message, frozen=True):
    """For each of the keys whether its MAC holds, or why that is not known."""

    results: Annotated[tuple[bool | Failure, ...], Meta(max_length=MAX_TAGS)]


class Sealed(Message, frozen=True):
    """The MACs, in the order of the keys."""

    tags: Tags


class Data(Message, frozen=True):
    value: Annotated[bytes, Meta(max_length=max(MAX_VMX, MAX_RECORD))]


class Located(Message, frozen=True):
    ids: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=MAX_KEY_ID)], ...], Meta(max_length=MAX_LOCATED)
    ]


class Erased(Message, frozen=True):
    """`destroyed`: on its servers; else its provider derives the key, and this host does without it."""

    destroyed: bool


class Generation(Message, frozen=True):
    """`value` is 0 when none was noted. `sure`: all were asked that may have noted one."""

    value: Count
    sure: bool


class KeyState(Struct, frozen=True):
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


class KeyStates(Message, frozen=True):
    states: Annotated[tuple[KeyState, ...], Batch]


class CacheStatus(Struct, frozen=True):
    """The keys of a provider that are sealed to this host: good for `days`, `keys` of them now.

    `by`: what seals them. `reason`: why the cache is of no use here; it is left as it is.
    """

    days: Count
    by: str
    keys: Count
    reason: str = ""


class ProviderStatus(Struct, frozen=True):
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


class Status(Message, frozen=True):
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


class User(Struct, frozen=True):
    """A process that is connected now, as the kernel saw it when it connected."""

    pid: Count
    uid: Count


class CachedKey(Struct, frozen=True):
    """A key in memory: where it is from, when its provider gave it, until when it is good, who used it.

    `users` are those who are connected now, `others` the number of those beside them.
    """

    key: Key
    source: Source
    fetched: Time
    expires: Time | None
    users: Annotated[tuple[User, ...], Meta(max_length=MAX_USERS)]
    others: Count


class CachedKeys(Message, frozen=True):
    """A page of them, in the order of their names; the last page is empty."""

    keys: Annotated[tuple[CachedKey, ...], Meta(max_length=MAX_PAGE)]


class KeyHolders(Message, frozen=True):
    home_ids: Annotated[tuple[HomeId, ...], Meta(max_length=MAX_KEY_HOLDERS)]


class EventLogSettings(Message, frozen=True):
    """`required`: what cannot be logged does not happen."""

    required: bool
    sink: EventSink


class EventPage(Message, frozen=True):
    """`data` is empty at the end of the file, `name` where there is no such file. `files`: how many are."""

    name: Annotated[str, Meta(max_length=32)]
    data: Annotated[bytes, Meta(max_length=MAX_EVENT_PAGE)]
    files: Count


class ExportBegun(Message, frozen=True):
    id: ExportId


class Exports(Message, frozen=True):
    """A page of them, by their ids; none: there are no more."""

    exports: Annotated[tuple[OpenExport, ...], Meta(max_length=MAX_EXPORT_PAGE)]


class VmWritten(Message, frozen=True):
    """Of stored files: device and inode number, offset and length in bytes. `more`: take again."""

    areas: Annotated[tuple[tuple[FileNumber, FileNumber, Count, Count], ...], Meta(max_length=MAX_WRITTEN)]
    more: bool


class Attested(Message, frozen=True):
    """The statement and its signature (`audit/SPEC.md`)."""

    statement: Annotated[bytes, Meta(max_length=MAX_STATEMENT)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


class ManifestSigned(Message, frozen=True):
    """The statement, its signature, and the key that verifies it (`format/manifest/SPEC.md`)."""

    statement: Annotated[bytes, Meta(max_length=MAX_STATEMENT)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]
    key: Annotated[str, Meta(max_length=1024)]


class Warnings(Message, frozen=True):
    lines: tuple[str, ...]


class Locked(Message, frozen=True):
    """What was open in locked mounts, and what of it could not be flushed."""

    open: tuple[str, ...]
    unflushed: tuple[str, ...]


class Access(Message, frozen=True):
    """Roles, permissions, folders and services in the form of `ioflt/access/SPEC.md`."""

    text: Annotated[bytes, Meta(max_length=MAX_ACCESS)]


class Explained(Message, frozen=True):
    allowed: bool
    why: Annotated[str, Meta(max_length=1 << 20)]


class Provider(Message, frozen=True):
    about: providers.About


class ProviderDefault(Message, frozen=True):
    """The provider of new keys, or why that is not clear, and the one that was chosen."""

    name: ProviderName | Failure
    chosen: ProviderName | None


class ProviderUse(Message, frozen=True):
    """VMs and datastores that have keys of a provider; and where other datastores of this host were last."""

    named: Annotated[tuple[Shown, ...], Meta(max_length=MAX_BATCH)]
    datastores: Annotated[tuple[Shown, ...], Meta(max_length=MAX_BATCH)]


class ServersShown(Message, frozen=True):
    shown: Annotated[tuple[providers.Shown, ...], Meta(max_length=providers.MAX_SERVERS)]


class Tried(Message, frozen=True):
    steps: Annotated[tuple[providers.Step, ...], Meta(max_length=providers.MAX_STEPS)]


class ProviderChanged(Message, frozen=True):
    """`text`: the certificate of a new private key, or a request for one; empty where there is none."""

    text: providers.Pem = ""


class Done(Message, frozen=True):
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
    | ManifestSigned
    | ExportBegun
    | Exports
    | VmWritten
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
