"""From one record to the next: what that change is, which privileges it needs, what an auditor hears of it.

Pure: keyd decides by it before it makes the MACs of the new record. Both records speak for themselves: what
somebody says that he is about does not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from ioflt.access.objects import ANYWHERE, Place
from ioflt.access.privileges import Privilege
from ioflt.format.record.record import (
    DatastoreRecord,
    Deep,
    HomeRecord,
    Move,
    Operation,
    Record,
    Recrypt,
    Rename,
)
from ioflt.types import HomeState, KeyRef

#: As `audit.event.Value`.
Value: TypeAlias = "bool | int | str | Sequence[Value] | Mapping[str, Value] | None"

#: A value: its path as vSphere writes it, before, after; None is unset.
Change: TypeAlias = tuple[str, Value, Value]

Ask: TypeAlias = tuple[Privilege, Place]

_P = Privilege

_CONVERTS: Final = {"encrypt": _P.ENCRYPT, "decrypt": _P.DECRYPT}


@dataclass(frozen=True, slots=True)
class Transition:
    """`operation`: a name of the table of operations. No `changes`: only progress, which is no event."""

    operation: str
    asks: tuple[Ask, ...]
    changes: tuple[Change, ...]


def place_of(record: Record, shown: str) -> Place:
    """What a record is about."""
    if isinstance(record, DatastoreRecord):
        return Place(None, record.datastore_id, shown)
    return Place(record.home_id, record.datastore_id, shown)


def keys_of(record: Record) -> frozenset[KeyRef]:
    """All keys that open files of it, or have."""
    operation = record.operation
    changed = (*operation.old, *operation.to) if isinstance(operation, Recrypt | Deep) else ()
    return frozenset((*record.keys, *changed))


def first(new: Record, shown: str, default: HomeState | None, *, registering: bool) -> Transition:
    """A record where no valid one was. `default`: of its datastore, None: not known. `registering`: somebody
    vouches for what is there already. Its keys are looked at elsewhere.
    """
    if isinstance(new, DatastoreRecord):
        return Transition("datastore init", ((_P.REGISTER_HOST, ANYWHERE),), tuple(_changes(None, new)))
    place, around = place_of(new, shown), Place(None, new.datastore_id, shown)
    changes = tuple(_changes(None, new))
    if registering and new.state is HomeState.CLEAR:
        return Transition("vm register: --clear", ((_P.REGISTER_INVENTORY, place),), changes)
    if registering:
        vouched = ((_P.REGISTER_INVENTORY, place), (_P.REGISTER_VM, place))
        return Transition("vm register", vouched, changes)
    if new.state is HomeState.ENCRYPTED:
        made = ((_P.CREATE_VM, around), (_P.ENCRYPT_NEW, around))
        return Transition("vm import", made, changes)
    asks: tuple[Ask, ...] = ((_P.CREATE_VM, around),)
    if default is not HomeState.CLEAR:  # what is new there is encrypted: this is not as new
        asks = (*asks, (_P.DECRYPT, around))
    return Transition("vm import: a clear VM", asks, changes)


def between(old: Record, new: Record, shown: str, *, rolled_back: bool) -> Transition:
    """The change of a record. `rolled_back`: the old one is not the newest that was seen."""
    if isinstance(old, DatastoreRecord) and isinstance(new, DatastoreRecord):
        operation, asks = _of_datastore(old, new, place_of(old, shown), rolled_back=rolled_back)
    elif isinstance(old, HomeRecord) and isinstance(new, HomeRecord):
        operation, asks = _of_home(old, new, place_of(old, shown), rolled_back=rolled_back)
    else:  # of another kind: as if nothing had been there
        return first(new, shown, None, registering=True)
    return Transition(operation, tuple(dict.fromkeys(asks)), tuple(_changes(old, new)))


# What a change is, and needs


def _of_datastore(
    old: DatastoreRecord, new: DatastoreRecord, place: Place, *, rolled_back: bool
) -> tuple[str, list[Ask]]:
    named, asks = "datastore recrypt", list[Ask]()
    if (old.policy, old.default) != (new.policy, new.default):
        named = "policy assign: to a datastore"
        asks.append((_P.UPDATE_POLICY, place))
        if old.default is not new.default:
            encrypts = new.default is HomeState.ENCRYPTED
            named += ", which encrypts then" if encrypts else ", which is clear then"
            asks.append((_P.ENCRYPT if encrypts else _P.DECRYPT, place))
    if old.datastore_id != new.datastore_id or rolled_back:
        named = "datastore register"
        asks += [(_P.REGISTER_HOST, place), (_P.REGISTER_HOST, place_of(new, place.shown))]
    if old.keys != new.keys or old.operation != new.operation:
        asks.append((_P.RECRYPT, place))
    return named, asks


def _of_home(old: HomeRecord, new: HomeRecord, place: Place, *, rolled_back: bool) -> tuple[str, list[Ask]]:
    named, asks = _by_operation(old, new, place)
    if old.datastore_id != new.datastore_id:
        named, around = _moves(old), Place(None, new.datastore_id, place.shown)
        asks += [(_P.MOVE_VM, place), (_P.CREATE_VM, around)]
        if old.keys or new.keys:
            asks += [(_P.MIGRATE, place), (_P.ENCRYPT_NEW, around)]
    if old.state is new.state and old.names != new.names:
        named = "mount: rename a clear VM"
        asks.append((_P.MOVE_VM, place))
    if old.state is not new.state:
        named = "vm encrypt" if new.state is HomeState.ENCRYPTED else "vm decrypt"
        asks.append((_P.ENCRYPT if new.state is HomeState.ENCRYPTED else _P.DECRYPT, place))
    elif set(old.keys) != set(new.keys):
        asks.append((_P.RECRYPT, place))
    elif (old.policy, old.thick, old.integrity) != (
        new.policy,
        new.thick,
        new.integrity,
    ) and not asks:  # a conversion brings its own
        named = "policy assign"
        asks.append((_P.UPDATE_POLICY, place))
    if old.integrity and not new.integrity and old.state is new.state:  # nobody would notice a changed sector
        asks.append((_P.ENCRYPT, place))
    if not any(
        set(new.clear_files) <= names for names in _clear_after(old)
    ):  # else encrypted ones pass for clear
        asks.append((_P.DECRYPT, place))
    decrypted = old.state is not new.state and new.state is HomeState.CLEAR
    copied = isinstance(new.operation, Deep) and new.operation.id == new.home_id
    if rolled_back or (old.home_id != new.home_id and not decrypted and not copied):
        named = "vm register"
        asks.append((_P.REGISTER_INVENTORY, place))
        if old.keys or new.keys:
            asks.append((_P.REGISTER_VM, place))
    return named, asks


def _by_operation(old: HomeRecord, new: HomeRecord, place: Place) -> tuple[str, list[Ask]]:
    """By what is under way, or was: who begins it, goes on with it, ends it, or turns it round."""
    named, asks = "mount: rename, link or remove in a VM", list[Ask]()
    for operation in (old.operation, new.operation):
        match operation:
            case Operation():
                if operation is old.operation and isinstance(new.operation, Operation):
                    continue  # turned round, it is as if it had begun the other way
                named = f"vm {operation.kind}"
                asks.append((_CONVERTS[operation.kind], place))
            case Recrypt():
                named = "vm recrypt"
                if old.operation != new.operation or old.keys != new.keys:
                    asks.append((_P.RECRYPT, place))
            case Deep():
                named = "vm recrypt: --deep"
                asks.append((_P.RECRYPT, place))
            case Rename():
                named = "mount: rename a clear file of an encrypted VM"
                if old.operation != new.operation:  # what is at its new name will be taken for clear
                    asks.append((_P.ACCESS, place))
            case Move():
                named = _moves(old)
                asks.append((_P.MOVE_VM, place))
                if old.keys:
                    asks.append((_P.MIGRATE, place))
    return named, asks


def _moves(old: HomeRecord) -> str:
    return "vm move" if old.keys else "vm move: a clear VM to another datastore"


def _clear_after(old: HomeRecord) -> list[set[str]]:
    """The files that may be clear in the next record without a decryption: as they are now, or as they are
    once a rename that is under way was done.
    """
    now, operation = set(old.clear_files), old.operation
    if isinstance(operation, Operation) and operation.kind == "decrypt":  # which that asks for anyway
        return [now | set(operation.files or ())]
    if not isinstance(operation, Rename):
        return [now]
    moved = {path for path in now if _is_at(path, operation.old)}
    kept = {path for path in now - moved if not _is_at(path, operation.new)}
    return [now, kept | {operation.new + path[len(operation.old) :] for path in moved}]


def _is_at(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place}/")


# What an auditor hears


def _changes(old: Record | None, new: Record) -> Iterator[Change]:
    before, after = {} if old is None else _told(old), _told(new)
    for path in dict.fromkeys((*before, *after)):
        if before.get(path) != after.get(path):
            yield path, before.get(path), after.get(path)


def _told(record: Record) -> dict[str, Value]:
    """The values of a record that events tell of."""
    operation = record.operation
    begun: Value = None if operation is None else _operation(operation)
    if isinstance(record, DatastoreRecord):
        return {
            "datastore.uuid": record.datastore_id,
            "datastore.default": record.default.value,
            "datastore.keyId": _keys(record.keys),
            "datastore.vmProfile": record.policy,
            "datastore.operation": begun,
        }
    return {
        "config.uuid": record.home_id,
        "config.datastore": record.datastore_id,
        "config.cryptoState": record.state.value,
        "config.keyId": _keys(record.keys),
        "config.vmProfile": record.policy,
        "config.name": list(record.names) or None,
        "config.thick": record.thick,
        "config.integrity": record.integrity,
        "config.clearFiles": list(record.clear_files),
        "config.operation": begun,
    }


def _operation(operation: Operation | Recrypt | Deep | Move | Rename) -> Value:
    match operation:
        case Rename(old, new):
            return {"kind": operation.kind, "from": old, "to": new}
        case Move(_, home_id, datastore_id):
            return {"kind": operation.kind, "uuid": home_id, "datastore": datastore_id}
        case Recrypt() | Deep():
            return {"kind": operation.kind, "from": _keys(operation.old), "to": _keys(operation.to)}
        case Operation():
            files = {} if operation.files is None else {"files": list(operation.files)}
            return {"kind": operation.kind, **files}


def _keys(keys: tuple[KeyRef, ...]) -> Value:
    """As vSphere writes the one key that a VM has there; several as an array."""
    told: list[Value] = [{"keyId": key.key_id, "providerId": {"id": key.provider}} for key in keys]
    return told[0] if len(told) == 1 else told or None
