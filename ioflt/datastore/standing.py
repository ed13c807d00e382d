"""What is known of a VM home, and how its files are stored."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ioflt.datastore.atomic import PRIVATE_DIR, RECORD
from ioflt.format.record.record import Deep, HomeRecord
from ioflt.types import HomeState, KeyRef

_PRIVATE = frozenset((RECORD, PRIVATE_DIR))


class Treatment(Enum):
    """How a regular file is stored."""

    CLEAR = "clear"
    CONTAINER = "container"
    VMX = "sealed VMX"


class Refusal(Enum):
    """Why a home with a valid record is not acted on."""

    ROLLED_BACK = "rolled back"
    COPIED = "copied"


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a home. `problem`: why it takes no writes, if it does not.

    Each of `keys` opens every file of it, and new files are made for all of them. `refusal`: its record is
    valid, but this host knows better than to act by it. `locked`: none of the keys can be had, and all this
    is what the record claims.
    """

    state: HomeState
    keys: tuple[KeyRef, ...]
    thick: bool
    problem: str | None
    record: HomeRecord | None
    refusal: Refusal | None = None
    locked: bool = False

    @property
    def integrity(self) -> bool:
        """Whether new containers get tags."""
        return self.record is not None and self.record.integrity

    @property
    def needs_tags(self) -> bool:
        """Whether no container opens without tags: one that has none was put there from before."""
        return self.integrity and self.record is not None and not isinstance(self.record.operation, Deep)

    @property
    def key(self) -> KeyRef:
        """The first of the keys."""
        return self.keys[0]


def is_private(name: str) -> bool:
    """Whether a name at the top of a home is ours, and hidden."""
    return name in _PRIVATE


def stored_as(name: str) -> Treatment:
    """How a file of that name is stored in an encrypted home."""
    return Treatment.VMX if name.lower().endswith(".vmx") else Treatment.CONTAINER
