"""`ioflt backup show`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ioflt.cli.backup.destination import destination_argument, open_destination
from ioflt.cli.render import describe, emit, json_option


@click.command()
@destination_argument
@click.argument("vm", metavar="VM")
@click.argument("point", metavar="[POINT]", required=False)
@json_option
def show(destination: Path, vm: str, point: str | None, as_json: bool) -> None:
    """Show what a backup of VM holds, by its manifest; of the newest point, or of POINT."""
    import msgspec

    from ioflt.backup import listing
    from ioflt.backup.sealing import attested

    with open_destination(destination) as found, found.shelf(vm) as shelf:
        document = shelf.document(listing.named(shelf, point))
    fields: dict[str, Any] = msgspec.to_builtins(document.manifest)
    shown = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
    shown["keys"] = [f"{key.provider}:{key.key_id}" for key in document.manifest.keys]
    shown["signed_by"], shown["signed_at"] = attested(document)
    emit(shown, lambda: describe(shown), as_json)
