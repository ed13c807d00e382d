"""`ioflt backup show`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ioflt.cli import offers
from ioflt.cli.backup.destination import destination_argument, open_destination
from ioflt.cli.render import describe, emit, json_option, moment, size

if TYPE_CHECKING:
    from ioflt.format.manifest.model import Manifest


@click.command()
@destination_argument
@click.argument("vm", metavar="VM", shell_complete=offers.backed_up)
@click.argument("point", metavar="[POINT]", required=False, shell_complete=offers.points)
@json_option
def show(destination: Path, vm: str, point: str | None, as_json: bool) -> None:
    """Show what a backup of VM holds, by its manifest; of the newest point, or of POINT.

    Who signed it is shown by the word of his machine, whichever that is: `ioflt backup verify` asks for one.
    """
    import msgspec

    from ioflt.backup import listing, sealing

    with open_destination(destination) as found, found.shelf(vm) as shelf:
        document = shelf.document(listing.named(shelf, point))
        with shelf.naming(document.manifest.point):
            sealing.check(document, None)  # nobody is named who did not sign it
    fields: dict[str, Any] = msgspec.to_builtins(document.manifest)
    shown = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
    shown["keys"] = [f"{key.provider}:{key.key_id}" for key in document.manifest.keys]
    shown["signed_by"], shown["signed_at"] = sealing.attested(document)
    emit(shown, lambda: describe(shown | _for_people(document.manifest)), as_json)


def _for_people(manifest: Manifest) -> dict[str, Any]:
    """What is long in a manifest, without digests, modes and nanoseconds."""
    return {
        "disks": [
            {
                "path": disk.path,
                "form": disk.form,
                "capacity": size(disk.capacity),
                "stored": size(disk.stored),
                "builds_on": disk.parent,
                "change_id": disk.change_id,
            }
            for disk in manifest.disks
        ],
        "files": [
            {"path": file.path, "size": size(file.size), "modified": moment(file.mtime // 10**9)}
            for file in manifest.files
        ],
        "directories": [each.path for each in manifest.directories],
        "links": [f"{each.path} -> {each.target}" for each in manifest.links],
    }
