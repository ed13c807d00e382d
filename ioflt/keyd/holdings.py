"""Whose keys are whose: what keyd learned from valid records, and what it made for whom.

A record is believed about the keys that have MACed it, and about nothing else: another one that claims to be
of the same home, under other keys, changes nothing for these, and what it only names is not its. So who has a
key himself, as a tenant with key servers of his own does, gets no other one by what he MACs. A key that two
homes have belongs to both.

In memory, and bounded: what is forgotten has to be shown again, but for what no single record tells, which is
kept (`shared_keys`). Safe for several threads: one lock, held for a few dictionary accesses, and while a
file is written when a key gets another owner.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from ioflt.access.objects import Place
from ioflt.access.principals import Principal
from ioflt.access.transitions import keys_of
from ioflt.errors import UsageError
from ioflt.format.record.record import DatastoreRecord, HomeRecord, Record
from ioflt.keyd.shared_keys import MAX_OWNERS, Owner, Owners, SharedKeys
from ioflt.types import HomeState, KeyRef

#: Keys whose owners are known at once, and names of homes and datastores.
MAX_KNOWN = 65_536
#: Keys of a datastore, the last ones.
MAX_DATASTORE_KEYS = 256
#: New keys, and digests of wrapped data keys, that one principal made.
MAX_MADE = 4_096
#: Principals of whom that is kept.
MAX_PRINCIPALS = 256

_Name = TypeVar("_Name")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class _Datastore:
    keys: tuple[KeyRef, ...]
    default: HomeState
    generation: int


@dataclass(frozen=True, slots=True)
class Home:
    """By the record of it that is believed: the keys that MAC that (none: its datastore's), all it names,
    where the home is, and how far it came.
    """

    keys: frozenset[KeyRef]
    named: frozenset[KeyRef]
    datastore: str
    generation: int

    @classmethod
    def of(cls, record: HomeRecord) -> Home:
        """What that record says."""
        return cls(frozenset(record.keys), keys_of(record), record.datastore_id, record.generation)


@dataclass(slots=True)
class _Made:
    """By one principal: keys, digests of wrapped data keys, and ids of homes; True: by a first record."""

    keys: OrderedDict[KeyRef, None] = field(default_factory=OrderedDict)
    blobs: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    homes: OrderedDict[str, bool] = field(default_factory=OrderedDict)


class Holdings:
    def __init__(self, shared: SharedKeys) -> None:
        self._lock = threading.Lock()
        self._shared = shared
        #: By key and by the id of whose it is: the newest generation of a record that names it, and where.
        self._held: OrderedDict[KeyRef, Owners] = OrderedDict()
        self._datastores: OrderedDict[str, _Datastore] = OrderedDict()
        self._shown: OrderedDict[str, str] = OrderedDict()
        self._homes: OrderedDict[str, Home] = OrderedDict()
        self._made: OrderedDict[Principal, _Made] = OrderedDict()

    # Records

    def learn(
        self,
        record: Record,
        by: Collection[KeyRef],
        shown: str,
        *,
        vouched: bool,
        registers: bool = False,
        after: Collection[KeyRef] = (),
        who: Principal | None = None,
    ) -> None:
        """From a valid record, which has the MACs of those keys. `vouched`: by who may do all anyway.

        `registers`: by who says that a datastore or a home has other keys than those that are known. `after`:
        keyd seals it in the place of one that has the MACs of these. `who`: of whom owners of shared keys are
        counted, None: of nobody.

        Raises StorageError, and UsageError for one more owner than can be kept: the keyd that starts next
        would not know whose the keys are.
        """
        owner = Owner.of(record)
        keys = tuple(key for key in record.keys if key in by)
        with self._lock:
            if shown and (vouched or owner.ident not in self._shown):
                _keep(self._shown, owner.ident, shown, MAX_KNOWN)
            if isinstance(record, DatastoreRecord):
                self._learn_datastore(record, keys, registers=vouched or registers)
            else:
                self._learn_home(record, by, registers=registers, after=after)
            try:
                for key in keys:
                    self._learn_owner(key, record.generation, owner, who)
            finally:
                self._shared.save()

    def _learn_owner(self, key: KeyRef, generation: int, owner: Owner, who: Principal | None) -> None:
        held = self._held.get(key) or self._shared.of(key)
        known = held.get(owner.ident)
        if known is None and len(held) >= MAX_OWNERS:
            raise UsageError(f"more than {MAX_OWNERS} VMs cannot share a key: give this one a key of its own")
        if known is None or generation >= known[0]:
            held = {**held, owner.ident: (generation, owner)}
        if len(held) > 1 or key in self._shared or (known is not None and known[1] != held[owner.ident][1]):
            self._shared.note(key, held, who)
        _keep(self._held, key, held, MAX_KNOWN)

    def _learn_home(
        self, record: HomeRecord, by: Collection[KeyRef], *, registers: bool, after: Collection[KeyRef]
    ) -> None:
        if self._keys_of(Home.of(record)).isdisjoint(by):
            return  # a clear one, and its datastore has other keys, or was not shown
        known = self._homes.get(record.home_id)
        if known is not None and not registers:
            if self._keys_of(known).isdisjoint(after or by):
                return  # its keys change by a record in the place of one that has the MACs of those before
            if not after and record.generation < known.generation:
                return  # of before they changed
        _keep(self._homes, record.home_id, Home.of(record), MAX_KNOWN)

    def _keys_of(self, home: Home) -> frozenset[KeyRef]:
        """Those that MAC its record: of a clear one its datastore's."""
        return home.keys or self.datastore(home.datastore)[0]

    def _learn_datastore(self, record: DatastoreRecord, by: tuple[KeyRef, ...], *, registers: bool) -> None:
        before = self._datastores.get(record.datastore_id)
        if before is not None and set(by).isdisjoint(before.keys):
            if not registers:
                return  # its keys change by a record that has the MACs of both
            before = None
        known = () if before is None else before.keys
        keys = tuple(dict.fromkeys((*known, *by)))[-MAX_DATASTORE_KEYS:]
        if before is not None and before.generation > record.generation:
            made = _Datastore(keys, before.default, before.generation)
        else:
            made = _Datastore(keys, record.default, record.generation)
        _keep(self._datastores, record.datastore_id, made, MAX_KNOWN)

    def owners(self, key: KeyRef) -> frozenset[Owner]:
        """The homes and datastores that have the key; none: nobody has shown a record of it."""
        return frozenset(one for _, one in (self._held.get(key) or self._shared.of(key)).values())

    def users(self, provider: str) -> list[str]:
        """What the homes and datastores are called whose newest records name keys of a provider, sorted."""
        held, newest = self._all()
        found = {
            self.place(owner).shown
            for key, owners in held
            if key.provider == provider
            for ident, (generation, owner) in owners.items()
            if generation == newest[ident]
        }
        return sorted(found.union(self._naming(lambda key: key.provider == provider).values()))

    def others(self, key: KeyRef, ident: str) -> list[str]:
        """What the homes and datastores are called that have the key beside the one of that id, sorted."""
        _, newest = self._all()
        owners = self._held.get(key) or self._shared.of(key)
        found = {
            other: self.place(owner).shown
            for other, (generation, owner) in owners.items()
            if generation >= newest.get(other, 0)
        }
        found |= self._naming(lambda one: one == key)
        return sorted(shown for other, shown in found.items() if other != ident)

    def _naming(self, chosen: Callable[[KeyRef], bool]) -> dict[str, str]:
        """What homes are called, by their ids, whose records as shown last name such a key: also one that
        could not be had then, and so is not known to be theirs.
        """
        with self._lock:
            homes = list(self._homes.items())
        return {ident: self._shown.get(ident, ident) for ident, home in homes if any(map(chosen, home.named))}

    def _all(self) -> tuple[list[tuple[KeyRef, Owners]], dict[str, int]]:
        """The owners of each key, and of each owner the newest generation of a record."""
        with self._lock:
            held = list(self._held.items())
        newest: dict[str, int] = {}
        for _, owners in held:
            for ident, (generation, _) in owners.items():
                newest[ident] = max(generation, newest.get(ident, 0))
        return held, newest

    def home(self, ident: str) -> Home | None:
        """The home of that id, by the newest record under the keys that it had when it was shown first, or
        that it has since by a change that keyd sealed, or as who may register it says.
        """
        return self._homes.get(ident)

    def contests(self, record: HomeRecord, by: Collection[KeyRef]) -> Home | None:
        """The home of that id, when it has none of these keys that have MACed the record."""
        known = self._homes.get(record.home_id)
        return known if known is not None and self._keys_of(known).isdisjoint(by) else None

    def generation(self, record: Record) -> int:
        """The highest of a record of the same home or datastore under one of its keys; 0: none was."""
        return self.newest(keys_of(record), Owner.of(record).ident)

    def newest(self, keys: Iterable[KeyRef], ident: str) -> int:
        """The highest generation of a record of that home or datastore under one of the keys; 0: none was."""
        with self._lock:
            found = [self._held[key].get(ident) for key in keys if key in self._held]
        return max((one[0] for one in found if one is not None), default=0)

    def place(self, owner: Owner) -> Place:
        """Where permissions for it are looked for, and what it is called."""
        return Place(owner.vm, owner.datastore, self._shown.get(owner.ident, owner.ident))

    def datastore(self, ident: str) -> tuple[frozenset[KeyRef], HomeState | None]:
        """The keys of a datastore, those of before among them, and what is new there; none while unknown."""
        known = self._datastores.get(ident)
        return (frozenset(), None) if known is None else (frozenset(known.keys), known.default)

    # What principals made

    def named_home(self, who: Principal, ident: str, *, first: bool) -> None:
        """keyd sealed a record for him that gives a home this id: its first one, or it had another id."""
        with self._lock:
            homes = self._of(who).homes
            _keep(homes, ident, first or homes.get(ident, False), MAX_MADE)

    def has_named_home(self, who: Principal, ident: str) -> bool:
        """Whether the home has that id by a record that keyd sealed for him."""
        made = self._made.get(who)
        return made is not None and ident in made.homes

    def has_made_home(self, who: Principal, ident: str) -> bool:
        """Whether keyd sealed the first record of that home for him."""
        made = self._made.get(who)
        return made is not None and made.homes.get(ident, False)

    def made_key(self, who: Principal, key: KeyRef) -> None:
        """keyd made that key for him."""
        with self._lock:
            _keep(self._of(who).keys, key, None, MAX_MADE)

    def has_made(self, who: Principal, key: KeyRef) -> bool:
        """Whether keyd made the key for him."""
        made = self._made.get(who)
        return made is not None and key in made.keys

    def made_blobs(self, who: Principal, digests: Iterable[bytes]) -> None:
        """keyd made those wrapped data keys for him, and gave him what is in them."""
        with self._lock:
            made = self._of(who).blobs
            for digest in digests:
                _keep(made, digest, None, MAX_MADE)

    def knows_blob(self, who: Principal, digest: bytes) -> bool:
        """Whether he was given what is in that wrapped data key when it was made."""
        made = self._made.get(who)
        return made is not None and digest in made.blobs

    def _of(self, who: Principal) -> _Made:
        made = self._made.get(who)
        if made is None:
            made = self._made[who] = _Made()
            if len(self._made) > MAX_PRINCIPALS:
                self._made.popitem(last=False)
        self._made.move_to_end(who)
        return made


def _keep(kept: OrderedDict[_Name, _Value], name: _Name, value: _Value, most: int) -> None:
    """As the latest of at most so many."""
    kept[name] = value
    kept.move_to_end(name)
    if len(kept) > most:
        kept.popitem(last=False)
