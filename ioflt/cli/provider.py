"""`ioflt provider`: where keys come from."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ioflt.cli.hints import advising
from ioflt.cli.passphrase import ask, passphrase_option
from ioflt.cli.render import emit, json_option, say
from ioflt.errors import CorruptDataError, ExistsError

if TYPE_CHECKING:
    from ioflt.crypto.secret import Secret
    from ioflt.keys.store import ProviderStore


@click.group()
def provider() -> None:
    """Key providers: where keys come from."""


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
        made = _store().create(name, secret)
    _tell_keyd()
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
@click.option(
    "--provider-passphrase-file",
    metavar="F",
    help="Read the provider's own passphrase from F, where it has one.",
)
def backup(name: str, out: Path, passphrase_file: str | None, provider_passphrase_file: str | None) -> None:
    """Write the key of the provider NAME to the new file OUT, protected by a passphrase for it.

    Who has OUT and its passphrase can read everything that NAME encrypted. Keep it off this machine.
    """
    from ioflt.keys import files

    store = _store()
    if os.path.lexists(out):  # before anything is asked
        raise ExistsError("it exists already", file=out)
    with contextlib.ExitStack() as stack:
        own: Secret | None = None
        if provider_passphrase_file is not None or store.opens_by_passphrase_only(name):
            own = stack.enter_context(ask(provider_passphrase_file, f"Passphrase of the provider {name}"))
        new = stack.enter_context(ask(passphrase_file, "Passphrase for the backup", confirm=True))
        data = store.backup(name, new, own)
    files.create(out, data)
    store.mark_backed_up(name)
    _tell_keyd()
    say(f"{out}: backup of the provider {name}; test it and keep it elsewhere")


@provider.command(short_help="Bring a provider back from its backup.")
@click.argument("backup_file", metavar="OUT", type=click.Path(readable=False, path_type=Path))
@passphrase_option
def restore(backup_file: Path, passphrase_file: str | None) -> None:
    """Bring back the provider that `ioflt provider backup` wrote to OUT."""
    from ioflt.keys import files
    from ioflt.keys.provider_file import MAX_FILE

    data = files.read(backup_file, MAX_FILE)
    advice = "nothing was changed; give a file that `ioflt provider backup` wrote, or another copy of it"
    with (
        ask(passphrase_file, "Passphrase of the backup") as passphrase,
        advising(CorruptDataError, "", advice),
    ):
        try:
            restored = _store().restore(data, passphrase)
        except CorruptDataError as error:
            error.file = error.file or str(backup_file)
            raise
    _tell_keyd()
    say(f"the provider {restored.name} is here")


def _store() -> ProviderStore:
    from ioflt import paths
    from ioflt.keys.store import ProviderStore

    return ProviderStore(paths.find().ensure().providers)


def _tell_keyd() -> None:
    """A keyd that runs reads the files again."""
    from ioflt.keys.client import KeyClient
    from ioflt.transport.unix import NotListening

    with contextlib.suppress(NotListening), KeyClient(start=False) as keys:
        keys.reload()
