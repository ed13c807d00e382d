"""`ioflt backup verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ioflt.cli import offers
from ioflt.cli.backup.destination import destination_argument, open_destination
from ioflt.cli.backup.signer import public_key, public_key_option
from ioflt.cli.backup.watching import progress_option, watched
from ioflt.cli.exits import Exit
from ioflt.cli.render import emit, json_option, say, table

if TYPE_CHECKING:
    from ioflt.backup.repository import Repository


@click.command()
@destination_argument
@click.option("--vm", metavar="NAME", shell_complete=offers.backed_up, help="Only backups of this VM.")
@click.option(
    "--point",
    metavar="POINT",
    shell_complete=offers.points,
    help="Only this point, and what it builds on; with --vm.",
)
@public_key_option
@progress_option
@json_option
def verify(
    destination: Path, vm: str | None, point: str | None, key_file: Path | None, lines: bool, as_json: bool
) -> None:
    """Look whether the backups in DEST are whole: signatures, digests of all files, what images hold, and
    that nothing is missing on which an increment builds.

    Exits with 13 where something is not as it was stored, and says what. No key is needed for backups made
    with --ciphertext. `ioflt backup verify --public-key` takes what `ioflt attest --public-key` printed on
    the machine that made them.
    """
    from ioflt.backup import verify as verifying

    if point is not None and vm is None:
        raise click.UsageError("--point goes with --vm")
    key = public_key(key_file)
    with (
        open_destination(destination) as found,
        watched(f"verifying {destination}", _amount(found, vm, point), lines) as bar,
    ):
        done = verifying.verify(found, vm, point, key=key, progress=bar.advance)

    def text() -> None:
        if done.findings:
            table(
                ["VM", "POINT", "FILE", "FINDING"],
                [[each.vm, each.point, each.file, each.finding] for each in done.findings],
            )
        else:
            signed = f", signed by {', '.join(done.signed_by)}" if done.signed_by else ""
            say(f"{destination}: all as it was stored; points: {done.points}, files: {done.files}{signed}")

    emit(done, text, as_json)
    if done.findings:
        raise click.exceptions.Exit(Exit.FOUND)


def _amount(found: Repository, vm: str | None, point: str | None) -> int:
    """Bytes to look at, as far as manifests say."""
    from ioflt.backup import listing

    return sum(each.size or 0 for each in listing.points(found, vm) if point in (None, each.point))
