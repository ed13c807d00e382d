"""`ioflt key list|status|remove|add|drill`: which key protects what, and what is lost without it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ioflt.cli.provider_common import from_now_on
from ioflt.cli.render import describe, emit, json_option, moment, printable, say, table, warn
from ioflt.cli.session import connect_keys, directory_argument
from ioflt.errors import BusyError, NotFoundError, UsageError
from ioflt.types import KeyRef

if TYPE_CHECKING:
    from ioflt.datastore.seen import Survey
    from ioflt.errors import KeyUnavailableError
    from ioflt.keys.client import KeyClient


@dataclass(frozen=True, slots=True)
class _Listed:
    """A key of `key list`; `reason` why its provider does not give it, `since` when."""

    key: str
    protects: list[str]
    cached: bool
    expires: str | None
    sealed_until: str | None
    available: bool
    reason: str | None
    since: str | None


@dataclass(frozen=True, slots=True)
class _SingleKey:
    """How many VMs it locks, and of how many datastores it is the own key."""

    name: str
    locks: int
    datastores: int


@dataclass(frozen=True, slots=True)
class _SingleProvider:
    """`server`: the only one that has its keys; None: there are several, or it needs none."""

    name: str
    locks: int
    datastores: int
    server: str | None


@dataclass(frozen=True, slots=True)
class _ByCache:
    """`until` is None for what goes on until keyd ends or is locked."""

    path: str
    until: str | None


@dataclass(frozen=True, slots=True)
class _Datastores:
    """Those in which no VM could be made, and whose clear VMs, which are counted as such, would be locked."""

    locked: list[str]
    go_on: int
    by_cache: list[_ByCache]


@dataclass(frozen=True, slots=True)
class _Drilled:
    """Paths of VMs that would be locked, how many go on and which of them by cached keys only; the same of
    datastores themselves; paths of which nobody knows; what locks most alone.
    """

    without: list[str]
    after_reboot: bool
    locked: list[str]
    go_on: int
    by_cache: list[_ByCache]
    datastores: _Datastores
    unknown: list[str]
    single_keys: list[_SingleKey]
    single_providers: list[_SingleProvider]


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
        _Listed(
            str(key),
            paths,
            state.cached,
            moment(state.expires),
            moment(state.sealed),
            state.missing is None,
            _said(state.missing),
            moment(state.since),
        )
        for key, paths in protects.items()
        for state in [states[key]]
    ]
    for path, reason in found.unknown:
        warn(f"{path}: nobody knows its key: {reason}")

    def text() -> None:
        for row in rows:
            print(printable(row.key))
            print(f"    {', '.join(_had(row))}")
            for path in row.protects:
                print(f"    {printable(path)}")

    emit(rows, text, as_json)


def _had(row: _Listed) -> list[str]:
    had = []
    if row.cached:
        had.append("cached" if row.expires is None else f"cached until {row.expires}")
    if row.sealed_until is not None:
        had.append(f"sealed until {row.sealed_until}")
    return [*had, "available" if row.available else f"missing since {row.since}: {row.reason}"]


@click.command(short_help="Whether a key can be had, and what needs it.")
@_key_argument
@click.argument("directories", metavar="[DIR]...", nargs=-1, type=click.Path(readable=False, path_type=Path))
@json_option
def status(key: KeyRef, directories: tuple[Path, ...], as_json: bool) -> None:
    """Show the key ID (PROVIDER:KEY-ID): whether it can be had, and what needs it.

    That is looked for in the datastores that were opened on this machine, and in each datastore DIR. What is
    locked without the key has no other one. Its users are the mounts and programs that have something open
    by it now, as far as it is cached. A cached key is from its provider or from what was sealed to this
    machine (`ioflt provider cache`). The reasons are those of vSphere, such as KeyStateMissingInKMS.
    """
    from ioflt.cli.keyd import cached
    from ioflt.datastore import drill, seen

    found = seen.survey()
    for directory in directories:
        if os.path.realpath(directory) not in {one.path for one in found.protected}:
            seen.look(os.path.realpath(directory), found)
    with connect_keys() as keys:
        # First, as it tells who may not see keys so.
        in_use = next((one for one in cached(keys) if one.key == str(key)), None)
        (state,) = keys.key_states([key])
        reason = None if state.missing is None else _vsphere_reason(key, state.missing, keys)
    shown = {
        "key": str(key),
        "available": state.at_hand or state.missing is None,
        "cached": state.cached,
        "from": state.source,
        "fetched": moment(state.fetched),
        "expires": moment(state.expires),
        "sealed_until": moment(state.sealed),
        "reason": reason,
        "detail": _said(state.missing),
        "missing_since": moment(state.since),
        "used_by": _protects(found).get(key, []),
        "locked_without": [one.path for one in drill.locked(found, lambda one: one == key, frozenset())],
        "users": [] if in_use is None else in_use.users,
        "other_users": 0 if in_use is None else in_use.other_users,
        "unknown": [path for path, _ in found.unknown],
    }
    emit(shown, lambda: describe(shown | {"other_users": shown["other_users"] or None}), as_json)


@click.command(short_help="Do without a key on this machine.")
@_key_argument
@click.option("--force", is_flag=True, help="Although something needs it; says what is locked from now on.")
@json_option
def remove(key: KeyRef, force: bool, as_json: bool) -> None:
    """Make keyd forget the key ID (PROVIDER:KEY-ID), and not ask for it again. `ioflt key add` takes it back.

    Its provider keeps it. What is open goes on until it is closed. Refused while something needs the key, as
    far as this machine opened it before.
    """
    from ioflt.datastore import drill, seen

    found = seen.survey()
    with connect_keys() as keys:
        _refuse_unknown(found, key.provider, keys)
    locked = drill.locked(found, lambda one: one == key, frozenset())
    for one in found.protected:
        if one in locked:
            warn(f"{one.path}: {from_now_on(one) if force else 'has no other key'}")
        elif key in (*one.keys, *one.also):
            warn(f"{one.path}: another key opens it too")
    for path, reason in found.unknown:
        warn(f"{path}: unknown whether it has this key: {reason}")
    if key not in _protects(found):
        warn(f"{key}: nothing that was opened on this machine has this key; is its id as it was meant?")
    if locked and not force:
        raise BusyError(f"the key {key} is in use")
    if found.unknown and not force:
        raise BusyError(f"nobody knows whether the key {key} is in use")
    with connect_keys() as keys:
        keys.remove_key(key)
    done = {
        "key": str(key),
        "locked": [one.path for one in locked],
        "unknown": [path for path, _ in found.unknown],
    }
    emit(done, lambda: say(f"{key}: removed from this machine; `ioflt key add` takes it back"), as_json)


@click.command(short_help="Take back `ioflt key remove`.")
@_key_argument
@json_option
def add(key: KeyRef, as_json: bool) -> None:
    """Let keyd ask for the key ID (PROVIDER:KEY-ID) again."""
    with connect_keys() as keys:
        keys.add_key(key)
        (state,) = keys.key_states([key])
    reason = _said(state.missing)
    done = {"key": str(key), "available": reason is None, "detail": reason}
    what = "can be had again" if reason is None else f"still missing: {reason}"
    emit(done, lambda: say(f"{key}: {what}"), as_json)


@click.command(name="drill", short_help="What would be locked without a provider.")
@click.option("--without", "lost", metavar="PROVIDER", multiple=True, help="It is gone; again for more.")
@click.option("--after-reboot", is_flag=True, help="Nothing is cached in keyd's memory any more.")
@json_option
def drill_(lost: tuple[str, ...], after_reboot: bool, as_json: bool) -> None:
    """Show which VMs would be locked if the keys of PROVIDER could not be had, now or after a reboot; and in
    which datastores no VM could be made, as their own keys would be missing. Those lock clear VMs, too.

    What goes on only because keyd has its key cached is named too, with the time at which that ends: cached
    keys are gone when keyd ends; those sealed to this machine (`ioflt provider cache`) outlast a reboot and
    expire.

    Also what single provider, and what single key, locks most by itself; and its server, where a provider
    has only one. It asks no key server: it reads the records of all datastores that were opened on this
    machine.
    """
    from ioflt import paths
    from ioflt.datastore import drill, seen
    from ioflt.keys import servers
    from ioflt.keys.client import KeyClient

    found = seen.survey()
    with KeyClient.connect() as client:
        for name in lost:
            _refuse_unknown(found, name, client)
        cached = _cached(found, client, after_reboot=after_reboot)
    locked = drill.locked(found, lambda key: key.provider in lost, cached.keys())
    kept = drill.by_cache(found, lambda key: key.provider in lost, cached)
    directory = paths.find().providers

    def counted(*, datastores: bool) -> _Datastores:
        here = [one.path for one in locked if one.is_datastore is datastores]
        by_cache = [_ByCache(one.path, moment(end)) for one, end in kept if one.is_datastore is datastores]
        of_all = sum(one.is_datastore is datastores for one in found.protected)
        return _Datastores(here, of_all - len(here), by_cache)

    vms = counted(datastores=False)
    result = _Drilled(
        list(lost),
        after_reboot,
        vms.locked,
        vms.go_on,
        vms.by_cache,
        counted(datastores=True),
        [path for path, _ in found.unknown],
        [_SingleKey(str(key), locks.vms, locks.datastores) for key, locks in drill.sole_keys(found)[:_MOST]],
        [
            _SingleProvider(name, locks.vms, locks.datastores, at[0] if len(at) == 1 else None)
            for name, locks in drill.sole_providers(found)
            for at in [servers.addresses(directory, name)]
        ],
    )

    def text() -> None:
        own = result.datastores
        for path in result.locked:
            print(f"locked  {printable(path)}")
        for path in own.locked:
            print(f"no VM is made in  {printable(path)}")
        for one in (*result.by_cache, *own.by_cache):
            print(f"cached  {printable(one.path)}  until {one.until or 'keyd ends or is locked'}")
        print(f"VMs: {len(result.locked)} locked, {result.go_on} go on")
        print(f"datastores: {len(own.locked)} in which no VM is made, {own.go_on} go on")
        if found.unknown:
            print(f"unknown: {len(found.unknown)}")
        rows = [(one.locks, one.datastores, _named(one)) for one in result.single_providers]
        rows += [(key.locks, key.datastores, f"the key {key.name}") for key in result.single_keys]
        if rows:
            print("\nWhat locks most by itself:")
            table(("VMS", "DATASTORES", "WITHOUT"), rows)

    for path, reason in found.unknown:
        warn(f"{path}: unknown which keys it has: {reason}")
    emit(result, text, as_json)


def _named(single: _SingleProvider) -> str:
    server = f", whose only server is {single.server}" if single.server else ""
    return f"the provider {single.name}{server}"


def _refuse_unknown(found: Survey, provider: str, keys: KeyClient) -> None:
    """A slip in a name must not look like good news. Raises NotFoundError."""
    known = {key.provider for key in _protects(found)} | {one.name for one in keys.status().providers}
    if provider not in known:
        raise NotFoundError(f"no provider {provider} is configured here, and nothing has keys of it")


def _cached(found: Survey, client: KeyClient, *, after_reboot: bool) -> dict[KeyRef, int | None]:
    """Keys that are had without their providers, and until when; None: until keyd ends or is locked."""
    keys = list(_protects(found))
    states = zip(keys, client.key_states(keys, ask=False), strict=True)
    ends: dict[KeyRef, int | None] = {}
    for key, state in states:
        if state.cached and not after_reboot:
            ends[key] = state.expires
        elif state.sealed is not None:
            ends[key] = state.sealed
    return ends


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
