"""What commands share that work on a destination: how it is named, and opened with a key or without."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ioflt.cli.render import say
from ioflt.cli.session import connect_keys, open_volume
from ioflt.errors import CorruptDataError, NotFoundError, UsageError

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
    with _advising_verify(path):
        if kind == "ciphertext":
            with repository.open_ciphertext(path) as found:
                yield found
            return
        with open_volume(path, read_only=read_only) as volume, repository.of_volume(volume) as found:
            yield found


@contextmanager
def _advising_verify(path: Path) -> Iterator[None]:
    """Advice for what is not whole in that destination, not in another one beside it."""
    try:
        yield
    except CorruptDataError as error:
        inside = Path(os.path.abspath(path)) in Path(error.file or "").parents
        if inside and re.match("changed|link missing|file missing", error.message):
            error.add_note(f"what else is missing or changed: ioflt backup verify {shlex.quote(str(path))}")
        raise


@contextmanager
def making_destination(path: Path, *, ciphertext: bool, clear: bool) -> Iterator[Repository]:
    """The destination; made, of that kind, if it is not there."""
    from ioflt.backup import repository

    if repository.kind_of(path) is None:
        _check_place(path)
        if ciphertext:
            repository.make_ciphertext(path)
        else:
            _make(path, clear=clear)
    with open_destination(path, read_only=False) as found:
        yield found


def _check_place(path: Path) -> None:
    """Nothing of a VM is there: what a backup puts there would be in the next one."""
    from ioflt.cli import places

    for found, what in (
        (places.behind_mount(path), "a mount"),
        (places.datastore_above(path), "a datastore"),
    ):
        if found is not None:
            raise UsageError(f"no destination is made inside {what}, here {found}", file=path)


def _make(path: Path, *, clear: bool) -> None:
    from ioflt.datastore.volume import Volume
    from ioflt.types import HomeState

    with connect_keys() as keys:
        Volume.init(path, HomeState.CLEAR if clear else HomeState.ENCRYPTED, keys)
    say(f"{path}: a datastore now, for backups")
