"""`ioflt inspect` and `ioflt check`: look at what is stored."""

from __future__ import annotations

from pathlib import Path

import click

from ioflt.cli.exits import Exit
from ioflt.cli.render import describe, emit, json_option, table
from ioflt.cli.session import connect_keys, directory_argument, file_argument


@click.command()
@file_argument
@json_option
def inspect(file: Path, as_json: bool) -> None:
    """Show what a stored file is: kind, cipher, key ids, sizes. Needs no key and verifies no MAC."""
    from ioflt.datastore.inspect import describe as look

    shown = look(file)
    emit(shown, lambda: describe(shown), as_json)


@click.command()
@directory_argument
@json_option
@click.pass_context
def check(ctx: click.Context, directory: Path, as_json: bool) -> None:
    """Verify every home and file of the datastore DIR: structure, records, keys, MACs. Names what is clear.

    Exits with 0 only if all is sound, with 13 if something was found.
    """
    from ioflt.datastore import check as checks

    with connect_keys() as keys:
        report = checks.run(directory, keys)

    def text() -> None:
        table(
            ("FILE", "STATE", "FINDING"),
            [(entry.path, entry.state, entry.finding or "") for entry in report.entries],
        )

    emit(report, text, as_json)
    if not report.sound:
        ctx.exit(Exit.FOUND)
