"""`ioflt backup list`."""

from __future__ import annotations

from pathlib import Path

import click

from ioflt.cli import offers
from ioflt.cli.backup.destination import destination_argument, open_destination
from ioflt.cli.render import emit, json_option, size, table


@click.command(name="list")
@destination_argument
@click.option("--vm", metavar="NAME", shell_complete=offers.backed_up, help="Only those of this VM.")
@json_option
def list_(destination: Path, vm: str | None, as_json: bool) -> None:
    """List the points in time that DEST has of VMs.

    A full one needs no other; an increment needs those that it builds on. Who signed it is shown by the word
    of his machine. `ioflt backup verify` looks whether they are whole, and of this machine.
    """
    from ioflt.backup import listing

    with open_destination(destination) as found:
        points = listing.points(found, vm)

    def text() -> None:
        if not points:
            print("no backups in it")
            return
        table(
            ["VM", "POINT", "KIND", "STORED", "CONSISTENCY", "TRANSPORT", "SIGNED BY", "PROBLEM"],
            [
                [
                    each.vm,
                    each.point,
                    "" if each.full is None else "full" if each.full else "increment",
                    "" if each.size is None else size(each.size),
                    each.consistency or "",
                    each.transport or "",
                    each.signed_by or "",
                    each.problem or "",
                ]
                for each in points
            ],
        )

    emit(points, text, as_json)
