"""`ioflt keyd`: the key-cache daemon of this machine, or of this user."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ioflt.cli.passphrase import ask, passphrase_option
from ioflt.cli.render import emit, facts, json_option, say, table, warn

if TYPE_CHECKING:
    from ioflt.keys.client import KeyClient
    from ioflt.wire.keyd.messages import Status


@click.group()
def keyd() -> None:
    """The key-cache daemon. It holds the keys in use; commands start it when it is not running."""


@keyd.command()
@click.option("--foreground", is_flag=True, help="Become keyd, for systemd; on its socket if it has one.")
def start(foreground: bool) -> None:
    """Start keyd. It is no error when it runs already."""
    from ioflt.keys import starter
    from ioflt.keys.client import KeyClient

    if foreground:
        starter.become_keyd()
    with KeyClient.connect() as keys:
        say(f"keyd runs, pid {keys.status().pid}")


@keyd.command()
def stop() -> None:
    """Stop keyd. Open files go on; the next command starts a new one."""
    from ioflt.keys.client import KeyClient
    from ioflt.transport.unix import NotListening

    try:
        KeyClient(start=False).stop()
    except NotListening:
        say("keyd is not running")
    else:
        say("keyd ended")


@keyd.command()
@json_option
def status(as_json: bool) -> None:
    """Show keyd and its key providers. Does not start it."""
    from ioflt.keys.client import KeyClient
    from ioflt.transport.unix import NotListening

    try:
        with KeyClient(start=False) as keys:
            now = keys.status()
    except NotListening:
        emit({"running": False}, lambda: print("keyd is not running"), as_json)
        return
    data = {"running": True, **{name: getattr(now, name) for name in now.__struct_fields__}}
    emit(data, lambda: _show(now), as_json)


@keyd.command()
@click.option(
    "--suspend", "mode", flag_value="suspend", help="Files are open: let their I/O wait for unlock."
)
@click.option("--force", "mode", flag_value="force", help="Files are open: let their I/O fail.")
def lock(mode: str | None) -> int:
    """Lock all mounts and forget all keys. Refused while files are open, unless an option says otherwise.

    The exit code is 1 when something that was written could not be flushed to the datastore.
    """
    import msgspec

    from ioflt.keys.client import KeyClient
    from ioflt.wire.keyd.messages import LockMode

    with KeyClient.connect() as keys:
        locked = keys.lock(msgspec.convert(mode or "refuse", LockMode))
    for path in locked.open:
        say(f"{path}: open, its I/O {'waits' if mode == 'suspend' else 'fails'}")
    for path in locked.unflushed:
        warn(f"{path}: what was written last could not be flushed")
    say("locked")
    return 1 if locked.unflushed else 0


@keyd.command(short_help="End a lock, or open a provider by passphrase or PIN.")
@click.argument("provider", required=False)
@passphrase_option
def unlock(provider: str | None, passphrase_file: str | None) -> None:
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
    say("unlocked")


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


def _show(now: Status) -> None:
    facts(
        [
            ("state", now.state),
            ("pid", now.pid),
            ("version", now.version),
            ("key memory", now.memory),
            ("cached keys", now.cached_keys),
            ("connections", now.connections),
        ]
    )
    if now.providers:
        print()
        show_providers(now)


def show_providers(now: Status) -> None:
    """Print the table of providers."""
    table(
        ("PROVIDER", "KIND", "OPENED BY", "STATE", "BACKED UP"),
        [
            (
                provider.name,
                provider.kind,
                ", ".join(provider.slots),
                f"{provider.state}: {provider.reason}" if provider.reason else provider.state,
                "yes" if provider.backed_up else "no",
            )
            for provider in now.providers
        ],
    )
