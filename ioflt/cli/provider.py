"""`ioflt provider`: where keys come from."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ioflt.cli.hints import advising
from ioflt.cli.passphrase import ask, own_passphrase_option, passphrase_option
from ioflt.cli.provider_common import open_store, own_passphrase, tell_keyd
from ioflt.cli.provider_slot import slot
from ioflt.cli.render import emit, json_option, say, warn
from ioflt.errors import CorruptDataError, ExistsError, NotFoundError

if TYPE_CHECKING:
    from ioflt.crypto.secret import Secret


@click.group()
def provider() -> None:
    """Key providers: where keys come from."""


provider.add_command(slot)


@provider.group()
def create() -> None:
    """Make a key provider."""


@create.command(short_help="Make a provider that this machine keeps.")
@click.argument("name")
@click.option("--ask-passphrase", "prompt", is_flag=True, help="Ask for the passphrase at the terminal.")
@passphrase_option
def native(name: str, prompt: bool, passphrase_file: str | None) -> None:
    """Make the provider NAME, whose keys are derived from one that this machine keeps.

    Without a passphrase it is sealed to this machine and opens by itself. With one it opens by
    `ioflt keyd unlock NAME` only.
    """
    with contextlib.ExitStack() as stack:
        secret: Secret | None = None
        if prompt or passphrase_file is not None:
            asked = ask(passphrase_file, f"Passphrase of the provider {name}", confirm=True)
            secret = stack.enter_context(asked)
        made = open_store().create(name, secret)
    tell_keyd()
    opens = f"; it opens by: ioflt keyd unlock {made.name}" if secret is not None else ""
    say(f"made the provider {made.name}{opens}")


@provider.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """List the key providers."""
    from ioflt.cli.keyd import show_providers
    from ioflt.keys.client import KeyClient

    with KeyClient.connect() as keys:
        now = keys.status()
    if not now.providers:
        say("no key provider yet; `local` is made when a key is first needed")
    emit(now.providers, lambda: show_providers(now), as_json)


@provider.command(short_help="Write its key to a file, under a passphrase.")
@click.argument("name")
@click.argument("out", type=click.Path(readable=False, path_type=Path))
@passphrase_option
@own_passphrase_option
def backup(name: str, out: Path, passphrase_file: str | None, provider_passphrase_file: str | None) -> None:
    """Write the key of the provider NAME to the new file OUT, protected by a passphrase for it.

    Who has OUT and its passphrase can read everything that NAME encrypted. Keep it off this machine.
    """
    from ioflt.keys import files

    store = open_store()
    if os.path.lexists(out):  # before anything is asked
        raise ExistsError("it exists already", file=out)
    with contextlib.ExitStack() as stack:
        own = own_passphrase(stack, store, name, provider_passphrase_file)
        new = stack.enter_context(ask(passphrase_file, "Passphrase for the backup", confirm=True))
        data = store.backup(name, new, own)
    files.create(out, data)
    store.mark_backed_up(name)
    tell_keyd()
    say(f"{out}: backup of the provider {name}; test it and keep it elsewhere")


@provider.command(short_help="Bring a provider back from its backup.")
@click.argument("backup_file", metavar="OUT", type=click.Path(readable=False, path_type=Path))
@passphrase_option
def restore(backup_file: Path, passphrase_file: str | None) -> None:
    """Bring back the provider that `ioflt provider backup` wrote to OUT."""
    from ioflt.keys import files
    from ioflt.keys.backup import MAX_SIZE

    data = files.read(backup_file, MAX_SIZE)
    advice = "nothing was changed; give a file that `ioflt provider backup` wrote, or another copy of it"
    with (
        ask(passphrase_file, "Passphrase of the backup") as passphrase,
        advising(CorruptDataError, "", advice),
    ):
        try:
            restored = open_store().restore(data, passphrase)
        except CorruptDataError as error:
            error.file = error.file or str(backup_file)
            raise
    tell_keyd()
    say(f"the provider {restored.name} is here")


@provider.command(short_help="Change a provider's passphrase.")
@click.argument("name")
@passphrase_option
@own_passphrase_option
def passwd(name: str, passphrase_file: str | None, provider_passphrase_file: str | None) -> None:
    """Change the passphrase of the provider NAME. The old one opens it no more.

    A backup of it keeps the passphrase that it was written under.
    """
    from ioflt.keys import slot_admin

    store = open_store()
    with contextlib.ExitStack() as stack:
        own = own_passphrase(stack, store, name, provider_passphrase_file)
        new = stack.enter_context(
            ask(passphrase_file, f"New passphrase of the provider {name}", confirm=True)
        )
        slot_admin.change_passphrase(store, name, new, own)
    tell_keyd()
    say(f"the provider {name} has a new passphrase")


@provider.command(short_help="Show or choose the provider of new keys.")
@click.argument("name", required=False)
@json_option
def default(name: str | None, as_json: bool) -> None:
    """Make NAME the provider of new keys; without NAME, show which one that is.

    Where none was chosen it is the only one, else `local`, which is made at first use.
    """
    from ioflt.keys.store import LOCAL

    store = open_store()
    if name is not None:
        store.choose(name)
    chosen = store.chosen()
    now = store.default() or LOCAL
    emit({"provider": now, "chosen": chosen is not None}, lambda: print(now), as_json)


@provider.command(short_help="Remove a provider whose keys nobody needs.")
@click.argument("name")
@click.option("--force", is_flag=True, help="Remove it although something needs it, or may; says what.")
def remove(name: str, force: bool) -> None:
    """Remove the provider NAME, and what opens it, for good. Only a backup brings its keys back.

    Refused while a VM or datastore has keys of it, as far as this machine opened them before; and while one
    of these datastores cannot be read, so that nobody knows. Copies of its files elsewhere stay.
    """
    from ioflt.datastore import seen
    from ioflt.errors import BusyError

    store = open_store()
    store.path(name)
    if name not in store.names():
        raise NotFoundError(f"no provider {name} is configured here")
    found = seen.survey(name)
    for use in found.uses:
        if use.locks:
            warn(f"{use.path}: {'locked from now on' if force else 'has keys of it'}")
        else:
            warn(f"{use.path}: {'loses' if force else 'has'} a key of it, another provider opens it too")
    for path, reason in found.unknown:
        warn(f"{path}: unknown whether it has keys of it: {reason}")
    if not force and found.uses:
        raise BusyError(f"keys of the provider {name} are in use")
    if not force and found.unknown:
        raise BusyError(f"nobody knows whether keys of the provider {name} are in use")
    store.remove(name)
    tell_keyd()
    say(f"the provider {name} is removed")
