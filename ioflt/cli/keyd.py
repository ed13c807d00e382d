"""`ioflt keyd`: the key-cache daemon of this machine, or of this user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import click

from ioflt.cli.passphrase import ask, passphrase_option
from ioflt.cli.processes import Process, process
from ioflt.cli.render import emit, facts, json_option, moment, say, table, warn

if TYPE_CHECKING:
    from ioflt.keys.client import KeyClient
    from ioflt.wire.keyd.replies import CacheStatus, Status


@click.group()
def keyd() -> None:
    """The key-cache daemon. It holds the keys in use; commands start it when it is not running."""


@keyd.command()
@click.option("--foreground", is_flag=True, help="Become keyd, for systemd; on its socket if it has one.")
@json_option
def start(foreground: bool, as_json: bool) -> None:
    """Start keyd. It is no error when it runs already."""
    from ioflt.keys import starter
    from ioflt.keys.client import KeyClient

    if foreground:
        starter.become_keyd()
    with KeyClient.connect() as keys:
        pid = keys.status().pid
    emit({"running": True, "pid": pid}, lambda: say(f"keyd runs, pid {pid}"), as_json)


@keyd.command()
@json_option
def stop(as_json: bool) -> None:
    """Stop keyd. Open files go on; the next command starts a new one."""
    from ioflt.keys.client import KeyClient
    from ioflt.transport.unix import NotListening
    from ioflt.wire.keyd.messages import STOPPED_IN

    ran = True
    try:
        KeyClient(start=False, versions=STOPPED_IN).stop()
    except NotListening:
        ran = False
    done = {"running": False, "ended": ran}
    emit(done, lambda: say("keyd ended" if ran else "keyd is not running"), as_json)


#: Cached keys that are shown to people.
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class CachedKey:
    """A key in keyd's memory. `expires` is None for one that is kept until keyd ends or is locked."""

    key: str
    source: str
    fetched: str | None
    expires: str | None
    users: list[Process]
    other_users: int


@keyd.command(short_help="Show keyd, its providers, its keys and their users.")
@json_option
def status(as_json: bool) -> None:
    """Show keyd, its key providers, and the keys in its memory with who uses them. Does not start it.

    A mount is known by the process that connects for it. Of many keys the first ones are shown; --json shows
    all. Who may not see key providers' keys is shown the rest (--json: `keys` and the counts are null).
    """
    from ioflt.errors import DeniedError
    from ioflt.keys.client import KeyClient
    from ioflt.transport.unix import NotListening

    try:
        with KeyClient(start=False) as keys:
            now = keys.status()
            found: list[CachedKey] | None = None
            with suppress(DeniedError):
                found = list(islice(cached(keys), None if as_json else _SHOWN))
    except NotListening:
        emit({"running": False}, lambda: print("keyd is not running"), as_json)
        return
    data = {"running": True, **{name: getattr(now, name) for name in now.__struct_fields__}, "keys": found}
    emit(data, lambda: _show(now, found), as_json)


def cached(keys: KeyClient) -> Iterator[CachedKey]:
    """All keys in keyd's memory, fetched page by page."""
    page = keys.cached_keys()
    while page:
        for one in page:
            yield CachedKey(
                str(one.key.ref),
                one.source,
                moment(one.fetched),
                moment(one.expires),
                [process(user.pid, user.uid) for user in one.users],
                one.others,
            )
        page = keys.cached_keys(page[-1].key.ref)


@keyd.command()
@click.option(
    "--suspend", "mode", flag_value="suspend", help="Files are open: let their I/O wait for unlock."
)
@click.option("--force", "mode", flag_value="force", help="Files are open: let their I/O fail.")
@json_option
def lock(mode: str | None, as_json: bool) -> int:
    """Lock all mounts and forget all keys. Refused while files are open, unless an option says otherwise.

    Keys that were sealed to this machine (`ioflt provider cache`) are destroyed.

    The exit code is 1 when something that was written could not be flushed to the datastore.
    """
    import msgspec

    from ioflt.keys.client import KeyClient
    from ioflt.wire.keyd.values import LockMode

    with KeyClient.connect() as keys:
        locked = keys.lock(msgspec.convert(mode or "refuse", LockMode))
    for path in locked.unflushed:
        warn(f"{path}: what was written last could not be flushed")

    def text() -> None:
        for path in locked.open:
            say(f"{path}: open, its I/O {'waits' if mode == 'suspend' else 'fails'}")
        say("locked")

    emit({"state": "locked", "open": locked.open, "unflushed": locked.unflushed}, text, as_json)
    return 1 if locked.unflushed else 0


@keyd.command(short_help="End a lock, or open a provider by passphrase or PIN.")
@click.argument("provider", required=False)
@passphrase_option
@json_option
def unlock(provider: str | None, passphrase_file: str | None, as_json: bool) -> None:
    """End a lock; with PROVIDER, open a provider that waits for its passphrase or PIN."""
    from ioflt.keys.client import KeyClient
    from ioflt.keys.pkcs11.provider import ASKED

    with KeyClient.connect() as keys:
        if provider is None:
            keys.unlock()
        elif passphrase_file is not None or not _opens_by_itself(keys, provider):
            what = "PIN" if _slots(keys, provider) == (ASKED,) else "Passphrase"
            with ask(passphrase_file, f"{what} of the provider {provider}") as passphrase:
                keys.unlock(provider, passphrase)
    emit({"state": "open", "provider": provider}, lambda: say("unlocked"), as_json)


def _opens_by_itself(keys: KeyClient, name: str) -> bool:
    """Open the provider by what this host has. Raises KeyUnavailableError when no passphrase would help."""
    from ioflt.errors import KeyUnavailableError
    from ioflt.keys.native.file import SECRET_LABELS
    from ioflt.keys.pkcs11.provider import ASKED

    slots = _slots(keys, name)
    waiting = [slot for slot in slots if slot in (*SECRET_LABELS, ASKED)]
    if slots and len(waiting) == len(slots):
        return False
    try:
        keys.unlock(name)
    except KeyUnavailableError:
        if not waiting:
            raise
        return False
    return True


def _slots(keys: KeyClient, name: str) -> tuple[str, ...]:
    """What opens the provider."""
    return next((provider.slots for provider in keys.status().providers if provider.name == name), ())


def _show(now: Status, cached: list[CachedKey] | None) -> None:
    shown: list[tuple[str, object]] = [
        ("state", now.state),
        ("pid", now.pid),
        ("version", now.version),
        ("key memory", now.memory),
        ("cached keys", now.cached_keys),
        ("connections", now.connections),
    ]
    facts([one for one in shown if one[1] is not None])
    if now.providers:
        print()
        show_providers(now)
    if cached:
        print()
        table(
            ("KEY", "FROM", "FETCHED", "EXPIRES", "USED BY"),
            [(one.key, one.source, one.fetched, one.expires or "", _users(one)) for one in cached],
        )
    if cached is not None and now.cached_keys is not None and now.cached_keys > len(cached):
        print(f"and {now.cached_keys - len(cached)} more keys: ioflt keyd status --json")


def _users(one: CachedKey) -> str:
    others = [f"and {one.other_users} more"] if one.other_users else []
    return ", ".join([*map(str, one.users), *others])


def show_providers(now: Status) -> None:
    """Print the table of providers."""
    any_sealed = any(provider.cache is not None for provider in now.providers)
    table(
        ("PROVIDER", "KIND", "OPENED BY", "STATE", "BACKED UP", *(["SEALED KEYS"] if any_sealed else [])),
        [
            (
                provider.name,
                provider.kind,
                ", ".join(provider.slots),
                f"{provider.state}: {provider.reason}" if provider.reason else provider.state,
                "yes" if provider.backed_up else "no",
                *([_sealed(provider.cache)] if any_sealed else []),
            )
            for provider in now.providers
        ],
    )


def _sealed(cache: CacheStatus | None) -> str:
    if cache is None:
        return "no"
    if cache.reason:
        return f"of no use: {cache.reason}"
    return f"{cache.keys}, for {cache.days} days by {cache.by}"
