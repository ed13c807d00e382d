"""The messages of a mount's control socket. SPEC.md says what each asks for.

Each frame from the client is a request, and each is answered by one frame, in order. Hello comes first.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from ioflt.wire.failure import Failure
from ioflt.wire.keyd.values import HomeId, Key

#: The version of this protocol. A mount answers a Hello with another one by UnsupportedError.
VERSION = 1

#: Longest path, in characters, and longest header backup, in bytes (the part before a container's data).
MAX_PATH = 4096
MAX_HEADER = 1 << 20

#: Most keys of one list.
MAX_KEYS = 16

#: Most paths of one list; longer lists are cut.
MAX_PATHS = 1024

#: Most areas, or written ones, of one reply.
MAX_AREAS = 1 << 16

Meta = msgspec.Meta

Path = Annotated[str, Meta(max_length=MAX_PATH)]
Paths = Annotated[tuple[Path, ...], Meta(max_length=MAX_PATHS)]
Passphrase = Annotated[bytearray, Meta(min_length=1, max_length=4096)]
KeyslotNumber = Annotated[int, Meta(ge=0, le=31)]
Sequence = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Offset = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Number = Annotated[int, Meta(ge=0)]
Uuid = Annotated[bytes, Meta(min_length=16, max_length=16)]
LockMode = Literal["refuse", "suspend", "force"]


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag=str.lower):
    """Strict, and silent about its content."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


# Requests. A path is relative to the datastore, as the mount shows it.


class Hello(_Message, frozen=True):
    """→ Status."""

    version: int


class Lock(_Message, frozen=True):
    """→ Locked, or Busy in mode "refuse" while files are open (and then nothing changed)."""

    mode: LockMode


class Unlock(_Message, frozen=True):
    """→ Done. Also when it was not locked."""


class AddKeyslot(_Message, frozen=True):
    """→ Keyslot. The mount makes a keyslot that this passphrase opens."""

    path: Path
    passphrase: Passphrase


class RemoveKeyslot(_Message, frozen=True):
    """→ Done."""

    path: Path
    number: KeyslotNumber


class RestoreHeader(_Message, frozen=True):
    """→ Done. Refused unless container UUID and key epoch of the backup match."""

    path: Path
    backup: Annotated[bytes, Meta(min_length=1, max_length=MAX_HEADER)]


class Rewrap(_Message, frozen=True):
    """→ Done. Each key of `ensure` opens the file from now on, no key of `drop`, others as before."""

    path: Path
    ensure: Annotated[tuple[Key, ...], Meta(min_length=1, max_length=MAX_KEYS)]
    drop: Annotated[tuple[Key, ...], Meta(max_length=MAX_KEYS)]


class Home(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A VM's: which directory of the datastore, as the host numbers it, and the id that its record has."""

    device: Number
    inode: Number
    id: HomeId


class Quiesce(_Message, frozen=True):
    """→ Done, when all data is on disk. Writes wait until Resume, or until the connection ends; not longer
    than `limit` seconds, if it is given: then Resume gets BusyError. `home`: all this of that VM alone, which
    first has had as long for itself as writes waited for it before; BusyError while they wait for another.
    """

    limit: Annotated[int, Meta(ge=1, le=3600)] | None
    home: Home | None = None


class Resume(_Message, frozen=True):
    """→ Done."""


class Watch(_Message, frozen=True):
    """→ Done. From now on the mount notes what is written to that VM, for this connection."""

    home: Home


class TakeWritten(_Message, frozen=True):
    """→ WrittenAreas, of what was noted since Watch or since it was taken last."""


class Invalidate(_Message, frozen=True):
    """→ Done. The file was changed under the mount: what is cached of it and is not open is dropped."""

    path: Path


class TrackChanges(_Message, frozen=True):
    """→ Tracked. From now on, or no more, of a file that is open for writing."""

    path: Path
    on: bool


class TakeChangeId(_Message, frozen=True):
    """→ ChangeIdTaken, of a sequence no lower than that."""

    path: Path
    at_least: Sequence


class ChangedAreas(_Message, frozen=True):
    """→ Areas, those that changed after the id of sequence `since`; None: those that are allocated."""

    path: Path
    since: Sequence | None
    start: Offset


RequestBody = (
    Hello
    | Lock
    | Unlock
    | AddKeyslot
    | RemoveKeyslot
    | RestoreHeader
    | Rewrap
    | Quiesce
    | Resume
    | Watch
    | TakeWritten
    | Invalidate
    | TrackChanges
    | TakeChangeId
    | ChangedAreas
)


# Replies


class Status(_Message, frozen=True):
    """The mount. `open_files` counts handles; `statistics` are counters since it was mounted."""

    datastore: Path
    mountpoint: Path
    pid: int
    read_only: bool
    locked: bool
    open_files: int
    statistics: dict[str, int]


class Locked(_Message, frozen=True):
    """It is locked. `open`: what has handles; `unflushed`: what of it could not be written back."""

    open: Paths
    unflushed: Paths


class Busy(_Message, frozen=True):
    """It is not locked, because these are open."""

    open: Paths


class Keyslot(_Message, frozen=True):
    number: KeyslotNumber


class Done(_Message, frozen=True):
    """It was done, and there is nothing to say about it."""


class Tracked(_Message, frozen=True):
    """`changed`: it was not so already."""

    changed: bool


class ChangeIdTaken(_Message, frozen=True):
    uuid: Uuid
    sequence: Sequence


class Areas(_Message, frozen=True):
    """Pairs (offset, length) of bytes, rising and apart: all that there is from `start` to `end`; behind that
    come others, unless it is `length`, the file's."""

    uuid: Uuid
    length: Offset
    areas: Annotated[tuple[tuple[Offset, Offset], ...], Meta(max_length=MAX_AREAS)]
    end: Offset


class WrittenAreas(_Message, frozen=True):
    """Of stored files: device and inode number, offset and length in bytes. `more`: take again."""

    areas: Annotated[tuple[tuple[Number, Number, Offset, Offset], ...], Meta(max_length=MAX_AREAS)]
    more: bool


ReplyBody = Status | Locked | Busy | Keyslot | Tracked | ChangeIdTaken | Areas | WrittenAreas | Done | Failure
