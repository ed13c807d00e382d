"""`ioflt backup run`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ioflt.cli import reporting
from ioflt.cli.backup.destination import destination_argument, making_destination
from ioflt.cli.backup.watching import progress_option, watched
from ioflt.cli.disk_advice import NO_QEMU
from ioflt.cli.hints import advising
from ioflt.cli.render import emit, json_option, say, size, warn
from ioflt.cli.session import connect_keys, home_argument, open_volume
from ioflt.errors import PeerError, UsageError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ioflt.backup.repository import Repository
    from ioflt.backup.run import Wanted
    from ioflt.datastore.volume import Volume
    from ioflt.format.manifest.model import Kind, Manifest
    from ioflt.keys.client import KeyClient
    from ioflt.types import KeyRef

#: Those of `ioflt.backup.transports`, which are not loaded for a help text; hotadd says what to do instead.
MODES: Final = ("file", "nbd", "nbdssl", "hotadd", "san")

#: Whole, as what is relative is taken for a file of the VM where it is told of.
_SOCKET = click.Path(readable=False, resolve_path=True, path_type=Path)


@click.command()
@home_argument
@destination_argument
@click.option("--incremental", is_flag=True, help="Only what changed since the newest backup of it in DEST.")
@click.option(
    "--transport", default="file", show_default=True, type=click.Choice(MODES), help="How disks are read."
)
@click.option("--ciphertext", is_flag=True, help="The stored files as they are. Needs no key.")
@click.option("--clear", is_flag=True, help="DEST is not encrypted: everybody who has it reads the VM.")
@click.option("--qmp", metavar="SOCKET", type=_SOCKET, help="The VM runs: the monitor of its QEMU.")
@click.option("--guest-agent", metavar="SOCKET", type=_SOCKET, help="And the agent in its guest.")
@progress_option
@json_option
def run(
    home: tuple[Path, str],
    destination: Path,
    incremental: bool,
    transport: str,
    ciphertext: bool,
    clear: bool,
    qmp: Path | None,
    guest_agent: Path | None,
    lines: bool,
    as_json: bool,
) -> None:
    """Back up the VM to DEST: a new point in time, with its disks, all other files, and a signed manifest.

    DEST is a datastore of its own, and is made if it is not there; what is in it is encrypted by its own
    keys, each VM's by another. Disks are qcow2 images; an increment builds on the point before, as QEMU's
    images do: look at them by `ioflt backup mount`.

    With --ciphertext DEST holds containers as they are stored: who makes, verifies, copies or removes such
    backups needs no privilege for keys, and cannot read them.

    With --qmp the VM may run in QEMU, its disks open in a mount of DIR: they are backed up as they are at
    one moment, and the guest goes on. With --guest-agent its file systems are frozen for that moment;
    without, they are as after a crash.

    What is written is read back. If anything goes wrong, there is no new point.
    """
    from ioflt.backup import run as running
    from ioflt.backup import signals

    if ciphertext and (clear or transport != "file"):
        raise click.UsageError("--ciphertext goes with neither --clear nor --transport")
    if guest_agent is not None and qmp is None:
        raise click.UsageError("--guest-agent goes with --qmp")
    if qmp is not None and (ciphertext or transport != "file"):
        raise click.UsageError("--qmp goes with neither --ciphertext nor --transport")
    directory, name = home
    wanted = running.Wanted(incremental, transport, qmp, guest_agent)
    with (
        signals.heard(),  # what QEMU was told is taken back first
        advising(PeerError, "^nobody listens", NO_QEMU),
        connect_keys() as keys,
        open_volume(directory, read_only=True, keyless=ciphertext) as volume,
        _asked(keys, volume, name, destination, wanted),
        _destination(
            destination, "ciphertext" if ciphertext else "clear" if clear else "encrypted"
        ) as repository,
        watched(f"backing up {name}", _amount(volume, name, incremental=incremental), lines) as bar,
    ):

        def told(point: str, keys: tuple[KeyRef, ...]) -> AbstractContextManager[None]:
            changes = [("backup", None, os.path.join(os.path.abspath(destination), name, point))]
            if keys:
                changes.append(("backup.keyId", None, ", ".join(map(str, keys))))
            return reporting.told(reporting.vm(directory, name), *changes, part="--clear" if clear else "")

        made = running.run(volume, name, repository, wanted, keys, told, bar.advance, keys.manifest_key())
    shown = summary(made)

    def text() -> None:
        kind = "full" if made.full else "an increment"
        say(f"{destination / name}: {made.point}, {kind}, {size(made.stored)}, {made.consistency}")
        for note in made.notes:
            say(note)

    emit(shown, text, as_json)


@contextmanager
def _asked(keys: KeyClient, volume: Volume, name: str, destination: Path, wanted: Wanted) -> Iterator[None]:
    """Nothing is made for a backup that is refused. Raises as `running.ask`."""
    from ioflt.backup import run as running

    running.ask(volume, name, destination, wanted, keys)
    yield


@contextmanager
def _destination(path: Path, kind: Kind) -> Iterator[Repository]:
    """Made if it is not there. Raises UsageError for one of another kind."""
    with making_destination(path, ciphertext=kind == "ciphertext", clear=kind == "clear") as found:
        if found.kind != kind:
            option = f"without --{kind}" if found.kind == "encrypted" else f"--{found.kind}"
            raise UsageError(f"takes {found.kind} backups: {option}, or another DEST", file=path)
        if kind == "clear":
            warn(f"{path}: not encrypted; everybody who has it reads what it holds")
        yield found


def summary(made: Manifest) -> dict[str, object]:
    """What `--json` prints of a point."""
    return {
        "vm": made.vm,
        "point": made.point,
        "kind": made.kind,
        "full": made.full,
        "depends": sorted(made.parents),
        "size": made.stored,
        "consistency": made.consistency,
        "transport": made.transport,
        "notes": list(made.notes),
    }


def _amount(volume: Volume, name: str, *, incremental: bool) -> int | None:
    """Bytes that are read and read back; None where it is not known before."""
    from ioflt.datastore import regular

    if incremental:
        return None
    home = volume.home(name)
    with regular.named(home):
        return (
            sum(min(each.info.st_blocks * 512, each.info.st_size) for each in regular.regular_files(home)) * 2
        )
