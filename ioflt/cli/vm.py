"""`ioflt vm`: the VMs of a datastore. Import and export are in `transfer`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ioflt.cli.lazy import Entry, LazyGroup, Section
from ioflt.cli.render import describe, emit, json_option, moment, progress, say, table, warn
from ioflt.cli.session import connect_keys, directory_argument, home_argument, logged
from ioflt.errors import KeyUnavailableError

if TYPE_CHECKING:
    from ioflt.datastore.volume import Volume

vm = LazyGroup(
    name="vm",
    help="The VMs of a datastore. They must be powered off to be encrypted or decrypted.",
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
def open_vms(directory: Path, *, read_only: bool = False, but: str | None = None) -> Iterator[Volume]:
    """The datastore at `directory`, what was interrupted in it finished first, except for `but`.

    `read_only`: to show what is there, also where the datastore's key cannot be had, with a warning.
    """
    from ioflt.datastore import resume
    from ioflt.datastore.volume import Volume

    def claimed(why: KeyUnavailableError) -> None:
        warn(f"{directory}: its key cannot be had, so this is what it claims: {why.message}")

    with connect_keys() as keys:
        finished: list[tuple[str, str]] = []
        with (
            suppress(KeyUnavailableError) if read_only else nullcontext(),
            Volume.open(directory, keys) as volume,
            progress("finishing what was interrupted", None) as bar,
        ):
            finished = resume.interrupted(volume, progress=bar.advance, but=but)
        for name, what in finished:
            say(f"{directory / name}: its interrupted {what} is finished now")
        with Volume.open(
            directory, keys, read_only=read_only, locked=claimed if read_only else None
        ) as volume:
            yield volume


@click.command(name="list")
@directory_argument
@json_option
def list_(directory: Path, as_json: bool) -> None:
    """List the VMs of the datastore DIR."""
    from ioflt.datastore import summary

    with open_vms(directory, read_only=True) as volume:
        homes = summary.homes(volume)

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

    emit(homes, text, as_json)


@click.command()
@home_argument
@json_option
def show(home: tuple[Path, str], as_json: bool) -> None:
    """Show one VM: what its record says, and its files.

    Of a VM that is locked also which of its keys is missing, at which provider, and since when as far as the
    key daemon knows.
    """
    import msgspec

    from ioflt.datastore import summary

    directory, name = home
    with open_vms(directory, read_only=True, but=name) as volume:
        found = summary.home(volume, name)
    shown = msgspec.to_builtins(found, enc_hook=str)
    for key in shown["missing"]:
        key["since"] = moment(key["since"])
    emit(shown, lambda: describe(shown), as_json)


@click.command()
@home_argument
@click.option("--thick", is_flag=True, help="Fill the holes of disks, so that no one sees what is unused.")
def encrypt(home: tuple[Path, str], thick: bool) -> None:
    """Encrypt the powered-off VM in place: each file anew beside the old, then in its stead.

    Run again after an interruption it goes on. It also takes back a decrypt that was interrupted.
    """
    from ioflt.datastore import lifecycle

    directory, name = home
    with (
        open_vms(directory, but=name) as volume,
        progress(f"encrypting {name}", total(volume, name)) as bar,
    ):
        lifecycle.encrypt(volume, name, thick=thick, progress=bar.advance)
    say(f"{directory / name}: encrypted")


@click.command()
@home_argument
def decrypt(home: tuple[Path, str]) -> None:
    """Decrypt the powered-off VM in place. This writes its plaintext to the datastore.

    Run again after an interruption it goes on; `ioflt vm encrypt` takes it back instead.
    """
    from ioflt.datastore import lifecycle

    directory, name = home
    with (
        open_vms(directory, but=name) as volume,
        progress(f"decrypting {name}", total(volume, name)) as bar,
    ):
        lifecycle.decrypt(volume, name, progress=bar.advance)
    say(f"{directory / name}: decrypted; whoever reads the datastore reads this VM")


@click.command()
@home_argument
@click.option("--clear", is_flag=True, help="Its files are clear, not encrypted.")
@click.option("--accept-rollback", is_flag=True, help="It is older than this host has seen it, and meant so.")
def register(home: tuple[Path, str], clear: bool, accept_rollback: bool) -> None:
    """Make a new record for a VM whose record is missing, foreign or damaged, or that was rolled back.

    Until then such a VM is read-only. Look at it first: whoever could write to the datastore could have put
    it there. The key of an encrypted VM is found from its files.
    """
    from ioflt.datastore import lifecycle

    directory, name = home
    with open_vms(directory, but=name) as volume, logged():
        strangers = lifecycle.register(volume, name, clear=clear, accept_rollback=accept_rollback)
    for path in strangers:
        warn(f"{directory / name / path}: not encrypted, so it cannot be read in this VM; move it away")
    say(f"{directory / name}: registered")


def total(volume: Volume, name: str) -> int:
    """Bytes that a conversion of the VM reads, about."""
    from ioflt.datastore import summary

    return sum(file.length or 0 for file in summary.home(volume, name).files)
