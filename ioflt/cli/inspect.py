"""`ioflt inspect` and `ioflt check`: look at what is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ioflt.cli import reporting
from ioflt.cli.exits import Exit
from ioflt.cli.render import emit, facts, json_option, progress, size, table
from ioflt.cli.session import connect_keys, file_argument
from ioflt.errors import UsageError

if TYPE_CHECKING:
    from ioflt.datastore.inspect import Description

_Command = TypeVar("_Command", bound=Callable[..., object])


def _place_argument(command: _Command) -> _Command:
    return click.argument("place", metavar="DIR[/VM]", type=click.Path(exists=True, path_type=Path))(command)


@click.command()
@file_argument
@json_option
def inspect(file: Path, as_json: bool) -> None:
    """Show what a stored file is: kind, cipher, key ids, sizes. Needs no key and verifies no MAC."""
    from ioflt.datastore.inspect import describe as look

    if file.is_dir() and not file.is_symlink():
        raise UsageError("is a directory, not a stored file", file=file)
    shown = look(file)
    emit(shown, lambda: facts(_lines(shown)), as_json)


@click.command()
@_place_argument
@click.option("--data", is_flag=True, help="Also all data that has tags: VMs with integrity.")
@json_option
def check(place: Path, data: bool, as_json: bool) -> int:
    """Verify every home and file of the datastore DIR, or of one VM: structure, records, keys, MACs.

    Names what is clear. With --data each sector of a VM with integrity is read and has to verify; the VM may
    run meanwhile. Exits with 0 only if all is sound, with 13 if something was found.
    """
    from ioflt.datastore import check as checks

    directory, vm = checks.place(place)
    total = checks.size(place) if data else None
    with connect_keys() as keys:
        with progress(f"checking {place}", total, files=not data) as bar:
            report = checks.run(directory, keys, bar.advance, vm=vm, data=data)
        reporting.tell_findings(keys, directory, report.entries)

    def text() -> None:
        table(
            ("FILE", "STATE", "FINDING"),
            [(entry.path, entry.state, entry.finding or "") for entry in report.entries],
        )

    emit(report, text, as_json)
    return Exit.OK if report.sound else Exit.FOUND


_SIZES = ("size", "allocated", "length", "body_size", "capacity", "filled_up_to")


def _lines(shown: Description) -> list[tuple[str, str]]:
    """Name and value of every field that says something, in the order of the fields."""
    lines = []
    for field in fields(shown):
        value = getattr(shown, field.name)
        if value is None or value == ():
            continue
        if field.name in _SIZES:
            value = f"{value}  ({size(value)})"
        elif isinstance(value, tuple):
            value = ", ".join(map(str, value))
        lines.append((field.name.replace("_", " "), str(value)))
    return lines
