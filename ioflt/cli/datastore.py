"""`ioflt datastore`: make a directory a datastore, show one, change its keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ioflt.cli import reporting
from ioflt.cli.hints import advising_key
from ioflt.cli.render import describe, emit, json_option, moment, progress, say, warn
from ioflt.cli.session import connect_keys, directory_argument, logged, open_volume, warn_unknown_policy

if TYPE_CHECKING:
    from ioflt.datastore.volume import Volume


@click.group()
def datastore() -> None:
    """Make a directory a datastore; show one; change its keys."""


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
@json_option
def init(directory: Path, encrypt: bool, provider: str | None, adopt_clear: bool, as_json: bool) -> None:
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
        if not as_json:
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
            emit(_shown(directory, volume), lambda: None, as_json)


@datastore.command()
@directory_argument
@json_option
def show(directory: Path, as_json: bool) -> None:
    """Show the datastore's record and its VMs.

    Where its own key cannot be had, what the record claims, and which key is missing where and since when.
    """
    with open_volume(directory, read_only=True, keyless=True) as volume:
        shown = _shown(directory, volume)
        warn_unknown_policy(volume, directory, volume.claimed.policy)

    def text() -> None:
        describe(shown)
        if not shown["homes"]:
            print("\nno VMs in it")

    emit(shown, text, as_json)


def _shown(directory: Path, volume: Volume) -> dict[str, Any]:
    import msgspec

    from ioflt.datastore import summary

    own = msgspec.to_builtins(summary.own(volume))
    for key in own["missing"]:
        key["since"] = moment(key["since"])
    record = volume.claimed
    with progress(f"reading {directory}", None, files=True) as bar:
        homes = summary.homes(volume, bar.advance)
    return {
        "directory": str(directory),
        "record": {
            "datastore_id": record.datastore_id,
            "default": record.default,
            "policy": record.policy,
            "generation": record.generation,
            "operation": record.operation and record.operation.kind,
            "keys": [str(key) for key in record.keys],
            **own,
        },
        "homes": [{"name": home.name, "state": home.state, "problem": home.problem} for home in homes],
    }


@datastore.command(short_help="Give the datastore itself another key.")
@directory_argument
@click.option("--key", "key_id", metavar="ID", help="This key, not a new one.")
@click.option("--provider", metavar="NAME", help="A new key of this provider, or its key ID.")
@click.option("--add-provider", "add", metavar="NAME", help="A key of this provider besides those it has.")
@json_option
def recrypt(
    directory: Path, key_id: str | None, provider: str | None, add: str | None, as_json: bool
) -> None:
    """Give the datastore itself other keys: those of its record, of clear VMs' records, of files at its top.

    Encrypted VMs have keys of their own, which stay: `ioflt vm recrypt`. New VMs get keys of the provider
    that the datastore has then. It may be mounted meanwhile. Run again after an interruption it goes on;
    until then the datastore opens by the old keys or the new ones.
    """
    from ioflt.datastore import recrypt as shallow

    if add is not None and (key_id is not None or provider is not None):
        raise click.UsageError("--add-provider goes with neither --key nor --provider")
    with (
        advising_key(key_id, directory),
        open_volume(directory) as volume,
        logged(),
        progress(f"recrypting {directory}", None, files=True) as bar,
    ):
        options = {"key_id": key_id, "provider": provider, "add": add}
        keys = shallow.recrypt_datastore(volume, **options, progress=bar.advance)
    done = [str(key) for key in keys]
    emit({"keys": done}, lambda: say(f"{directory}: recrypted, opens by {' or '.join(done)}"), as_json)


@datastore.command(short_help="Vouch for an older datastore, or another one.")
@directory_argument
@click.option(
    "--accept-rollback", is_flag=True, required=True, help="It is older, or another one, and meant so."
)
@json_option
def register(directory: Path, accept_rollback: bool, as_json: bool) -> None:
    """Vouch for a datastore whose record is older than this host has seen it: its keys changed since.

    Or for another datastore than the one that this host has seen there.

    Until then it does not open. Whoever has one of those older keys may have written that record, and can
    make records by which encrypted VMs are clear. Those of clear VMs that got MACs by newer keys are not
    valid any more: `ioflt vm register --clear`.
    """
    from ioflt.datastore.volume import Volume

    about = reporting.datastore(directory)
    with connect_keys() as keys, logged():
        with reporting.told(about, ("rollback", None, "accepted"), keys=keys):
            Volume.accept_rollback(directory, keys)
        with Volume.open(directory, keys, read_only=True) as volume:
            now = _shown(directory, volume)
    emit(now, lambda: say(f"{directory}: registered"), as_json)
