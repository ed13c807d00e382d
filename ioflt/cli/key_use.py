"""`ioflt key list|status|remove|add|drill`: which key protects what, and what is lost without it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ioflt.cli.render import describe, emit, json_option, printable, say, table, warn
from ioflt.cli.session import connect_keys, directory_argument
from ioflt.errors import BusyError, UsageError
from ioflt.types import KeyRef

if TYPE_CHECKING:
    from ioflt.datastore.seen import Survey
    from ioflt.errors import KeyUnavailableError
    from ioflt.keys.client import KeyClient


@dataclass(frozen=True, slots=True)
class _Listed:
    """A key of `key list`; `reason` why its provider does not give it."""

    key: str
    protects: list[str]
    cached: bool
    available: bool
    reason: str | None


@dataclass(frozen=True, slots=True)
class _Single:
    name: str
    locks: int


@dataclass(frozen=True, slots=True)
class _Drilled:
    """Paths that would be locked, how many go on, paths of which nobody knows; what locks most alone."""

    without: list[str]
    after_reboot: bool
    locked: list[str]
    go_on: int
    unknown: list[str]
    single_keys: list[_Single]
    single_providers: list[_Single]


def _key(_ctx: click.Context, _param: click.Parameter, value: str) -> KeyRef:
    provider, colon, key_id = value.partition(":")
    if not colon or not provider or not key_id:
        raise UsageError(f"no key: {value!r}; write PROVIDER:KEY-ID, as `ioflt key list` does")
    return KeyRef(provider, key_id)


#: Keys that a drill names as those that lock most.
_MOST = 10

_key_argument = click.argument("key", metavar="ID", callback=_key)


@click.command(name="list", short_help="Which key protects what in a datastore.")
@directory_argument
@json_option
def list_(directory: Path, as_json: bool) -> None:
    """List the keys of the datastore DIR: what each protects, and whether it can be had."""
    from ioflt.datastore import seen

    found = seen.Survey()
    seen.look(str(directory), found)
    protects = _protects(found)
    with connect_keys() as keys:
        states = dict(zip(protects, keys.key_states(list(protects)), strict=True))
    rows = [
        _Listed(str(key), paths, states[key][0], states[key][1] is None, _said(states[key][1]))
        for key, paths in protects.items()
    ]
    for path, reason in found.unknown:
        warn(f"{path}: nobody knows its key: {reason}")

    def text() -> None:
        for row in rows:
            print(printable(row.key))
            had = "cached, " if row.cached else ""
            print(f"    {had}{'available' if row.available else f'missing: {row.reason}'}")
            for path in row.protects:
                print(f"    {printable(path)}")

    emit(rows, text, as_json)


@click.command(short_help="Whether a key can be had, and what needs it.")
@_key_argument
@json_option
def status(key: KeyRef, as_json: bool) -> None:
    """Show the key ID (PROVIDER:KEY-ID): whether it can be had, and what needs it on this machine.

    The reasons are those of vSphere, such as KeyStateMissingInKMS.
    """
    from ioflt.datastore import seen

    with connect_keys() as keys:
        ((cached, missing),) = keys.key_states([key])
        reason = None if missing is None else _vsphere_reason(key, missing, keys)
    used_by = _protects(seen.survey()).get(key, [])
    shown = {
        "key": str(key),
        "available": cached or missing is None,
        "cached": cached,
        "reason": reason,
        "detail": _said(missing),
        "used_by": used_by,
    }
    emit(shown, lambda: describe(shown), as_json)


@click.command(short_help="Do without a key on this machine.")
@_key_argument
@click.option("--force", is_flag=True, help="Although something needs it; says what is locked from now on.")
def remove(key: KeyRef, force: bool) -> None:
    """Make keyd forget the key ID (PROVIDER:KEY-ID), and not ask for it again. `ioflt key add` takes it back.

    Its provider keeps it. What is open goes on until it is closed. Refused while something needs the key, as
    far as this machine opened it before.
    """
    from ioflt.datastore import drill, seen

    found = seen.survey()
    locked = {one.path for one in drill.locked(found, lambda one: one == key, frozenset())}
    for path in _protects(found).get(key, []):
        if path in locked:
            warn(f"{path}: {'locked from now on' if force else 'has no other key'}")
        else:
            warn(f"{path}: another key opens it too")
    for path, reason in found.unknown:
        warn(f"{path}: unknown whether it has this key: {reason}")
    if locked and not force:
        raise BusyError(f"the key {key} is in use")
    if found.unknown and not force:
        raise BusyError(f"nobody knows whether the key {key} is in use")
    with connect_keys() as keys:
        keys.remove_key(key)
    say(f"{key}: removed from this machine; `ioflt key add` takes it back")


@click.command(short_help="Take back `ioflt key remove`.")
@_key_argument
def add(key: KeyRef) -> None:
    """Let keyd ask for the key ID (PROVIDER:KEY-ID) again."""
    with connect_keys() as keys:
        keys.add_key(key)
        ((_, missing),) = keys.key_states([key])
    say(f"{key}: {'can be had again' if missing is None else f'still missing: {missing.message}'}")


@click.command(name="drill", short_help="What would be locked without a provider.")
@click.option("--without", "lost", metavar="PROVIDER", multiple=True, help="It is gone; again for more.")
@click.option("--after-reboot", is_flag=True, help="Nothing is cached in keyd any more.")
@json_option
def drill_(lost: tuple[str, ...], after_reboot: bool, as_json: bool) -> None:
    """Show which VMs would be locked if the keys of PROVIDER could not be had, now or after a reboot.

    Also what single provider, and what single key, locks most by itself. It asks no key server and changes
    nothing: it reads the records of all datastores that were opened on this machine.
    """
    from ioflt.datastore import drill, seen
    from ioflt.transport.unix import NotListening

    found = seen.survey()
    cached: frozenset[KeyRef] = frozenset()
    if not after_reboot:
        try:
            cached = frozenset(_cached(found))
        except NotListening:
            say("keyd is not running: nothing is cached")
    locked = drill.locked(found, lambda key: key.provider in lost, cached)
    result = _Drilled(
        list(lost),
        after_reboot,
        [one.path for one in locked],
        len(found.protected) - len(locked),
        [path for path, _ in found.unknown],
        [_Single(str(key), count) for key, count in drill.sole_keys(found)[:_MOST]],
        [_Single(name, count) for name, count in drill.sole_providers(found)],
    )

    def text() -> None:
        for path in result.locked:
            print(f"locked  {printable(path)}")
        print(f"{len(locked)} locked, {result.go_on} go on, {len(found.unknown)} unknown")
        rows = [(one.locks, f"the provider {one.name}") for one in result.single_providers]
        rows += [(one.locks, f"the key {one.name}") for one in result.single_keys]
        if rows:
            print("\nWhat locks most by itself:")
            table(("LOCKS", "WITHOUT"), rows)

    for path, reason in found.unknown:
        warn(f"{path}: unknown which keys it has: {reason}")
    emit(result, text, as_json)


def _cached(found: Survey) -> list[KeyRef]:
    """Those of the keys that keyd has cached. Raises NotListening."""
    from ioflt.keys.client import KeyClient

    keys = list(_protects(found))
    with KeyClient(start=False) as client:
        return [
            key for key, (cached, _) in zip(keys, client.key_states(keys, ask=False), strict=True) if cached
        ]


def _protects(found: Survey) -> dict[KeyRef, list[str]]:
    """The paths that each key protects."""
    protects: dict[KeyRef, list[str]] = {}
    for one in found.protected:
        for key in (*one.keys, *one.also):
            protects.setdefault(key, []).append(one.path)
    return protects


def _said(missing: KeyUnavailableError | None) -> str | None:
    return None if missing is None else missing.message


def _vsphere_reason(key: KeyRef, missing: KeyUnavailableError, keys: KeyClient) -> str:
    """CryptoKeyResult's reason (vSphere API, `CryptoManagerKmipCryptoKeyStatusKeyUnavailableReason`)."""
    from ioflt.errors import KeyCorrupt, KeyNotFound, KeyNotUsable, ProviderUnavailable

    if key.provider not in {provider.name for provider in keys.status().providers}:
        return "KeyStateClusterInvalid"
    if isinstance(missing, ProviderUnavailable):
        return "KeyStateClusterUnreachable"
    if isinstance(missing, KeyNotFound | KeyCorrupt):
        return "KeyStateMissingInKMS"
    if isinstance(missing, KeyNotUsable) and "removed from this host" not in missing.message:
        return "KeyStateNotActiveOrEnabled"
    return "KeyStateMissingInCache"
