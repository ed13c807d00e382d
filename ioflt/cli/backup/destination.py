"""What commands share that work on a destination: how it is named, and opened with a key or without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ioflt.cli.session import open_volume
from ioflt.errors import NotFoundError

if TYPE_CHECKING:
    from ioflt.backup.repository import Repository

_Command = TypeVar("_Command", bound=Callable[..., object])


def destination_argument(command: _Command) -> _Command:
    """Add the argument `DEST` (parameter `destination`)."""
    path = click.Path(readable=False, path_type=Path)
    return click.argument("destination", metavar="DEST", type=path)(command)


@contextmanager
def open_destination(path: Path, *, read_only: bool = True) -> Iterator[Repository]:
    """The destination there; one of ciphertext without keyd."""
    from ioflt.backup import repository

    kind = repository.kind_of(path)
    if kind is None:
        raise NotFoundError("no backups here", file=path)
    if kind == "ciphertext":
        with repository.open_ciphertext(path) as found:
            yield found
        return
    with open_volume(path, read_only=read_only) as volume, repository.of_volume(volume) as found:
        yield found
