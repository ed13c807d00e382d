"""`ioflt vm erase`: the keys in a VM's files overwritten, its files removed, its key destroyed if wanted."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ioflt.cli import reporting
from ioflt.cli.hints import advising
from ioflt.cli.render import describe, emit, json_option, printable, progress, say, warn
from ioflt.cli.session import connect_keys, home_argument, logged
from ioflt.cli.vm import open_vms
from ioflt.errors import BusyError, IofltError, KeyUnavailableError, UsageError
from ioflt.types import KeyRef

if TYPE_CHECKING:
    from ioflt.datastore.erase import Receipt

_IN_USE = "leave the key: ioflt vm erase without --destroy-key"
_NO_KEY = "without --destroy-key no key is needed: what opens the VM's files is overwritten all the same"


@click.command()
@home_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--destroy-key", is_flag=True, help="Its keys too, on their key servers, if nothing else has them."
)
@click.option(
    "--receipt",
    "out",
    metavar="OUT",
    type=click.Path(readable=False, path_type=Path),
    help="Write what was erased to the new file OUT, as JSON.",
)
@json_option
def erase(home: tuple[Path, str], yes: bool, destroy_key: bool, out: Path | None, as_json: bool) -> None:
    """Erase the powered-off encrypted VM: overwrite what opens its files, then remove them.

    Headers with wrapped keys and recovery slots, states, sealed VMX files and the record get random bytes;
    the data stays where it lies, as ciphertext that nothing opens. That is quick, also for large disks, and
    needs no key; only disks that are clear are overwritten whole. Once begun, the next command on the
    datastore or the next mount finishes it.

    Raw copies and header backups of the VM open as before, by its keys and recovery passphrases. So may old
    blocks where the storage does not overwrite in place (btrfs, snapshots, flash): what has no recovery slots
    is gone there, too, once the key is. --destroy-key revokes and destroys it on its key servers. A key that
    is derived from its provider's own cannot be destroyed by itself, and is removed from this machine.
    """
    directory, name = home
    place = directory / name
    if out is not None:
        _check_out(out, place)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("an erased VM never comes back; if that is meant, say --yes")
        keys = " and destroy its keys" if destroy_key else ", not its keys (--destroy-key destroys them, too)"
        click.confirm(f"Erase {printable(str(place))}{keys}?", abort=True, err=True)
    receipt = _erase(directory, name, destroy_key)
    if out is not None:
        _write(out, receipt)
    for key in receipt.keys:
        if destroy_key and key.fate != "destroyed":
            warn(
                f"{key.key}: its provider derives it, so it cannot be destroyed by itself; it is removed from"
                " this machine"
            )
        for other in key.also_protects:
            warn(f"{key.key}: kept, it also opens {other}")
        if key.fate == "kept" and not key.also_protects:
            _tell_kept(KeyRef(*key.key.split(":", 1)))
    if not receipt.verified:
        warn(
            f"{place}: no key of it can be had, so its record was not verified: ids and keys are what it said"
        )
    for path in receipt.unknown:
        warn(f"{path}: unknown whether it has a key of the VM")
    for file in receipt.files:
        if file.stored == "clear":
            warn(
                f"{place / file.path}: was clear, and is overwritten; no key hides what the storage keeps of"
                " it elsewhere (btrfs, snapshots, flash)"
            )

    def text() -> None:
        say(f"{place}: erased; raw copies and header backups of it are not")
        describe(_short(receipt))

    emit(receipt, text, as_json)


def _tell_kept(key: KeyRef) -> None:
    """How to destroy a key by itself, where that can be done: nothing has the VM's name any more."""
    from ioflt.keys.kmip.file import KIND

    with connect_keys() as keys:
        kinds = {one.name: one.kind for one in keys.status().providers}
    if kinds.get(key.provider) == KIND:
        named = shlex.join((key.provider, key.key_id))
        say(
            f"{key}: stays on its key servers, as --destroy-key was not given; to destroy it:"
            f" ioflt key revoke {named}, ioflt key destroy {named}"
        )


def _erase(directory: Path, name: str, destroy_key: bool) -> Receipt:
    from ioflt.datastore import erase as erasing

    with (
        open_vms(directory, keyless=True, but=name) as volume,
        logged(),
        advising(BusyError, r"\bits keys? ", _IN_USE),
        advising(KeyUnavailableError, "", _NO_KEY) if destroy_key else nullcontext(),
        reporting.told(reporting.vm(directory, name), ("name", name, None)),
        progress(f"erasing {name}", erasing.extent(volume, name)) as bar,
    ):
        wanted = volume.keys.erase_key if destroy_key else None
        return erasing.erase(volume, name, destroy=wanted, progress=bar.advance)


def _check_out(out: Path, place: Path) -> None:
    """A receipt can be written there, as far as that shows beforehand."""
    if os.path.lexists(out):
        raise click.BadParameter(f"{out} exists already", param_hint="--receipt")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise click.BadParameter(f"{out.parent} is no directory to write to", param_hint="--receipt")
    if out.parent.resolve().is_relative_to(place.resolve()):
        raise click.BadParameter(f"{out} would be erased, too", param_hint="--receipt")


def _write(out: Path, receipt: Receipt) -> None:
    import json

    import msgspec

    from ioflt.keys import files

    try:
        text = json.dumps(msgspec.to_builtins(receipt), indent=2)
        files.create(out, f"{text}\n".encode())
    except IofltError:
        emit(receipt, lambda: describe(receipt), as_json=True)  # the VM is gone: nothing tells it again
        raise


def _short(receipt: Receipt) -> Receipt:
    """Without what was warned of already."""
    return replace(receipt, keys=[replace(key, also_protects=[]) for key in receipt.keys], unknown=[])
