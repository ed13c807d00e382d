"""`ioflt recovery`, `ioflt header`, `ioflt vmx`: other ways to a VM's contents, and to VMware's programs."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from ioflt.cli import passphrase, reporting
from ioflt.cli.hints import advising, for_no_vm
from ioflt.cli.passphrase import passphrase_option
from ioflt.cli.places import is_datastore
from ioflt.cli.render import emit, json_option, progress, say, warn
from ioflt.cli.session import connect_keys, file_argument, home_argument, open_volume
from ioflt.errors import ExistsError, NotFoundError, UsageError

_target = click.argument("target", metavar="FILE|DIR/VM", type=click.Path(readable=False, path_type=Path))


@dataclass(frozen=True, slots=True)
class Slot:
    """A passphrase slot of a container."""

    file: str
    slot: int


@click.group()
def recovery() -> None:
    """Passphrases that open a VM's disks and files without any key provider, with stock cryptsetup.

    A file has room for three. A VMX has none: `ioflt vmx export` writes it under a passphrase.
    """


@recovery.command(short_help="Add a passphrase to a file, or to all files of a VM.")
@_target
@passphrase_option
@json_option
def add(target: Path, passphrase_file: str | None, as_json: bool) -> None:
    """Add a passphrase to a file, or to all files of a VM. Where it is already, nothing changes.

    To open with cryptsetup by the same F, write `cryptsetup open … < F`: to its --key-file a last newline is
    part of the passphrase.
    """
    from ioflt.datastore import reach

    paths = _containers(target)
    with (
        passphrase.ask(passphrase_file, "recovery passphrase", confirm=True) as secret,
        connect_keys() as keys,
        progress(f"adding to {target.name}", len(paths), files=True) as bar,
    ):
        slots = []
        for path in paths:  # the passphrase is stretched for each, which takes its time on purpose
            about, file = reporting.file(path)
            with reporting.told(about, (_slot_of(file), None, "passphrase"), keys=keys):
                slots.append(Slot(path, reach.add_slot(path, keys, secret)))
            bar.advance(1)
    emit(slots, lambda: _tell(slots, "opened by the passphrase"), as_json)


@recovery.command(short_help="Remove a passphrase from a file or a VM.")
@_target
@passphrase_option
@click.option("--slot", metavar="N", type=click.IntRange(0, 31), help="Remove slot N, whatever opens it.")
@click.option("--all", "every", is_flag=True, help="Remove all passphrases.")
@json_option
def remove(target: Path, passphrase_file: str | None, slot: int | None, every: bool, as_json: bool) -> None:
    """Remove a passphrase from a file, or from all files of a VM: the one given, or --slot, or --all.

    Key providers open the files as before. Whoever has a copy of a file from before still opens that copy.
    """
    from ioflt.datastore import reach
    from ioflt.datastore import recovery as ways

    if sum((passphrase_file is not None, slot is not None, every)) > 1:
        raise UsageError("--passphrase-file, --slot and --all exclude each other")
    paths = _containers(target)
    secret = None
    if slot is None and not every:
        secret = passphrase.ask(passphrase_file, "passphrase to remove")
    slots = []
    with progress(f"looking in {target.name}", len(paths), files=True) as bar:
        for path in paths:
            with reach.reading(path) as fd:
                chosen: tuple[int | None, ...] = ways.slots(fd)
                if secret is not None:
                    chosen = (ways.find_slot(fd, secret),)
                elif slot is not None:
                    chosen = (slot if slot in chosen else None,)
            slots += [Slot(path, number) for number in chosen if number is not None]
            bar.advance(1)
    if secret is not None:
        secret.wipe()
    if not slots:
        raise NotFoundError("no slot that this passphrase opens" if secret else "no such slot", file=target)
    with connect_keys() as keys:
        for one in slots:
            about, file = reporting.file(one.file)
            with reporting.told(about, (_slot_of(file), str(one.slot), None), keys=keys):
                reach.remove_slot(one.file, one.slot)
    emit(slots, lambda: _tell(slots, "removed"), as_json)


@recovery.command(short_help="Fill the holes of a thin disk.")
@file_argument
@json_option
def fill(file: Path, as_json: bool) -> None:
    """Write encrypted zeros into the holes of a thin disk: stock tools would read noise there.

    It then takes its full size on the datastore. Its time of modification stays.
    """
    from ioflt.datastore import reach

    path = reach.backing_path(file)
    if os.path.isdir(path):
        raise UsageError("is a directory; name a disk in it", file=file)
    if file.suffix.lower() == ".vmx":
        raise UsageError("a VMX has no holes", file=file)
    about, inside = reporting.file(path)
    with (
        connect_keys() as keys,
        reporting.told(about, ("fill", None, inside), keys=keys),
        progress(f"filling {file.name}", os.stat(path).st_size) as bar,
    ):
        size = reach.fill(path, keys, bar.advance)
    done = {"file": str(file), "size": size}
    emit(done, lambda: say(f"{file}: no holes left in {size} bytes"), as_json)


@click.group()
def header() -> None:
    """Backups of the headers of a VM's files: without its header a file is lost, whoever has the keys."""


@header.command(short_help="Write a VM's headers to a new file.")
@home_argument
@click.argument("out", metavar="OUT", type=click.Path(readable=False, path_type=Path))
@json_option
def backup(home: tuple[Path, str], out: Path, as_json: bool) -> None:
    """Write the headers of all files of a VM, and its record, to the new file OUT.

    It holds no data and opens nothing by itself. Back up again after adding files, passphrases or keys.
    """
    from ioflt.datastore import headers

    directory, name = _home(home)
    with (
        open_volume(directory) as volume,
        reporting.told(reporting.vm(directory, name), ("backup", None, os.path.abspath(out))),
        progress(f"reading headers of {name}", None, files=True) as bar,
    ):
        saved = headers.backup(volume, name, bar.advance)
        headers.write_file(out, saved)
    done = {"vm": str(directory / name), "out": str(out), "files": [one.path for one in saved.headers]}
    emit(done, lambda: say(f"{out}: headers of {len(saved.headers)} files"), as_json)


@header.command()
@click.argument("out", metavar="OUT", type=click.Path(readable=False, path_type=Path))
@home_argument
@json_option
def restore(out: Path, home: tuple[Path, str], as_json: bool) -> None:
    """Put the headers in OUT back into the files of a VM. Refused for other files and for new keys.

    Passphrases are then those of the backup. Lengths and data stay as they are.
    """
    from ioflt.datastore import headers

    directory, name = _home(home)
    saved = headers.read_file(out)
    with (
        open_volume(directory) as volume,
        reporting.told(reporting.vm(directory, name), ("restore", None, os.path.abspath(out))),
        progress(f"restoring headers of {name}", 2 * len(saved.headers), files=True) as bar,
    ):
        done = headers.restore(volume, name, saved, bar.advance)
    for path in done.missing:
        warn(f"{directory / name / path}: in the backup, but not there")
    record = " and its record" if done.record else ""
    emit(
        done,
        lambda: say(f"{directory / name}: headers of {len(done.restored)} files{record} restored"),
        as_json,
    )


@click.group()
def vmx() -> None:
    """VMX files under a passphrase, as VMware Workstation and Fusion read and write them.

    Their key derivation is weak: choose a long passphrase, and keep such files off the datastore.
    """


@vmx.command(name="export", short_help="Write a VM's VMX, sealed under a passphrase.")
@home_argument
@passphrase_option
@click.option(
    "--output",
    "-o",
    metavar="OUT",
    type=click.Path(readable=False, path_type=Path),
    help="A new file to write to.",
)
def export(home: tuple[Path, str], passphrase_file: str | None, output: Path | None) -> None:
    """Write a VM's VMX, sealed under a passphrase, to standard output or OUT."""
    from ioflt.datastore import exchange
    from ioflt.keys import files

    directory, name = _home(home)
    with (
        passphrase.ask(passphrase_file, "passphrase of the exported VMX", confirm=True) as secret,
        open_volume(directory, read_only=True) as volume,
        reporting.told(
            reporting.vm(directory, name),
            ("export", None, os.path.abspath(output) if output else "standard output"),
        ),
    ):
        text = exchange.export(volume, name, secret)
    if output is None:
        sys.stdout.buffer.write(text)
        return
    files.create(output, text)
    say(f"{output}: the VMX of {name} under the passphrase")


@vmx.command(name="import", short_help="Put a passphrase-sealed VMX into a VM.")
@file_argument
@home_argument
@passphrase_option
@click.option(
    "--force", is_flag=True, help="Replace the VM's VMX of that name; without one, put it beside its others."
)
@json_option
def import_(
    file: Path, home: tuple[Path, str], passphrase_file: str | None, force: bool, as_json: bool
) -> None:
    """Open a VMX that is sealed under a passphrase, and put it into a VM, stored as that stores its files."""
    from ioflt.datastore import exchange

    directory, name = _home(home)
    with (
        passphrase.ask(passphrase_file, f"passphrase of {file}") as secret,
        open_volume(directory) as volume,
        advising(
            ExistsError, "is there already", "give FILE the name of the VMX that it replaces, and --force"
        ),
        reporting.told(reporting.vm(directory, name), ("import", None, os.path.abspath(file))),
    ):
        stored = exchange.import_(volume, name, file, secret, force=force)
    done = {"vm": str(directory / name), "file": stored}
    emit(done, lambda: say(f"{directory / name / stored}: imported"), as_json)


def _containers(target: Path) -> list[str]:
    """The backing paths of the container, or of all of a home."""
    from ioflt.datastore import reach
    from ioflt.datastore import recovery as ways

    target.lstat()
    path = reach.backing_path(target)
    if target.suffix.lower() == ".vmx":
        raise UsageError("a VMX has no recovery slots", file=target)
    if os.path.isdir(path):
        directory, name = os.path.split(path)
        if is_datastore(path):
            raise UsageError("is a datastore; name a VM in it, or a file", file=target)
        advice = for_no_vm(directory, name)
        with (
            advising(NotFoundError, "no datastore here", advice),
            open_volume(Path(directory), read_only=True) as volume,
        ):
            found = [os.path.join(path, one) for one in reach.containers(volume.home(name))]
    else:
        found = [path]
    if not found:
        raise NotFoundError("no containers in it", file=target)
    for one in found:  # all are fit, before the first is changed
        with reach.reading(one) as fd:
            ways.slots(fd)
    return found


def _home(home: tuple[Path, str]) -> tuple[Path, str]:
    """The datastore and the home's name, of a home that may be named by a path under a mount."""
    from ioflt.datastore import reach

    path = Path(reach.backing_path(home[0] / home[1]))
    return path.parent, path.name


def _slot_of(file: str) -> str:
    """What events call the recovery slots of a file."""
    return f'config.recoverySlot("{file}")'


def _tell(slots: list[Slot], what: str) -> None:
    for one in slots:
        say(f"{one.file}: slot {one.slot} {what}")
