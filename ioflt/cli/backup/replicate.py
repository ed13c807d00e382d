"""`ioflt backup replicate`."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ioflt.cli import offers, reporting
from ioflt.cli.backup.destination import destination_argument, making_destination, open_destination
from ioflt.cli.backup.watching import progress_option, watched
from ioflt.cli.render import emit, json_option, say
from ioflt.errors import UsageError

if TYPE_CHECKING:
    from ioflt.backup.repository import Repository
    from ioflt.backup.shelf import Shelf


@click.command()
@destination_argument
@click.argument("other", metavar="OTHER", type=click.Path(readable=False, path_type=Path))
@click.option("--vm", metavar="NAME", shell_complete=offers.backed_up, help="Only backups of this VM.")
@progress_option
@json_option
def replicate(destination: Path, other: Path, vm: str | None, lines: bool, as_json: bool) -> None:
    """Copy what OTHER lacks of the points in DEST, each verified, and whole or not there.

    OTHER is made if it is not there, of the same kind; a datastore has keys of its own. No key is needed for
    backups made with --ciphertext.
    """
    from ioflt.backup import replicate as replicating

    if os.path.realpath(destination) == os.path.realpath(other):
        raise UsageError("is the same destination", file=other)
    done = []
    with open_destination(destination) as source, _other(other, source) as target:
        replicating.check_kinds(source, target)
        part = "of ciphertext" if source.kind == "ciphertext" else ""
        for name in source.vms() if vm is None else [vm]:
            with source.shelf(name) as old, old.steady(), _shelf(target, name) as new, new.alone():
                new.check_backups()
                points = replicating.missing(old, new)
                done.append(replicating.Replicated(name, points, len(new.points())))
                for point in points:
                    told = reporting.told(
                        reporting.datastore(other),
                        ("backup", None, os.path.join(new.path, point)),
                        ("replicate", None, os.path.join(old.path, point)),
                        part=part,
                    )
                    amount = 2 * old.document(point).manifest.stored  # read, and what was written read back
                    with told, watched(f"copying {name} {point}", amount, lines) as bar:
                        replicating.replicate(old, new, point, bar.advance)

    def text() -> None:
        for each in done:
            say(f"{other / each.vm}: {len(each.copied)} copied, {each.present} there before")

    emit(done, text, as_json)


def _shelf(target: Repository, vm: str) -> AbstractContextManager[Shelf]:
    target.make_shelf(vm)
    return target.shelf(vm)


def _other(path: Path, source: Repository) -> AbstractContextManager[Repository]:
    return making_destination(path, ciphertext=source.kind == "ciphertext", clear=source.kind == "clear")
