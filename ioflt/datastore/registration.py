"""A new record for a home that has none which is valid here: after a raw copy, a loss, or a forgery.

The user vouches for the home. Its files are only looked at.
"""

from __future__ import annotations

from ioflt.crypto.rng import new_uuid
from ioflt.crypto.secret import Secret
from ioflt.datastore import convert, regular
from ioflt.datastore.header import read_header
from ioflt.datastore.home import Home, Treatment, stored_as
from ioflt.datastore.vmx import read_sealed
from ioflt.datastore.volume import POLICY, Volume
from ioflt.errors import IofltError, KeyNotFound, ReadOnlyError, UsageError
from ioflt.format.record.record import MAX_KEYS, HomeRecord
from ioflt.format.vmx import sealed
from ioflt.types import HomeState, KeyRef


def register(volume: Volume, name: str, *, clear: bool) -> list[str]:
    """Make a record for a home whose record is missing, foreign or invalid.

    For an encrypted home its key is found from its files. Returns the paths of files that are not encrypted
    in it: they cannot be read through a mount. Raises UsageError when the home has a valid record, when files
    of a home that is to be clear are encrypted, or when its files have no key in common; KeyUnavailableError,
    AuthenticationError for a file that its key does not open, BusyError, ReadOnlyError, StorageError.
    """
    home = volume.home(name)
    with regular.named(home):
        if volume.read_only:
            raise ReadOnlyError("the datastore is opened read-only")
        with home.exclusive():
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
    if standing.problem is None:
        raise UsageError(f"has a valid record, which says that it is {standing.state.value}")
    if operation is not None and (operation.kind != "decrypt" or home.volume.is_authorised(operation.id)):
        raise UsageError(standing.problem)


def _record(volume: Volume, name: str, keys: tuple[KeyRef, ...], *, clear: bool) -> HomeRecord:
    state = HomeState.CLEAR if clear else HomeState.ENCRYPTED
    if clear or not keys:
        return volume.fresh_record(name, state)
    datastore_id = volume.record.datastore_id
    return HomeRecord(new_uuid(), datastore_id, state, keys, (), POLICY[state], thick=False, operation=None)


def _find_keys(home: Home) -> tuple[tuple[KeyRef, ...], list[str]]:
    """The KEKs each of which opens every encrypted file of the home, and the paths of the other files."""
    by_path: dict[str, frozenset[KeyRef]] = {}
    strangers = []
    for entry in regular.regular_files(home):
        with regular.named(home, entry.path), regular.opened(home, entry.path) as fd:
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
        keys.open_vmx(text)
        return frozenset(sealed.peek(text).keys)
    header = read_header(fd)
    answers = keys.unwrap([(token.key, token.blob, token.aad(header.uuid)) for token in header.tokens])
    proven = set()
    for token, answer in zip(header.tokens, answers, strict=True):
        if isinstance(answer, Secret):
            answer.wipe()
            proven.add(token.key)
    if not proven:
        raise next(answer for answer in answers if isinstance(answer, IofltError))
    return frozenset(proven)
