"""`ioflt vm`: the VMs of a datastore. Import and export are in `transfer`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ioflt.cli.hints import advising
from ioflt.cli.lazy import Entry, LazyGroup, Section
from ioflt.cli.render import describe, emit, json_option, moment, progress, say, table, warn
from ioflt.cli.reporting import finds_told
from ioflt.cli.session import (
    connect_keys,
    directory_argument,
    home_argument,
    logged,
    warn_unknown_policy,
    warning_of_record,
)
from ioflt.errors import IofltError, UsageError

if TYPE_CHECKING:
    from ioflt.datastore.summary import HomeSummary
    from ioflt.datastore.volume import Volume

_Command = TypeVar("_Command", bound=Callable[..., object])

vm = LazyGroup(
    name="vm",
    help="The VMs of a datastore. A VM must be powered off, but for list, show and recrypt without --deep.",
    sections=(
        Section(
            "Look",
            (
                Entry("list", __name__, "list_", "The VMs of a datastore."),
                Entry("show", __name__, "show", "One VM: its record and its files."),
            ),
        ),
        Section(
            "Convert",
            (
                Entry("encrypt", __name__, "encrypt", "Encrypt a VM in place, file by file."),
                Entry("decrypt", __name__, "decrypt", "Decrypt a VM in place, file by file."),
                Entry("recrypt", "ioflt.cli.recrypt", "recrypt", "Change the keys of a VM."),
                Entry("erase", "ioflt.cli.erase", "erase", "Make a VM unreadable for good, and remove it."),
                Entry("mark", __name__, "mark", "Mark the VM from which the keys come: it is not encrypted."),
                Entry("register", __name__, "register", "Vouch for a VM whose record is missing or foreign."),
            ),
        ),
        Section(
            "Exchange",
            (
                Entry("clone", "ioflt.cli.transfer", "clone", "Copy a VM, with keys of its own."),
                Entry("move", "ioflt.cli.transfer", "move", "Rename a VM, or move it to another datastore."),
                Entry("import", "ioflt.cli.transfer", "import_", "Bring in an OVA, an OVF or a directory."),
                Entry("export", "ioflt.cli.transfer", "export", "Write a VM out, decrypted."),
            ),
        ),
    ),
)


@contextmanager
def open_vms(
    directory: Path, *, read_only: bool = False, keyless: bool = False, but: str | None = None
) -> Iterator[Volume]:
    """The datastore at `directory`, what was interrupted in it finished first, except for `but`.

    `keyless`: also where the datastore's own key cannot be had, with a warning.
    """
    from ioflt.datastore import resume
    from ioflt.datastore.volume import Volume

    locked = warning_of_record(directory) if keyless else None
    with connect_keys() as keys, finds_told(keys, directory):
        with (
            Volume.open(directory, keys, locked=locked) as volume,
            progress("finishing what was interrupted", None) as bar,
        ):
            finished = resume.interrupted(volume, progress=bar.advance, but=but)
        for name, what in finished:
            say(f"{directory / name}: its interrupted {what} is finished now")
        with Volume.open(
            directory, keys, read_only=read_only, locked=(lambda *_: None) if keyless else None
        ) as volume:
            yield volume


def _disk_option(help_text: str) -> Callable[[_Command], _Command]:
    def normal(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
        return None if value is None else os.path.normpath(value)

    return click.option(
        "--disk", metavar="FILE", callback=normal, help=f"{help_text} FILE: its path in the VM."
    )


@contextmanager
def _advising_disk(place: Path, disk: str | None) -> Iterator[None]:
    """What the errors of a conversion of one disk do not know."""
    vm = shlex.quote(str(place))
    with (
        advising(UsageError, "an encrypted disk is not allowed", f"encrypt the VM: ioflt vm encrypt {vm}"),
        advising(UsageError, "no disk$|there is no file", f"see its files: ioflt vm show {vm}"),
    ):
        yield


def force_option(command: _Command) -> _Command:
    """Add `--force`, of commands that encrypt a VM."""
    return click.option(
        "--force", is_flag=True, help="Although it is marked as the VM from which the keys come."
    )(command)


@click.command(name="list")
@directory_argument
@json_option
def list_(directory: Path, as_json: bool) -> None:
    """List the VMs of the datastore DIR."""
    from ioflt.datastore import summary

    with (
        open_vms(directory, read_only=True, keyless=True) as volume,
        progress(f"reading {directory}", None, files=True) as bar,
    ):
        homes = summary.homes(volume, bar.advance)

    def text() -> None:
        table(
            ("VM", "STATE", "FILES", "KEYS FROM", "PROBLEM"),
            [
                (
                    home.name,
                    home.state,
                    len(home.files),
                    ", ".join(dict.fromkeys(key.partition(":")[0] for key in home.keys)),
                    home.problem or "",
                )
                for home in homes
            ],
        )

    emit([shown(home) for home in homes], text, as_json)


@click.command()
@home_argument
@json_option
def show(home: tuple[Path, str], as_json: bool) -> None:
    """Show one VM: what its record says, and its files.

    Of a VM that is locked also which of its keys is missing, at which provider, and since when as far as the
    key daemon knows.
    """
    from ioflt.datastore import summary

    directory, name = home
    with open_vms(directory, read_only=True, keyless=True, but=name) as volume:
        found = shown(summary.home(volume, name))
        warn_unknown_policy(volume, directory / name, found["policy"])
    emit(found, lambda: describe(found), as_json)


def shown(home: HomeSummary) -> dict[str, Any]:
    """A VM as `vm show` has it, times as text."""
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(home, enc_hook=str)
    for key in found["missing"]:
        key["since"] = moment(key["since"])
    return found


@click.command()
@home_argument
@click.option("--thick", is_flag=True, help="Fill the holes of disks, so that no one sees what is unused.")
@click.option("--integrity", is_flag=True, help="With tags, by which changed data is found. Slower to write.")
@_disk_option("Only this disk of an encrypted VM, which is clear.")
@force_option
@json_option
def encrypt(
    home: tuple[Path, str], thick: bool, integrity: bool, disk: str | None, force: bool, as_json: bool
) -> None:
    """Encrypt the powered-off VM in place: each file anew beside the old, then in its stead.

    It gets the datastore's storage policy, if that encrypts, else the VM Encryption Policy. A VM with a raw
    device (RDM) or a multi-writer disk is not encrypted.

    Run again after an interruption it goes on. It also takes back a decrypt that was interrupted.
    """
    from ioflt.datastore import lifecycle, summary

    if integrity and disk is not None:
        raise click.UsageError("--integrity is of a whole VM; with --disk the disk is as its VM")
    directory, name = home
    place = directory / name
    with (
        _advising_disk(place, disk),
        open_vms(directory, but=name) as volume,
        progress(f"encrypting {disk or name}", total(volume, name, disk)) as bar,
    ):
        files = lifecycle.encrypt(
            volume,
            name,
            disk=disk,
            thick=thick,
            integrity=integrity,
            force=force,
            progress=bar.advance,
        )
        now = shown(summary.home(volume, name))
    what = f"{', '.join(files)} encrypted" if files else "encrypted"
    emit(now, lambda: say(f"{place}: {what}"), as_json)


@click.command()
@home_argument
@_disk_option("Only this disk, with its snapshots; the VM stays encrypted.")
@json_option
def decrypt(home: tuple[Path, str], disk: str | None, as_json: bool) -> None:
    """Decrypt the powered-off VM in place. This writes its plaintext to the datastore.

    Run again after an interruption it goes on; `ioflt vm encrypt` takes it back instead.
    """
    from ioflt.datastore import lifecycle, summary

    directory, name = home
    place = directory / name
    with (
        _advising_disk(place, disk),
        open_vms(directory, but=name) as volume,
        progress(f"decrypting {disk or name}", total(volume, name, disk)) as bar,
    ):
        files = lifecycle.decrypt(volume, name, disk=disk, progress=bar.advance)
        now = shown(summary.home(volume, name))
    what = f"{', '.join(files)} decrypted" if files else "decrypted"
    read = f"whoever reads the datastore reads this {'disk' if files else 'VM'}"
    emit(now, lambda: say(f"{place}: {what}; {read}"), as_json)


@click.command()
@home_argument
@click.option("--clear", is_flag=True, help="Its files are clear, not encrypted.")
@click.option("--accept-rollback", is_flag=True, help="It is older than this host has seen it, and meant so.")
@json_option
def register(home: tuple[Path, str], clear: bool, accept_rollback: bool, as_json: bool) -> None:
    """Make a new record for a VM whose record is missing, foreign or damaged, or that was rolled back.

    Until then such a VM is read-only. Look at it first: whoever could write to the datastore could have put
    it there. The key of an encrypted VM is found from its files.
    """
    from ioflt.datastore import lifecycle, summary

    directory, name = home
    with open_vms(directory, but=name) as volume, logged():
        strangers = lifecycle.register(volume, name, clear=clear, accept_rollback=accept_rollback)
        now = shown(summary.home(volume, name))
    for path in strangers:
        warn(f"{directory / name / path}: not encrypted, so it cannot be read in this VM; move it away")
    emit(now, lambda: say(f"{directory / name}: registered"), as_json)


@click.command(short_help="Mark the VM from which the keys come.")
@home_argument
@click.option("--holds-keys/--no-keys", "holds", default=None, help="Mark it, or take the mark away.")
@json_option
def mark(home: tuple[Path, str], holds: bool | None, as_json: bool) -> None:
    """Mark the VM that this machine's keys come from: that of a key server, or of what controls the VMs.

    If it was encrypted nobody could start it without the keys that it has. A marked VM is not encrypted but
    with --force. The mark is this machine's: another one may well use the VM's keys. Without an option, show
    whether it is marked.
    """
    from ioflt.datastore import regular
    from ioflt.errors import ReadOnlyError

    directory, name = home
    with open_vms(directory, read_only=True) as volume:
        found = volume.home(name)
        with regular.named(found):
            standing = found.standing()
            if standing.record is None:
                raise ReadOnlyError(standing.problem or "it has no record")
        home_id = standing.record.home_id
        if holds is not None:
            volume.keys.mark_key_holder(home_id, holds=holds)
        marked = home_id in volume.keys.key_holders()
    what = "marked: the keys come from it" if marked else "not marked"
    emit({"vm": name, "holds_keys": marked}, lambda: say(f"{directory / name}: {what}"), as_json)


def total(volume: Volume, name: str, disk: str | None = None) -> int:
    """Bytes that a conversion of the VM, or of the disk, reads, about."""
    from ioflt.datastore import diskfiles, summary

    lengths = {file.path: file.length or 0 for file in summary.home(volume, name).files}
    if disk is None:
        return sum(lengths.values())
    try:
        return sum(
            lengths[entry.path] for entry in diskfiles.of_disk(volume.home(name), disk, lambda _: True)
        )
    except IofltError:  # the conversion tells what is wrong
        return 0
