"""`ioflt backup mount`."""

from __future__ import annotations

from pathlib import Path

import click

from ioflt.cli.backup.destination import destination_argument
from ioflt.cli.mount import naming_missing
from ioflt.cli.session import connect_keys, warning_of_keys
from ioflt.errors import NotFoundError, UsageError


@click.command()
@destination_argument
@click.argument("mountpoint", metavar="MOUNTPOINT", type=click.Path(readable=False, path_type=Path))
@click.option("--foreground", is_flag=True, help="Stay in the foreground, log to stderr, end by Ctrl-C.")
@click.option("--allow-other", is_flag=True, help="Let other users in, as far as the file modes admit them.")
def mount(destination: Path, mountpoint: Path, foreground: bool, allow_other: bool) -> int:
    """Show what DEST has at MOUNTPOINT, decrypted: MOUNTPOINT/VM/POINT/DISK.qcow2, for reading only.

    QEMU reads an increment with all that it builds on. To boot a VM from a backup give it a layer of its own,
    in an encrypted VM of a mounted datastore, as it gets what the guest writes:

    \b
    qemu-img create -f qcow2 -F qcow2 -b MOUNTPOINT/VM/POINT/DISK.qcow2 LAYER.qcow2

    Ends as `ioflt mount`, by `ioflt umount`. A backup made with --ciphertext cannot be shown so.
    """
    from ioflt.backup import repository
    from ioflt.fuse import starter

    kind = repository.kind_of(destination)
    if kind is None:
        raise NotFoundError("no backups here", file=destination)
    if kind == "ciphertext":
        raise UsageError("holds ciphertext: restore it into a datastore, and mount that", file=destination)
    with connect_keys():  # warnings, and a clear word if keyd cannot be had
        pass
    with naming_missing(mountpoint):
        return starter.start(
            destination,
            mountpoint,
            read_only=True,
            allow_other=allow_other,
            foreground=foreground,
            lacking=warning_of_keys(destination),
        )
