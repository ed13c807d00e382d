"""Whose signature backups have to have: that of this machine, or of the one whose public key is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import click

from ioflt.cli.session import connect_keys

_Command = TypeVar("_Command", bound=Callable[..., object])

#: Longest file of a public key read.
_MAX_KEY: Final = 4096


def public_key_option(command: _Command) -> _Command:
    """Add the option `--public-key` (parameter `key_file`)."""
    return click.option(
        "--public-key",
        "key_file",
        metavar="FILE",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="They are signed by the machine with this key, in PEM; else by this machine.",
    )(command)


def public_key(path: Path | None) -> str:
    """In PEM: that in the file, else this machine's."""
    if path is not None:
        with path.open("rb") as file:
            return file.read(_MAX_KEY).decode("ascii", "replace")
    with connect_keys() as keys:
        return keys.manifest_key()
