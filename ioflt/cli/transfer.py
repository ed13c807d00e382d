"""`ioflt vm import` and `ioflt vm export`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from ioflt.cli.hints import advising
from ioflt.cli.render import describe, emit, json_option, progress, say
from ioflt.cli.session import file_argument, home_argument, open_volume
from ioflt.errors import CorruptDataError, ExistsError, UnsupportedError

_BAD_PACKAGE = "nothing was changed; compare it with the original, or have it exported again"


@click.command(name="import")
@file_argument
@click.argument("directory", metavar="DATASTORE", type=click.Path(readable=False, path_type=Path))
@click.option("--as", "name", metavar="NAME", help="The new VM's name; else that of the file or directory.")
@json_option
def import_(file: Path, directory: Path, name: str | None, as_json: bool) -> None:
    """Bring a VM into DATASTORE: an OVA, an .ovf with its files beside it, or a directory with a VM.

    The new VM is encrypted, or clear, as the datastore's default says; nothing is written anywhere else.
    A disk of an OVA becomes a thin flat one. If the import fails, what it made is removed.
    """
    from ioflt.datastore import transfer

    with (
        open_volume(directory) as volume,
        advising(ExistsError, "", "give it another name: --as NAME"),
        advising(CorruptDataError, "", _BAD_PACKAGE),
    ):
        if file.is_dir():
            with progress(f"importing {file.name}", None) as bar:
                made = transfer.import_directory(volume, file, name, bar.advance)
        else:
            whole = file.stat().st_size if file.suffix.lower() == ".ova" else None
            with progress(f"importing {file.name}", whole) as bar:
                made = transfer.import_package(volume, file, name, bar.advance)
    for left in made.left_out:
        say(f"{left}: left out, it is no disk")
    emit(made, lambda: describe(made), as_json)


@click.command()
@home_argument
@click.argument("out", metavar="OUT", type=click.Path(readable=False, path_type=Path))
@json_option
def export(home: tuple[Path, str], out: Path, as_json: bool) -> None:
    """Write the powered-off VM to OUT, decrypted: an OVA if OUT ends in .ova, else a new directory.

    An OVA has the VM's hardware and disks, for other hypervisors. A directory has all files as they are,
    snapshots included. OUT must not be there yet, nor lie in the datastore.
    """
    from ioflt.datastore import transfer

    directory, name = home
    write = transfer.export_ova if out.suffix.lower() == ".ova" else transfer.export_directory
    everything = f"ioflt vm export {shlex.quote(str(directory / name))} OUTDIR"
    with (
        advising(UnsupportedError, "has a parent", f"export all of it, to a directory: {everything}"),
        open_volume(directory, read_only=True) as volume,
        progress(f"exporting {name}", None) as bar,
    ):
        made = write(volume, name, out, bar.advance)
    say(f"{out}: written; the export is not encrypted")
    emit(made, lambda: describe(made), as_json)
