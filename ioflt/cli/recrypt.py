"""`ioflt vm recrypt`: other keys for a VM, around its data keys or, `--deep`, in their stead."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ioflt.cli import passphrase
from ioflt.cli.hints import advising_key
from ioflt.cli.render import emit, json_option, progress, say, size
from ioflt.cli.session import home_argument, logged
from ioflt.cli.vm import open_vms, shown, total

if TYPE_CHECKING:
    from ioflt.format.record.record import Mode


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What a deep recrypt did. `seconds` and `rate` (bytes a second) are of this run, `bytes` it rewrote."""

    vm: str
    mode: str
    bytes: int
    seconds: float
    rate: int


@click.command()
@home_argument
@click.option("--key", "key_id", metavar="ID", help="This key, not a new one.")
@click.option("--provider", metavar="NAME", help="A new key of this provider, or its key ID.")
@click.option("--add-provider", "add", metavar="NAME", help="A key of this provider besides those it has.")
@click.option("--deep", is_flag=True, help="New data keys, all data rewritten; the VM must be powered off.")
@click.option(
    "--mode",
    type=click.Choice(["copy", "journal"]),
    help="With --deep. copy: each file anew beside the old one; journal: in place, for which no room is"
    " needed. Without it: copy where there is room for the longest file.",
)
@click.option(
    "--recovery-passphrase-file",
    metavar="F",
    help="With --deep: files with recovery slots get one, for the passphrase in F (- is standard input).",
)
@click.option("--drop-recovery", is_flag=True, help="With --deep: remove all recovery slots.")
@click.option(
    "--integrity", is_flag=True, help="With --deep: from now on with tags, by which changes are found."
)
@json_option
def recrypt(
    home: tuple[Path, str],
    key_id: str | None,
    provider: str | None,
    add: str | None,
    deep: bool,
    mode: Mode | None,
    recovery_passphrase_file: str | None,
    drop_recovery: bool,
    integrity: bool,
    as_json: bool,
) -> None:
    """Put other keys around the data keys of the encrypted VM; its data stays as it is (shallow recrypt).

    Without options each of its keys gives way to a new one of the same provider. The VM may run meanwhile.
    Run again after an interruption it goes on; until then the VM opens by the old keys or the new ones.

    With --deep all files of the powered-off VM, snapshots included, get new data keys, and their data is
    rewritten. Copies of the VM from before still open as they did, also by the old recovery passphrases; what
    is written from now on does not. After an interruption, even a power cut, this command goes on, or the
    next one on the datastore, or the next mount; until then nobody opens a file that is rewritten in place.
    Where it was begun with --recovery-passphrase-file only this command goes on, told the passphrase again. A
    raw copy of a VM becomes a VM of its own.
    """
    shallow = (key_id, provider, add)
    if deep and any(option is not None for option in shallow):
        raise click.UsageError("--deep keeps the keys around the data keys: change those before or after")
    if not deep and (mode is not None or recovery_passphrase_file is not None or drop_recovery):
        raise click.UsageError(
            "--mode, --recovery-passphrase-file and --drop-recovery go with --deep; without it slots stay"
        )
    if not deep and integrity:
        raise click.UsageError("--integrity goes with --deep: data keys without tags never get any")
    if drop_recovery and recovery_passphrase_file is not None:
        raise click.UsageError("--recovery-passphrase-file and --drop-recovery exclude each other")
    if add is not None and (key_id is not None or provider is not None):
        raise click.UsageError("--add-provider goes with neither --key nor --provider")
    if deep:
        _deep(home, mode, recovery_passphrase_file, drop_recovery, integrity, as_json)
    else:
        _shallow(home, key_id, provider, add, as_json)
    say("header backups of before are of no use any more: ioflt header backup DIR/VM OUT")


def _shallow(
    home: tuple[Path, str], key_id: str | None, provider: str | None, add: str | None, as_json: bool
) -> None:
    from ioflt.datastore import recrypt as shallow
    from ioflt.datastore import summary

    directory, name = home
    with advising_key(key_id, directory), open_vms(directory, but=name) as volume:
        files = shallow.files(volume, name)
        with logged(), progress(f"recrypting {name}", files, files=True) as bar:
            shallow.recrypt(volume, name, key_id=key_id, provider=provider, add=add, progress=bar.advance)
        done = summary.home(volume, name)
    opens = " or ".join(done.keys)
    emit(shown(done), lambda: say(f"{directory / name}: recrypted, opens by {opens}"), as_json)


def _deep(
    home: tuple[Path, str],
    mode: Mode | None,
    recovery: str | None,
    drop: bool,
    integrity: bool,
    as_json: bool,
) -> None:
    from ioflt.datastore.deep import home as deep
    from ioflt.datastore.deep.home import OldWays

    directory, name = home
    done = 0
    with ExitStack() as stack:
        secret = None
        if recovery is not None:
            secret = stack.enter_context(passphrase.ask(recovery, "recovery passphrase"))
        volume = stack.enter_context(open_vms(directory, but=name))
        bar = stack.enter_context(progress(f"recrypting {name}", total(volume, name)))

        def advance(count: int) -> None:
            nonlocal done
            done += count
            bar.advance(count)

        begun = time.monotonic()
        ways = OldWays(secret, drop)
        used = deep.recrypt(volume, name, mode=mode, ways=ways, integrity=integrity, progress=advance)
        seconds = time.monotonic() - begun
    told = Rewritten(str(directory / name), used, done, round(seconds, 3), int(done / max(seconds, 1e-6)))

    def text() -> None:
        say(f"{told.vm}: new data keys; {size(told.bytes)} rewritten by {told.mode}, {size(told.rate)}/s")

    emit(told, text, as_json)
