"""The keys of which one record does not tell whose they are: several homes have them, or their home moved.

Kept in `shared-keys.json` (`wire/keyd/SPEC.md`), so that a keyd that starts knows what the one before knew.
Else who may read one of two VMs that share a key, and shows its record alone, would have the other's data
keys. Of all other keys the record that names them tells, and is shown again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from ioflt.access import principals
from ioflt.access.principals import Principal
from ioflt.errors import MalformedError, NotFoundError, UsageError
from ioflt.format.record.record import HomeRecord, Record
from ioflt.keys import files
from ioflt.types import KeyRef

#: Longest file: some 20,000 owners.
MAX_SIZE: Final = 4_000_000
#: Homes and datastores of one key.
MAX_OWNERS: Final = 256
#: Owners of all keys that one principal made known: whoever has a key makes records of any ids.
MAX_EACH: Final = 2_048

_Id: TypeAlias = Annotated[
    str, Meta(pattern="^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
]


@dataclass(frozen=True, slots=True)
class Owner:
    """A home, or a datastore (`vm` None), by their ids."""

    vm: str | None
    datastore: str

    @classmethod
    def of(cls, record: Record) -> Owner:
        """Whose that record is."""
        return cls(record.home_id if isinstance(record, HomeRecord) else None, record.datastore_id)

    @property
    def ident(self) -> str:
        """Its own id."""
        return self.vm or self.datastore


#: By key and id of the owner: the principal who made it known, if these are counted of him.
_By: TypeAlias = Mapping[tuple[KeyRef, str], str]

#: By the id of each: the generation of the record that said so, and where it is.
Owners: TypeAlias = Mapping[str, tuple[int, Owner]]


class _Owner(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    vm: _Id | None
    datastore: _Id
    generation: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]  # 0: of a record of format 1
    by: Annotated[str, Meta(min_length=1, max_length=9 + principals.MAX_NAME)] | None = None


class _Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    provider: Annotated[str, Meta(min_length=1, max_length=128)]
    key_id: Annotated[str, Meta(min_length=1, max_length=1024)]
    owners: Annotated[tuple[_Owner, ...], Meta(min_length=1, max_length=MAX_OWNERS)]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal[1]
    keys: tuple[_Key, ...]


class SharedKeys:
    """Over one file, which need not be there yet. Read when it is made; for one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Raises MalformedError, StorageError: then nobody knows whose keys are."""
        self._path = path
        self._keys, self._by = _read(path)
        self._saved = True

    def __contains__(self, key: KeyRef) -> bool:
        return key in self._keys

    def of(self, key: KeyRef) -> Owners:
        """Its owners; none: it is not kept here."""
        return self._keys.get(key, {})

    def note(self, key: KeyRef, owners: Owners, who: Principal | None) -> None:
        """Of these owners, for `save`: new ones by `who`, None: by who may make any number known. Raises
        UsageError, and notes nothing, when that is too much.

        That a record of the same owner became newer is nothing to write for.
        """
        if _places(self.of(key)) == _places(owners):
            return
        by = self._by
        if who is not None:
            new = {(key, ident): str(who) for ident in owners if ident not in self.of(key)}
            if len(new) + Counter(by.values())[str(who)] > MAX_EACH:
                raise UsageError(
                    f"{who} has told of too many VMs that share keys: give VMs keys of their own"
                )
            by = {**by, **new}
        kept = {**self._keys, key: owners}
        if len(_encoded(kept, by)) > MAX_SIZE:
            raise UsageError("no more VMs can share keys on this host: give VMs keys of their own")
        self._keys, self._by, self._saved = kept, by, False

    def save(self) -> None:
        """Durably, what was noted. Raises StorageError, and so does each call until it can be written."""
        if not self._saved:
            files.replace(self._path, _encoded(self._keys, self._by))
            self._saved = True


def _places(owners: Owners) -> frozenset[Owner]:
    return frozenset(owner for _, owner in owners.values())


def _encoded(keys: Mapping[KeyRef, Owners], by: _By) -> bytes:
    told = tuple(
        _Key(
            key.provider,
            key.key_id,
            tuple(
                _Owner(owner.vm, owner.datastore, generation, by.get((key, ident)))
                for ident, (generation, owner) in owners.items()
            ),
        )
        for key, owners in keys.items()
    )
    return msgspec.json.encode(_File(1, told))


def _read(path: Path) -> tuple[dict[KeyRef, Owners], _By]:
    try:
        data = files.read(path, MAX_SIZE)
        if len(data) > MAX_SIZE:
            raise MalformedError("oversized")
        found = msgspec.json.decode(data, type=_File)
        keys = {KeyRef(one.provider, one.key_id): _owners(one) for one in found.keys}
        if len(keys) != len(found.keys):
            raise MalformedError("twice", "a key")
    except NotFoundError:
        return {}, {}
    except (msgspec.MsgspecError, ValueError, MalformedError) as error:
        raise MalformedError("does not say which VMs share a key", str(error), file=path) from error
    by = {
        (KeyRef(one.provider, one.key_id), owner.vm or owner.datastore): owner.by
        for one in found.keys
        for owner in one.owners
        if owner.by is not None
    }
    return keys, by


def _owners(key: _Key) -> Owners:
    owners = {
        owner.ident: (one.generation, owner)
        for one in key.owners
        for owner in (Owner(one.vm, one.datastore),)
    }
    if len(owners) != len(key.owners):
        raise MalformedError("twice", "an owner")
    return owners
