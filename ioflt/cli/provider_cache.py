"""`ioflt provider cache`: keys sealed to this machine, for a restart while the key servers are down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ioflt.cli.render import describe, emit, json_option, say
from ioflt.cli.session import connect_keys
from ioflt.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from ioflt.wire.keyd.replies import CacheStatus

#: As `wire.keyd.values.MAX_CACHE_DAYS`, which is not imported to show the help.
_MAX_DAYS = 365


@click.command(short_help="Keep its keys over a restart, sealed to this machine.")
@click.argument("name")
@click.option(
    "--days", type=click.IntRange(1, _MAX_DAYS), metavar="N", help="Seal keys; each is good for N days."
)
@click.option("--off", is_flag=True, help="Destroy the sealed keys, and seal no more.")
@json_option
def cache(name: str, days: int | None, off: bool, as_json: bool) -> None:
    """Seal the keys of the provider NAME to this machine, or show whether they are.

    Then a machine that was restarted opens its VMs although no key server answers. They are sealed by its TPM
    2.0 if it has one, else by systemd-creds, whose key is a file of this machine. A key is good for N days
    after its provider gave it last; while the servers answer, keyd asks them again in time.

    A key that the servers refuse is dropped, and `ioflt keyd lock` destroys all. Off by default.
    """
    if days is not None and off:
        raise UsageError("--days or --off?")
    with connect_keys() as keys:
        if days is not None or off:
            keys.set_key_cache(name, days)
        found = {provider.name: provider.cache for provider in keys.status().providers}
    if name not in found:
        raise NotFoundError(f"no provider {name} is configured here")
    status = found[name]

    def text() -> None:
        if days is not None and status is not None:
            many = "1 day" if days == 1 else f"{days} days"
            say(f"the keys of the provider {name} are sealed to this machine by {status.by}, for {many}")
        elif off:
            say(f"no keys of the provider {name} are sealed to this machine")
        else:
            _show(name, status)

    emit(status, text, as_json)


def _show(name: str, status: CacheStatus | None) -> None:
    if status is None:
        print(f"no keys of the provider {name} are sealed to this machine")
    else:
        describe(
            {
                "days": status.days or None,
                "sealed by": status.by or None,
                "sealed keys": status.keys,
                "problem": status.reason or None,
            }
        )
