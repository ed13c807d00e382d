"""What records say, as frozen objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from ioflt.types import HomeState, KeyRef

#: Most keys of a home that is in no operation: every file has a token for each.
MAX_KEYS: Final = 4

#: Which way a conversion goes.
Direction = Literal["encrypt", "decrypt"]

#: How a deep recrypt writes: a new container beside the old one, or in place.
Mode = Literal["copy", "journal"]


@dataclass(frozen=True, slots=True)
class Current:
    """The file that an operation works on, and the UUID of its container: the one made, or dissolved."""

    path: str
    uuid: str


@dataclass(frozen=True, slots=True)
class Operation:
    """A conversion under way, of the whole home or of just the `files`, those of a disk.

    `pending`: paths in the home that are not converted yet.
    """

    kind: Direction
    id: str
    thick: bool
    pending: tuple[str, ...]
    current: Current | None
    files: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Recrypt:
    """A shallow recrypt under way: the tokens for `old` give way to tokens for `to`."""

    id: str
    old: tuple[KeyRef, ...]
    to: tuple[KeyRef, ...]

    @property
    def kind(self) -> Literal["recrypt"]:
        return "recrypt"


@dataclass(frozen=True, slots=True)
class Deep:
    """A deep recrypt under way. `pending`: paths in the home that are not rewritten yet."""

    id: str
    mode: Mode
    old: tuple[KeyRef, ...]
    to: tuple[KeyRef, ...]
    pending: tuple[str, ...]
    current: Current | None

    @property
    def kind(self) -> Literal["deep"]:
        return "deep"


@dataclass(frozen=True, slots=True)
class Move:
    """The home was copied: it goes once the home `home_id` is in the datastore `datastore_id`."""

    id: str
    home_id: str
    datastore_id: str

    @property
    def kind(self) -> Literal["move"]:
        return "move"


@dataclass(frozen=True, slots=True)
class Rename:
    """A rename under way that clear files take part in. It is done when nothing is at `old` any more."""

    old: str
    new: str

    @property
    def kind(self) -> Literal["rename"]:
        return "rename"


@dataclass(frozen=True, slots=True)
class DatastoreRecord:
    """`.ioflt` at the datastore's root. `default`: what files at the root and homes without a record are.

    `keys` are the datastore's KEKs, each of which opens every file at the root, and MACs this record and the
    records of clear homes. `generation` counts the changes; it is 0 in records of format 1.
    """

    datastore_id: str
    default: HomeState
    keys: tuple[KeyRef, ...]
    policy: str
    operation: Recrypt | None = None
    generation: int = 1

    @property
    def key(self) -> KeyRef:
        """The first of the keys."""
        return self.keys[0]


@dataclass(frozen=True, slots=True)
class HomeRecord:
    """`.ioflt` in a home. `keys` is empty and `names` has the directory's name exactly when it is clear.

    Each of `keys` opens every file, and new files get a token for each. Two names: a rename is under way.
    `thick`: new containers are made thick. `integrity`: all have tags, but those from before a deep recrypt
    that is under way. A home in the middle of an operation other than a move is ENCRYPTED, whichever way it
    goes. `clear_files`: paths of files that an encrypted home keeps clear on purpose, without those of a
    conversion and as they were before a rename that is under way. `generation` counts the changes; it is 0 in
    records of format 1.
    """

    home_id: str
    datastore_id: str
    state: HomeState
    keys: tuple[KeyRef, ...]
    names: tuple[str, ...]
    policy: str
    thick: bool
    operation: Operation | Recrypt | Deep | Move | Rename | None
    generation: int = 1
    clear_files: tuple[str, ...] = ()
    integrity: bool = False


Record = DatastoreRecord | HomeRecord
