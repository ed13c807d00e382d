"""`ioflt mount` and `ioflt umount`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from ioflt.cli.session import connect_keys, directory_argument, warning_of_keys
from ioflt.errors import NotFoundError, UsageError


@click.command()
@directory_argument
@click.argument("mountpoint", metavar="MOUNTPOINT", type=click.Path(readable=False, path_type=Path))
@click.option("--read-only", is_flag=True, help="Change not one byte of the datastore.")
@click.option("--foreground", is_flag=True, help="Stay in the foreground, log to stderr, end by Ctrl-C.")
@click.option("--allow-other", is_flag=True, help="Let other users in, as far as the file modes admit them.")
def mount(directory: Path, mountpoint: Path, read_only: bool, foreground: bool, allow_other: bool) -> int:
    """Show the decrypted files of the datastore DIR at MOUNTPOINT.

    Returns when the mount is served. keyd is started when it is not running, and what a killed mount left at
    MOUNTPOINT is cleaned up. Ends by `ioflt umount`, umount(8), SIGTERM or SIGINT, everything written back.

    Also mounted, with a warning, where the datastore's own key cannot be had: VMs whose keys can be had work,
    the rest is locked (ENOKEY), and unlocks by itself when the key is back.
    """
    from ioflt.fuse import starter

    with connect_keys():  # warnings, and a clear word if keyd cannot be had
        pass
    with naming_missing(mountpoint):
        return starter.start(
            directory,
            mountpoint,
            read_only=read_only,
            allow_other=allow_other,
            foreground=foreground,
            lacking=warning_of_keys(directory),
        )


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
