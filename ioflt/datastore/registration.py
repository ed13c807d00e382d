"""A new record for a home that has none which is valid here: after a raw copy, a loss, or a forgery.

The user vouches for the home. Its files are only looked at.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from ioflt.crypto.rng import new_uuid
from ioflt.datastore import convert, policies, regular, wrapping
from ioflt.datastore.header import is_recrypting, read_header
from ioflt.datastore.home import Home
from ioflt.datastore.standing import Refusal, Treatment, stored_as
from ioflt.datastore.vmx import read_sealed
from ioflt.datastore.volume import Volume
from ioflt.errors import KeyNotFound, ReadOnlyError, UsageError
from ioflt.format.record.record import MAX_KEYS, HomeRecord, Move, Operation
from ioflt.format.vmx import sealed
from ioflt.types import HomeState, KeyRef

_log = logging.getLogger(__name__)


def register(volume: Volume, name: str, *, clear: bool = False, accept_rollback: bool = False) -> list[str]:
    """Make a record for a home whose record is missing, foreign or invalid.

    `accept_rollback`: for one that is older than what this host has seen; it stays as it is, clear or
    encrypted, and gets a new home id.

    For an encrypted home its keys are found from its files. Returns the paths of files that are not encrypted
    in it: they cannot be read through a mount. Raises UsageError when the home has a valid record, when files
    of a home that is to be clear are encrypted, or when its files have no key in common; KeyUnavailableError,
    AuthenticationError for a file that its key does not open, BusyError, ReadOnlyError, StorageError.
    """
    home = volume.home(name)
    with regular.named(home):
        if volume.read_only:
            raise ReadOnlyError("the datastore is opened read-only")
        with home.exclusive():
            if accept_rollback:
                return _accept(home)
            _check_needed(home)
            keys, strangers = _find_keys(home)
            if clear and keys:
                named = ", ".join(map(str, keys))
                raise UsageError(f"its files are encrypted under {named}; register it without --clear")
            if not clear and strangers and not keys:
                raise UsageError("none of its files is encrypted; register it with --clear")
            home.store(_record(volume, name, keys, clear=clear))
            return [] if clear else strangers


def _check_needed(home: Home) -> None:
    """Raises UsageError when the home's record is good."""
    try:
        standing = home.standing()
    except KeyNotFound:  # whoever can write to the datastore can write the name of a key that is nowhere
        return
    operation = standing.record.operation if standing.record else None
    if standing.refusal is not None:
        raise ReadOnlyError(standing.problem or "")
    if standing.problem is None:
        raise UsageError(f"has a valid record, which says that it is {standing.state.value}")
    if operation is not None and (operation.kind != "decrypt" or home.volume.is_authorised(operation.id)):
        raise UsageError(standing.problem)


def _accept(home: Home) -> list[str]:
    """Go on from an older state of the home, as another home: its old id is not seen again."""
    standing = home.standing()
    record = standing.record
    if record is None or standing.refusal is not Refusal.ROLLED_BACK:
        raise UsageError("was not rolled back, as far as this host knows")
    seen = home.volume.memory.look(record.home_id).generation
    accepted, strangers = replace(record, home_id=new_uuid()), list[str]()
    operation = record.operation
    decrypting = isinstance(operation, Operation) and operation.kind == "decrypt"
    if operation is None or decrypting or isinstance(operation, Move):  # of then, and not gone on with
        keys, strangers = _find_keys(home)
        clear = record.state is HomeState.CLEAR
        if clear and keys:
            raise UsageError("its record says that it is clear, but its files are encrypted")
        strangers = [] if clear else [path for path in strangers if path not in record.clear_files]
        accepted = replace(accepted, keys=keys or record.keys, operation=None)
    stored = home.store(accepted)
    _log.warning(
        "%s: rolled back, and accepted: generation %d, %d was seen; home %s is %s now",
        *(home.name, record.generation, seen, record.home_id, stored.home_id),
    )
    return strangers


def _record(volume: Volume, name: str, keys: tuple[KeyRef, ...], *, clear: bool) -> HomeRecord:
    state = HomeState.CLEAR if clear else HomeState.ENCRYPTED
    policy = policies.default(volume.keys, volume.record, state)
    made = volume.fresh_record(name, policy, key=keys[0] if keys else None)
    return replace(made, keys=keys) if keys else made


def _find_keys(home: Home) -> tuple[tuple[KeyRef, ...], list[str]]:
    """The KEKs each of which opens every encrypted file of the home, and the paths of the other files."""
    by_path: dict[str, frozenset[KeyRef]] = {}
    strangers = []
    for entry in regular.regular_files(home):
        with regular.named(home, entry.path), regular.opened(home, entry.path) as fd:
            if is_recrypting(fd):  # the recrypt goes on, or tells why not
                continue
            if convert.named_keys(fd, stored_as(entry.path)):
                by_path[entry.path] = _proven_keys(home, fd, stored_as(entry.path))
            else:
                strangers.append(entry.path)
    if not by_path:
        return (), strangers
    common = frozenset.intersection(*by_path.values())
    if not common:
        listed = "; ".join(f"{path}: {', '.join(map(str, keys))}" for path, keys in by_path.items())
        raise UsageError(f"its files have no key in common: {listed}")
    return tuple(sorted(common, key=str)[:MAX_KEYS]), strangers


def _proven_keys(home: Home, fd: int, treatment: Treatment) -> frozenset[KeyRef]:
    """The KEKs that open the file. Raises the first one's error when none does."""
    keys = home.volume.keys
    if treatment is Treatment.VMX:
        text = read_sealed(fd)
        keys.prove_vmx(text, ())
        return frozenset(sealed.peek(text).keys)
    header = read_header(fd)
    good, errors = wrapping.proven(header, header.tokens, keys)
    if not good:
        raise errors[0]
    return frozenset(token.key for token in good)
