"""`ioflt backup prune`."""

from __future__ import annotations

from pathlib import Path

import click

from ioflt.cli import offers, reporting
from ioflt.cli.backup.destination import destination_argument, open_destination
from ioflt.cli.backup.signer import public_key, public_key_option
from ioflt.cli.backup.watching import progress_option, watched
from ioflt.cli.render import emit, json_option, say
from ioflt.cli.session import connect_keys

_COUNT = click.IntRange(min=0)


@click.command()
@destination_argument
@click.option("--vm", metavar="NAME", shell_complete=offers.backed_up, help="Only backups of this VM.")
@click.option("--keep-last", "last", type=_COUNT, default=0, metavar="N", help="Keep the newest N.")
@click.option("--keep-daily", "daily", type=_COUNT, default=0, metavar="N", help="The last one of N days.")
@click.option("--keep-weekly", "weekly", type=_COUNT, default=0, metavar="N", help="Of N weeks.")
@click.option("--keep-monthly", "monthly", type=_COUNT, default=0, metavar="N", help="Of N months.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@public_key_option
@progress_option
@json_option
def prune(
    destination: Path,
    vm: str | None,
    last: int,
    daily: int,
    weekly: int,
    monthly: int,
    dry_run: bool,
    key_file: Path | None,
    lines: bool,
    as_json: bool,
) -> None:
    """Remove points of DEST that nothing asks to keep; each that stays is whole afterwards.

    Of each VM the newest N stay, and the last one of each of the N newest days, weeks and months (UTC) that
    have any. A point that builds on one that goes is made anew first, of all that it needs; killed in
    between, everything is as it was or as it is to be. No key is needed for backups made with --ciphertext.

    What is made anew is signed anew, by this machine: only what it signed before, or whom --public-key names.
    """
    from ioflt.backup import prune as pruning
    from ioflt.backup.retention import Keep

    if not (last or daily or weekly or monthly):
        raise click.UsageError("say what to keep: --keep-last, --keep-daily, --keep-weekly, --keep-monthly")
    keep = Keep(last, daily, weekly, monthly)
    plans = []
    with open_destination(destination, read_only=dry_run) as found:
        part = "of ciphertext" if found.kind == "ciphertext" else ""
        for name in found.vms() if vm is None else [vm]:
            with found.shelf(name) as shelf:
                if dry_run:
                    plans.append(pruning.plan(shelf, keep))
                    continue
                with shelf.alone():
                    plan = pruning.plan(shelf, keep)
                    plans.append(plan)
                    if not plan.removed:
                        continue
                    about = reporting.datastore(destination)
                    gone = f"{shelf.path}: {', '.join(plan.removed)}"
                    with (
                        connect_keys() as keys,
                        reporting.told(about, ("backup", gone, None), part=part),
                        watched(f"pruning {name}", None, lines) as bar,
                    ):
                        pruning.prune(shelf, plan, keys, public_key(key_file), bar.advance)

    def text() -> None:
        for plan in plans:
            gone = f"{'would go' if dry_run else 'gone'}: {', '.join(plan.removed) or 'none'}"
            anew = f"; made anew: {', '.join(plan.merged)}" if plan.merged else ""
            say(f"{destination / plan.vm}: {len(plan.kept)} kept; {gone}{anew}")

    emit(plans, text, as_json)
