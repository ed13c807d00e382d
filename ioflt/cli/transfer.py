"""`ioflt vm import`, `export`, `clone` and `move`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ioflt.cli import offers, reporting
from ioflt.cli.hints import advising, advising_key
from ioflt.cli.render import describe, emit, json_option, progress, say
from ioflt.cli.session import file_argument, home_argument, open_volume, vm_argument
from ioflt.errors import CorruptDataError, ExistsError, UnsupportedError

if TYPE_CHECKING:
    from ioflt.datastore.volume import Volume
    from ioflt.policy.model import StoragePolicy

_Command = TypeVar("_Command", bound=Callable[..., object])

_BAD_PACKAGE = "nothing was changed; compare it with the original, or have it exported again"


def _policy_option(whose: str) -> Callable[[_Command], _Command]:
    """Add `--policy`."""
    return click.option(
        "--policy", metavar="NAME", shell_complete=offers.policies, help=f"The storage policy of {whose}."
    )


_integrity_option = click.option(
    "--integrity", is_flag=True, help="With tags, by which changed data is found, whatever its policy says."
)


def _policy_of(volume: Volume, name: str | None) -> StoragePolicy | None:
    """The policy that was asked for."""
    from ioflt.datastore import policies

    return None if name is None else policies.to_assign(volume.keys, name)


@click.command(name="import")
@file_argument
@click.argument("directory", metavar="DATASTORE", type=click.Path(readable=False, path_type=Path))
@click.option("--as", "name", metavar="NAME", help="The new VM's name; else that of the file or directory.")
@_policy_option("the new VM")
@_integrity_option
@json_option
def import_(
    file: Path, directory: Path, name: str | None, policy: str | None, integrity: bool, as_json: bool
) -> None:
    """Bring a VM into DATASTORE: an OVA, an .ovf with its files beside it, or a directory with a VM.

    The new VM is encrypted, or clear, as its storage policy says, else the datastore's; nothing is written
    anywhere else.
    A disk of an OVA becomes a thin flat one. If the import fails, what it made is removed.
    """
    from ioflt.datastore import transfer

    with (
        open_volume(directory) as volume,
        advising(ExistsError, "", "give it another name: --as NAME"),
        advising(CorruptDataError, "", _BAD_PACKAGE),
    ):
        given = _policy_of(volume, policy)
        about = reporting.datastore(directory)
        told = reporting.told(
            about,
            ("import", None, os.path.abspath(file)),
            ("name", None, name),
            part="" if _encrypts(volume, given) else "a clear VM",
        )
        if file.is_dir():
            with told, progress(f"importing {file.name}", None) as bar:
                made = transfer.import_directory(
                    volume, file, name, bar.advance, policy=given, integrity=integrity
                )
        else:
            whole = file.stat().st_size if file.suffix.lower() == ".ova" else None
            with told, progress(f"importing {file.name}", whole) as bar:
                made = transfer.import_package(
                    volume, file, name, bar.advance, policy=given, integrity=integrity
                )
    for left in made.left_out:
        say(f"{left}: left out, it is no disk")
    emit(made, lambda: describe(made), as_json)


@click.command()
@home_argument
@click.argument("out", metavar="OUT", type=click.Path(readable=False, path_type=Path))
@json_option
def export(home: tuple[Path, str], out: Path, as_json: bool) -> None:
    """Write the powered-off VM to OUT, decrypted: an OVA if OUT ends in .ova, else a new directory.

    An OVA has the VM's hardware and disks, for other hypervisors. A directory has all files as they are,
    snapshots included. OUT must not be there yet, nor lie in the datastore.
    """
    from ioflt.datastore import transfer

    directory, name = home
    write = transfer.export_ova if out.suffix.lower() == ".ova" else transfer.export_directory
    everything = f"ioflt vm export {shlex.quote(str(directory / name))} OUTDIR"
    with (
        advising(UnsupportedError, "has a parent", f"export all of it, to a directory: {everything}"),
        open_volume(directory, read_only=True) as volume,
        reporting.told(reporting.vm(directory, name), ("export", None, os.path.abspath(out))),
        progress(f"exporting {name}", None) as bar,
    ):
        made = write(volume, name, out, bar.advance)

    def text() -> None:
        say(f"{out}: written; the export is not encrypted")
        describe(made)

    emit(made, text, as_json)


@click.command()
@vm_argument("source", "SRC")
@vm_argument("target", "DST")
@click.option("--provider", metavar="NAME", help="Whose key the clone gets; else that of DST's datastore.")
@click.option("--same-key", is_flag=True, help="Share all keys with SRC; quick where files can share blocks.")
@_policy_option("the clone")
@_integrity_option
@json_option
def clone(
    source: tuple[Path, str],
    target: tuple[Path, str],
    provider: str | None,
    same_key: bool,
    policy: str | None,
    integrity: bool,
    as_json: bool,
) -> None:
    """Copy the powered-off VM SRC to DST, both DIR/VM, with data keys of its own.

    A clone of an encrypted VM has its storage policy, one of a clear VM that of DST's datastore. With
    --policy it has that: a clear VM is encrypted, an encrypted one decrypted, on the way. With --same-key the
    stored files are copied as they are: whoever sees both VMs sees which of their blocks are equal.
    """
    from ioflt.datastore import clone as clones

    if same_key and provider is not None:
        raise click.UsageError("--same-key and --provider exclude each other")
    with _two_volumes(source[0], target[0]) as (old, new):
        given = _policy_of(new, policy)
        about = reporting.vm(*source)
        encrypts = _encrypts(new, given) if about.clear or given is not None else True
        part = ("encrypt" if encrypts else "") if about.clear else ("" if encrypts else "decrypt")
        clone_to = os.path.abspath(target[0] / target[1])
        with (
            reporting.told(about, ("clone", None, clone_to), part=part),
            progress(f"cloning {source[1]}", None) as bar,
        ):
            made = clones.clone(
                old,
                source[1],
                new,
                target[1],
                provider=provider,
                same_key=same_key,
                policy=given,
                integrity=integrity,
                progress=bar.advance,
            )

    def text() -> None:
        say(f"{target[0] / target[1]}: cloned")
        describe(made)

    emit(made, text, as_json)


@click.command()
@vm_argument("source", "SRC")
@vm_argument("target", "DST")
@click.option("--key", "key_id", metavar="ID", help="It gets this key, not a new one.")
@click.option("--provider", metavar="NAME", help="It gets a new key of this provider, or its key ID.")
@json_option
def move(
    source: tuple[Path, str],
    target: tuple[Path, str],
    key_id: str | None,
    provider: str | None,
    as_json: bool,
) -> None:
    """Rename the powered-off VM SRC to DST, both DIR/VM, or move it into another datastore.

    On one file system an encrypted VM is renamed; it keeps its keys, whichever provider DST's datastore has,
    unless another key is asked for: then it gets that first, as by `ioflt vm recrypt`. Across file systems,
    and where it was clear, it is copied with new data keys, and a new key of DST's datastore's provider
    unless another one is asked for; then SRC is removed. If that is interrupted at its end, SRC takes no
    writes until the next command on its datastore removes it, or takes the move back.
    """
    from ioflt.cli.vm import shown
    from ioflt.datastore import move as moves
    from ioflt.datastore import summary

    with (
        advising_key(key_id, source[0]),
        _two_volumes(source[0], target[0]) as (old, new),
        _move_told(source, target, same=old is new, rekeys=key_id is not None or provider is not None),
        progress(f"moving {source[1]}", None) as bar,
    ):
        options = {"key_id": key_id, "provider": provider}
        moves.move(old, source[1], new, target[1], **options, progress=bar.advance)
        now = shown(summary.home(new, target[1]))
    emit(now, lambda: say(f"{target[0] / target[1]}: moved"), as_json)


def _move_told(
    source: tuple[Path, str], target: tuple[Path, str], *, same: bool, rekeys: bool
) -> AbstractContextManager[None]:
    about = reporting.vm(*source)
    if about.clear:
        part = "rename a clear VM" if same else "a clear VM to another datastore"
    else:
        part = "rename" if same and not rekeys else "--key" if rekeys else ""
    old, new = (os.path.abspath(directory / name) for directory, name in (source, target))
    return reporting.told(about, ("path", old, new), part=part)


def _encrypts(volume: Volume, policy: StoragePolicy | None) -> bool:
    """Whether what is clear comes to be encrypted in it, by that policy or the datastore's."""
    from ioflt.types import HomeState

    return policy.encrypts if policy is not None else volume.claimed.default is HomeState.ENCRYPTED


@contextmanager
def _two_volumes(source: Path, target: Path) -> Iterator[tuple[Volume, Volume]]:
    """Both datastores; twice the same object when they are one."""
    from ioflt.cli.vm import open_vms

    with open_vms(source) as old:
        if target.exists() and source.samefile(target):
            yield old, old
            return
        with open_vms(target) as new:
            yield old, new
