"""`ioflt mount` and `ioflt umount`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ioflt.cli.render import warn
from ioflt.cli.session import connect_keys, directory_argument, warning_of_keys
from ioflt.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from ioflt.access.principals import Principal


@click.command()
@directory_argument
@click.argument("mountpoint", metavar="MOUNTPOINT", type=click.Path(readable=False, path_type=Path))
@click.option("--read-only", is_flag=True, help="Change not one byte of the datastore.")
@click.option("--foreground", is_flag=True, help="Stay in the foreground, log to stderr, end by Ctrl-C.")
@click.option("--allow-other", is_flag=True, help="Let other users in, as far as the file modes admit them.")
@click.option("--as", "principal", metavar="WHO", help="For that user or service, with his permissions.")
def mount(
    directory: Path,
    mountpoint: Path,
    read_only: bool,
    foreground: bool,
    allow_other: bool,
    principal: str | None,
) -> int:
    """Show the decrypted files of the datastore DIR at MOUNTPOINT.

    Returns when the mount is served. keyd is started when it is not running, and what a killed mount left at
    MOUNTPOINT is cleaned up. Ends by `ioflt umount`, umount(8), SIGTERM or SIGINT, everything written back.

    With --as what opens is what WHO may read and change (`ioflt permission`), and root's mount is entered by
    that user alone. With --allow-other every user enters, and reads all that WHO may, as far as file modes
    admit him: whoever opens a file first is in the log.

    Also mounted, with a warning, where the datastore's own key cannot be had: VMs whose keys can be had work,
    the rest is locked (ENOKEY), and unlocks by itself when the key is back.
    """
    from ioflt.fuse import starter

    visitor = parse_visitor(principal)
    warn_of_others(visitor, allow_other=allow_other)
    with connect_keys():  # warnings, and a clear word if keyd cannot be had
        pass
    with naming_missing(mountpoint):
        return starter.start(
            directory,
            mountpoint,
            read_only=read_only,
            allow_other=allow_other,
            principal=visitor,
            foreground=foreground,
            lacking=warning_of_keys(directory),
        )


def parse_visitor(text: str | None) -> Principal | None:
    """For whom a mount is. Raises UsageError for a group: one mount is one person's; NotFoundError."""
    from ioflt.access.principals import Kind, parse
    from ioflt.fuse import visitors
    from ioflt.keys.client import KeyClient

    if text is None:
        return None
    found = parse(text)
    if found.kind is Kind.GROUP:
        raise UsageError(f"a mount is for one user or service, not for the {found}")
    if found.kind is Kind.USER:
        visitors.ids(found.name)
    else:
        with KeyClient.connect(operation="service list") as keys:
            keys.access().service(found.name)
    return found


def warn_of_others(visitor: Principal | None, *, allow_other: bool) -> None:
    """Say what `allow_other` means for a mount that is somebody's."""
    if visitor is not None and allow_other:
        warn(f"every user reads in this mount what {visitor} may, as far as the file modes admit him")


@contextmanager
def naming_missing(mountpoint: Path) -> Iterator[None]:
    """Say of a mount point that is not there that it is missing, rather than no directory.

    Looked at after the attempt only: a dead mount, which that cleans up, looks like nothing before.
    """
    try:
        yield
    except UsageError as error:
        if os.path.lexists(mountpoint):
            raise
        raise NotFoundError("the mount point does not exist", file=mountpoint) from error


@click.command()
@click.argument("mountpoint", metavar="MOUNTPOINT", type=click.Path(readable=False, path_type=Path))
def umount(mountpoint: Path) -> None:
    """Unmount MOUNTPOINT; back when everything is written and the mount's process has ended."""
    from ioflt.fuse import starter

    starter.stop(mountpoint)
