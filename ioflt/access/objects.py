"""Objects: what a permission is on, and what an operation is about."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from ioflt.errors import UsageError

#: Longest text that shows an object.
MAX_SHOWN: Final = 4096

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FOLDER = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")


class TargetKind(StrEnum):
    EVERYTHING = "everything"
    FOLDER = "folder"
    DATASTORE = "datastore"
    VM = "vm"


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """What a permission is on.

    `id`: of a datastore or VM the UUID in its record, of a folder its name, of everything empty. `shown`: how
    it was called when someone last named it; two targets are the same whatever they are called.
    """

    kind: TargetKind
    id: str
    shown: str = field(compare=False)

    def __post_init__(self) -> None:
        if self.kind is TargetKind.EVERYTHING:
            sound = self.id == "" and self.shown == "everything"
        elif self.kind is TargetKind.FOLDER:
            sound = _FOLDER.fullmatch(self.id) is not None and self.shown == f"folder:{self.id}"
        else:
            sound = _UUID.fullmatch(self.id) is not None
        if not sound:
            raise UsageError(f"not a name of a {self.kind}: {ascii(self.id)[:80]}")
        if not 0 < len(self.shown) <= MAX_SHOWN:
            raise UsageError(f"a {self.kind} without a name, or with one longer than {MAX_SHOWN} characters")

    def __str__(self) -> str:
        return self.shown


#: What every permission on everything is on.
EVERYTHING: Final = Target(TargetKind.EVERYTHING, "", "everything")


def folder(name: str) -> Target:
    """A folder. Raises UsageError for what is no name of one: a-z 0-9 _ . - and at most 63 of them."""
    return Target(TargetKind.FOLDER, name, f"folder:{name}")


def datastore(datastore_id: str, shown: str) -> Target:
    return Target(TargetKind.DATASTORE, datastore_id, shown)


def vm(home_id: str, shown: str) -> Target:
    return Target(TargetKind.VM, home_id, shown)


@dataclass(frozen=True, slots=True)
class Place:
    """What an operation is about: a VM in a datastore, a datastore, a folder, or (all None) everything.

    `vm` is a home id, `datastore` a datastore id, `folder` a name. `shown` is for denials: "web01".
    """

    vm: str | None
    datastore: str | None
    shown: str
    folder: str | None = None


#: What is about no datastore.
ANYWHERE: Final = Place(None, None, "everything")
