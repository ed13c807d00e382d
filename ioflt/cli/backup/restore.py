"""`ioflt backup restore`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ioflt.cli import offers, reporting
from ioflt.cli.backup.destination import destination_argument, open_destination
from ioflt.cli.backup.watching import progress_option, watched
from ioflt.cli.hints import advising
from ioflt.cli.render import describe, emit, json_option, say, warn
from ioflt.cli.session import connect_keys, logged, open_volume
from ioflt.errors import AuthenticationError, ExistsError

if TYPE_CHECKING:
    from ioflt.format.manifest.model import Document


@click.command()
@destination_argument
@click.argument("target", metavar="TARGET", type=click.Path(readable=False, path_type=Path))
@click.option("--vm", metavar="NAME", help="The VM whose backup it is, where DEST has several.")
@click.option("--as", "name", metavar="NAME", help="The new VM's name; else the one that it had.")
@click.option("--at", "moment", metavar="TIME", help="The newest point up to then; else the newest.")
@click.option(
    "--policy", metavar="NAME", shell_complete=offers.policies, help="The storage policy of the new VM."
)
@progress_option
@json_option
def restore(
    destination: Path,
    target: Path,
    vm: str | None,
    name: str | None,
    moment: str | None,
    policy: str | None,
    lines: bool,
    as_json: bool,
) -> None:
    """Make a VM anew in the datastore TARGET from a backup in DEST.

    It is encrypted on the way in, as its policy says: that given, else the one that it had, if this host
    knows it, else TARGET's. It gets the key that it had, if the provider still has it and you may use it;
    else a new one. Disks come back under their names: VMDKs as thin flat ones, qcow2 without backing files.

    No VM is overwritten. Interrupted, the same command goes on where it was.
    """
    from ioflt.backup import listing
    from ioflt.backup import restore as restoring
    from ioflt.datastore import policies

    with (
        advising(ExistsError, "", "give it another name: --as NAME"),
        open_destination(destination) as found,
        open_volume(target) as volume,
        found.shelf(vm or listing.sole(found)) as shelf,
    ):
        document = shelf.document(listing.at(shelf, moment))
        _check(document, destination)
        manifest = document.manifest
        new = name or manifest.vm
        given = None if policy is None else policies.to_assign(volume.keys, policy)
        encrypts = (given or restoring.becomes(volume, manifest)).encrypts
        told = reporting.told(
            reporting.datastore(target),
            ("restore", None, os.path.join(os.path.abspath(destination), manifest.vm, manifest.point)),
            ("name", None, new),
            part="" if encrypts else "a clear VM",
        )
        total = 2 * sum(disk.stored for disk in manifest.disks) if manifest.full else None
        with logged(), told, watched(f"restoring {new}", total, lines) as bar:
            made = restoring.restore(shelf, manifest, volume, new, given, bar.advance)

    def text() -> None:
        say(f"{target / new}: restored")
        describe(made)

    emit(made, text, as_json)


def _check(document: Document, destination: Path) -> None:
    """It is what somebody signed; a warning where that was not this machine."""
    from ioflt.backup import sealing

    with connect_keys() as keys:
        own = keys.manifest_key()
    try:
        sealing.check(document, own)
    except AuthenticationError as error:
        if error.reason != sealing.STRANGER:
            raise
        who, when = sealing.attested(document)
        told = f"signed on another machine than this one, by its word for {who} at {when}"
        warn(
            f"{destination}: {told}; ioflt backup verify --public-key looks whether by the one that you know"
        )
