"""`ioflt datastore`: make a directory a datastore, show one."""

from __future__ import annotations

from pathlib import Path

import click

from ioflt.cli.render import describe, emit, json_option, say, warn
from ioflt.cli.session import connect_keys, directory_argument, open_volume


@click.group()
def datastore() -> None:
    """Make a directory a datastore; show one."""


@datastore.command()
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False, readable=False, path_type=Path))
@click.option(
    "--encrypt/--clear",
    "encrypt",
    default=True,
    help="What new VMs are, and files at the top: encrypted (the default) or clear.",
)
@click.option("--provider", metavar="NAME", help="The key provider for new keys.")
@click.option("--adopt-clear", is_flag=True, help="Record the VMs that are in DIR already as clear.")
def init(directory: Path, encrypt: bool, provider: str | None, adopt_clear: bool) -> None:
    """Make DIR a datastore. It is made when it is not there.

    VMs that are in DIR already stay as they are. They are listed; with --adopt-clear they get a record that
    says that they are clear, without it they are read-only through a mount until `ioflt vm register`.
    """
    from ioflt.cli import places
    from ioflt.datastore import lifecycle, summary
    from ioflt.datastore.volume import Volume
    from ioflt.errors import IofltError, UsageError
    from ioflt.types import HomeState

    for found, what in (
        (places.home_behind_mount(directory), "a mount"),
        (places.datastore_above(directory), "a datastore"),
    ):
        if found is not None:
            raise UsageError(f"no datastore is made inside {what}, here {found}", file=directory)
    default = HomeState.ENCRYPTED if encrypt else HomeState.CLEAR
    with connect_keys() as keys:
        Volume.init(directory, default, keys, provider=provider)
        say(f"{directory}: a datastore now, new VMs are {default.value}")
        with Volume.open(directory, keys) as volume:
            for home in summary.homes(volume):
                if home.problem is None:
                    continue
                if not adopt_clear:
                    warn(f"{directory / home.name}: {home.problem}")
                    continue
                try:
                    lifecycle.register(volume, home.name, clear=True)
                    say(f"{directory / home.name}: recorded as clear")
                except IofltError as error:
                    warn(str(error))


@datastore.command()
@directory_argument
@json_option
def show(directory: Path, as_json: bool) -> None:
    """Show the datastore's record and its VMs."""
    from ioflt.datastore import summary

    with open_volume(directory, read_only=True) as volume:
        homes = [
            {"name": home.name, "state": home.state, "problem": home.problem}
            for home in summary.homes(volume)
        ]
        shown = {"directory": str(directory), "record": volume.record, "homes": homes}

    def text() -> None:
        describe(shown)
        if not homes:
            print("\nno VMs in it")

    emit(shown, text, as_json)
